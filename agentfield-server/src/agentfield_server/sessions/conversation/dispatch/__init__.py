"""Passes inputs of the machine to the part that they concern.

In: commands of the handler (`handler_commands`), events of the provider (`provider_events`). Out: calls of the parts.
"""
