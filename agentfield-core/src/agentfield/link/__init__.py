"""The node's end of the link: a book of what is owed (sans-I/O), a socket that carries it, the work it asks for."""

from __future__ import annotations

from agentfield.link.node import Handler, NodeLink, SessionEntry, Watcher

__all__ = ["Handler", "NodeLink", "SessionEntry", "Watcher"]
