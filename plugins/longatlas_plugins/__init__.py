"""The built-in methods: a folder per taxonomy family, in it a folder per method.

In a method's folder `__init__.py` is the card, `reference.py` its definition in plain steps, `fast.py` the impl
"torch" and `kernels/` the impl "triton"; `operation.py` chooses between them and `mixer.py` fills the slot.
"""
