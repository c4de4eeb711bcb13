"""Callers of one transport: `telephone` is a telephone network that plays a recorded call."""
