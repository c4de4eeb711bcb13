"""Effects of a conversation: everything that the runner does on its behalf, in the order of the list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from agentfield_local.brain.protocol import BrainRequest

__all__ = [
    "CancelWork",
    "DecodeAudio",
    "Effect",
    "EndSession",
    "QueryBrain",
    "RestartVad",
    "ScheduleTimer",
    "SendEvent",
    "SynthesizeText",
    "TimerKey",
    "TranscribeItem",
]


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Send a server event to one leg, or to all legs if `to` is None."""

    event: dict[str, Any]
    to: str | None = None


@dataclass(frozen=True, slots=True)
class DecodeAudio:
    """Decode audio that a client appended (in the session's input format), and feed it to the VAD."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class TranscribeItem:
    """Transcribe the audio of an item (16 kHz s16le mono).

    Attributes:
        item_id: The item.
        pcm: Its audio.
        paused_ms: Position in the stream of the pause that ended the turn; an interim transcript up to that pause is
            the transcript of the item. None if there was no pause.
    """

    item_id: str
    pcm: bytes
    paused_ms: int | None = None


@dataclass(frozen=True, slots=True)
class QueryBrain:
    """Ask the brain for the output items of a response."""

    response_id: str
    request: BrainRequest


@dataclass(frozen=True, slots=True)
class SynthesizeText:
    """Synthesise a text as one item of a response."""

    response_id: str
    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class CancelWork:
    """Cancel the brain query or synthesis of a response; late results are ignored."""

    response_id: str


@dataclass(frozen=True, slots=True)
class RestartVad:
    """Restart voice activity detection with these settings, or stop it (None)."""

    turn_detection: dict[str, Any] | None


TimerKey = tuple[Literal["transcript", "commit_error", "arguments", "idle", "expire"], str]
"""Identity of a timer: its kind, and the item, leg or response that it belongs to."""


@dataclass(frozen=True, slots=True)
class ScheduleTimer:
    """Call `ConversationMachine.timer_fired` after this many seconds; replaces a pending timer with the same key."""

    seconds: float
    timer: TimerKey


@dataclass(frozen=True, slots=True)
class EndSession:
    """End the session and close every leg."""

    reason: str


Effect = (
    SendEvent
    | DecodeAudio
    | TranscribeItem
    | QueryBrain
    | SynthesizeText
    | CancelWork
    | RestartVad
    | ScheduleTimer
    | EndSession
)
