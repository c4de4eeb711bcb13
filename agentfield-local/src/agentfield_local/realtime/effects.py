"""What the conversation asks its surroundings to do; the conversation itself has no clock, socket or thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agentfield_local.brain.protocol import BrainRequest

__all__ = ["Abandon", "Due", "Effect", "End", "Hear", "Later", "Listen", "Send", "Think", "Transcribe", "Voice"]


@dataclass(frozen=True, slots=True)
class Send:
    """Send a server event to one leg, or to all legs when `to` is None."""

    event: dict[str, Any]
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Hear:
    """Decode audio that a client appended (in the session's input format) and listen to it."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Turn the audio of an item (16 kHz s16le mono) into words.

    `paused_ms` is where in the stream the pause began to be told of that went on to its end, None if none was: the
    words of the audio until there are those of the item.
    """

    item_id: str
    pcm: bytes
    paused_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Think:
    """Ask the brain for the output items of a response."""

    response_id: str
    request: BrainRequest


@dataclass(frozen=True, slots=True)
class Voice:
    """Speak a text as one item of a response."""

    response_id: str
    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop thinking and speaking for a response; what still arrives for it is ignored."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Listen:
    """Start voice activity detection afresh with these settings, or stop it (None)."""

    turn_detection: dict[str, Any] | None


Due = tuple[Literal["transcript", "commit_error", "arguments", "idle", "expire"], str]
"""What is due later and for which item, leg, response or timer."""


@dataclass(frozen=True, slots=True)
class Later:
    """Call `Conversation.due(what)` after so many seconds; a second one with the same `what` replaces the first."""

    seconds: float
    what: Due


@dataclass(frozen=True, slots=True)
class End:
    """The session is over: close every leg."""

    reason: str


Effect = Send | Hear | Transcribe | Think | Voice | Abandon | Listen | Later | End
