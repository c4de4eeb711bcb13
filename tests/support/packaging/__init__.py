"""Wheels in clean environments, and third-party plugins that are installed for one process."""
