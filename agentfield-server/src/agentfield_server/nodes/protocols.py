"""Ports of the hub: what it needs of the engine and of the sessions, which are layers above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from agentfield.wire.frames import Accepted, Call, Progress, Result, SessionCommand, SessionDone, Welcome
from agentfield_server.nodes.linked_node import AssignedAttempt, LinkedNode

__all__ = ["EnginePort", "Handled", "SessionPort"]


class Handled(Protocol):
    """What follows the handling of a frame."""

    def __call__(self, error: BaseException | None = None, /) -> None:
        """Take the error if the frame could not be handled."""


class EnginePort(Protocol):
    """The engine as the hub sees it. What takes a `Handled` calls it once, at once or later, on the event loop."""

    async def reconcile(self, link: LinkedNode) -> Welcome:
        """Compare the attempts that a node reports with the store; called before the link gets any work."""

    async def node_linked(self, link: LinkedNode) -> None:
        """Handle a new link; must return at once."""

    async def node_lost(self, link: LinkedNode) -> None:
        """Handle a link that ended and that no newer link of the instance has replaced."""

    def accepted(self, link: LinkedNode, frame: Accepted) -> None:
        """Remember that a function was entered; it is recorded with the result, or by itself."""

    async def given_back(self, link: LinkedNode, attempts: Sequence[AssignedAttempt]) -> None:
        """Requeue attempts that the node gave back before it entered them; they are not assigned any more."""

    def takes_work_again(self, link: LinkedNode) -> None:
        """Handle that the event loop of a node turns again; must return at once."""

    def result(self, link: LinkedNode, frame: Result, done: Handled) -> None:
        """Record the result of an attempt. It is recorded even if the link ends meanwhile."""

    def fail_result(self, link: LinkedNode, frame: Result, problem: dict[str, Any], done: Handled) -> None:
        """Record a failure instead of a result that could not be recorded, so that the node does not send it again."""

    def progress(self, link: LinkedNode, frame: Progress, done: Handled) -> None:
        """Record the progress of an attempt."""

    def call(self, link: LinkedNode, frame: Call, done: Handled) -> None:
        """Handle a call by a node; it is handled once it is committed or refused."""


class SessionPort(Protocol):
    """The sessions as the hub sees them. Called from the read loop of a link: must enqueue and return at once."""

    async def session_command(self, link: LinkedNode, frame: SessionCommand) -> None:
        """Handle a command of a session handler."""

    async def session_done(self, link: LinkedNode, frame: SessionDone) -> None:
        """Handle the end of a handler run: it returned or raised."""

    async def node_linked(self, link: LinkedNode) -> None:
        """Handle a new link; `link.hello.open_sessions` names the handlers that still run."""

    async def node_lost(self, link: LinkedNode) -> None:
        """Handle a lost link, or one whose handlers count as lost (`link.handlers_lost`)."""

    async def node_recovered(self, link: LinkedNode) -> None:
        """Handle that the handlers of a link do not count as lost any more."""
