"""Ports of the hub: what it needs of the engine and of the sessions, which are layers above it."""

from __future__ import annotations

from typing import Protocol

from agentfield.wire.frames import Accepted, Call, Progress, Result, SessionCommand, SessionDone, Welcome
from agentfield_server.nodes.linked_node import LinkedNode

__all__ = ["EnginePort", "SessionPort"]


class EnginePort(Protocol):
    """The engine as the hub sees it."""

    async def reconcile(self, link: LinkedNode) -> Welcome:
        """Compare the attempts that a node reports with the store; called before the link gets any work."""

    async def node_linked(self, link: LinkedNode) -> None:
        """Handle a new link; must return at once."""

    async def node_lost(self, link: LinkedNode) -> None:
        """Handle a link that ended and that no newer link of the instance has replaced."""

    async def accepted(self, link: LinkedNode, frame: Accepted) -> None:
        """Record that a function was entered."""

    async def result(self, link: LinkedNode, frame: Result, *, entered: bool) -> None:
        """Record the result of an attempt; `entered` says that `accepted` is not called for it.

        The call is never cancelled, even if the link ends.
        """

    async def progress(self, link: LinkedNode, frame: Progress) -> None:
        """Record the progress of an attempt."""

    async def call(self, link: LinkedNode, frame: Call) -> None:
        """Handle a call by a node; return when the call is committed or refused."""


class SessionPort(Protocol):
    """The sessions as the hub sees them. Called from the read loop of a link: must enqueue and return at once."""

    async def session_command(self, link: LinkedNode, frame: SessionCommand) -> None:
        """Handle a command of a session handler."""

    async def session_done(self, link: LinkedNode, frame: SessionDone) -> None:
        """Handle the end of a handler run: it returned or raised."""

    async def node_linked(self, link: LinkedNode) -> None:
        """Handle a new link; `link.hello.open_sessions` names the handlers that still run."""

    async def node_lost(self, link: LinkedNode) -> None:
        """Handle a lost link."""
