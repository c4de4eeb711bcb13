"""Nodes and control planes as processes.

`event_loop` runs them in the event loop that the settings name, `node_process` handles the signals of a node and drains it.
"""
