"""What the hub needs of the rooms above it."""

from __future__ import annotations

from typing import Protocol

from agentfield.wire.frames import Accepted, Call, Progress, Result, SessionCommand, SessionDone, Welcome
from agentfield_server.nodes.link import NodeLink

__all__ = ["EnginePort", "SessionPort"]


class EnginePort(Protocol):
    """Who runs executions."""

    async def reconcile(self, link: NodeLink) -> Welcome:
        """Compare what a node says it holds with what is stored; called before the link gets any work."""

    async def node_linked(self, link: NodeLink) -> None:
        """The link stands; must return at once."""

    async def node_lost(self, link: NodeLink) -> None:
        """The link is gone and no newer one of the instance has replaced it."""

    async def accepted(self, link: NodeLink, frame: Accepted) -> None:
        """A function was entered."""

    async def result(self, link: NodeLink, frame: Result, *, entered: bool) -> None:
        """An attempt came to its end; `entered` when the function was entered and `accepted` is not called for it.

        Not cancelled before it returns, whatever becomes of the link.
        """

    async def progress(self, link: NodeLink, frame: Progress) -> None:
        """A run tells how far it has come."""

    async def call(self, link: NodeLink, frame: Call) -> None:
        """A node calls a target; returns when the call is committed or refused."""


class SessionPort(Protocol):
    """Who runs sessions. Called from the read loop of a link: must enqueue and return at once."""

    async def session_command(self, link: NodeLink, frame: SessionCommand) -> None:
        """A handler asks something of its session."""

    async def session_done(self, link: NodeLink, frame: SessionDone) -> None:
        """A handler returned or raised."""

    async def node_linked(self, link: NodeLink) -> None:
        """A node is there; `link.hello.open_sessions` tells which handlers still run."""

    async def node_lost(self, link: NodeLink) -> None:
        """A node is gone."""
