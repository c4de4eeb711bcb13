"""What the book of a link asks its node to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentfield.wire.frames import (
    Accepted,
    Call,
    Invoke,
    Ping,
    Pong,
    Progress,
    Result,
    SessionCommand,
    SessionDone,
    SessionOpen,
)

__all__ = [
    "Effect",
    "Happened",
    "OpenHandler",
    "Operation",
    "Outgoing",
    "Reject",
    "Send",
    "Settle",
    "Start",
    "Stop",
    "StopHandler",
]

Operation = Call | SessionCommand
"""A frame that is sent again until it is answered."""

Outgoing = Accepted | Result | Progress | Operation | SessionDone | Ping | Pong
"""What a linked node sends."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put a frame on the wire."""

    frame: Outgoing


@dataclass(frozen=True, slots=True)
class Start:
    """Run a reasoner."""

    invoke: Invoke


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer an `Invoke` with a failure: more is waiting than this node may hold."""

    invoke: Invoke


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel a run."""

    execution_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class OpenHandler:
    """Run the handler of a session."""

    opened: SessionOpen


@dataclass(frozen=True, slots=True)
class StopHandler:
    """Tell a handler that its session is over; with `at_once`, cancel it."""

    session_id: str
    epoch: int
    reason: str
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """An operation came to its end: with a value, or with a problem."""

    op_id: str
    value: Any = None
    problem: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of a session whose handler listens."""

    session_id: str
    event: dict[str, Any]


Effect = Send | Start | Reject | Stop | OpenHandler | StopHandler | Settle | Happened
