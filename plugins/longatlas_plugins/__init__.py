"""The built-in methods: a folder per taxonomy family, a folder per method."""
