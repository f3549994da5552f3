"""Quality tasks."""
