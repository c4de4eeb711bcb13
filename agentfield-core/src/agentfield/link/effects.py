"""Effects: the actions that `LinkState` returns and `NodeLink` carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentfield.wire.frames import (
    Accepted,
    Call,
    GiveBack,
    Invoke,
    LoopState,
    Ping,
    Pong,
    Progress,
    Result,
    SessionCommand,
    SessionDone,
    SessionOpen,
)

__all__ = [
    "DeliverEvent",
    "Effect",
    "OpenHandler",
    "Operation",
    "Outgoing",
    "RejectAttempt",
    "ResolveOperation",
    "Send",
    "StartAttempt",
    "StopAttempt",
    "StopHandler",
]

Operation = Call | SessionCommand
"""A frame that is sent again on each new link until it is answered."""

Outgoing = Accepted | Result | Progress | Operation | SessionDone | LoopState | GiveBack | Ping | Pong
"""A frame that a node sends after the handshake."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame."""

    frame: Outgoing
    leaf: bytes | None = None
    """Of a result of version 2: its leaf, with which it is signed when it is written."""


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Run an attempt of a reasoner."""

    invoke: Invoke


@dataclass(frozen=True, slots=True)
class RejectAttempt:
    """Answer an `Invoke` with a failure: too many attempts run and wait already."""

    invoke: Invoke


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Cancel an attempt."""

    execution_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class OpenHandler:
    """Run the handler of a session."""

    opened: SessionOpen


@dataclass(frozen=True, slots=True)
class StopHandler:
    """Tell a handler that its session ended; `at_once` cancels it without a grace period."""

    session_id: str
    epoch: int
    reason: str
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class ResolveOperation:
    """Resolve the future of an operation with a value, or with the error that a problem document describes."""

    op_id: str
    value: Any = None
    problem: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DeliverEvent:
    """Give an event of a session to its handler."""

    session_id: str
    event: dict[str, Any]


Effect = Send | StartAttempt | RejectAttempt | StopAttempt | OpenHandler | StopHandler | ResolveOperation | DeliverEvent
