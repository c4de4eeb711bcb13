"""The caller's end of a call whose media the control plane carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from agentfield.realtime.audio import AudioFormat

__all__ = [
    "CallerAudio",
    "CallerCommit",
    "CallerDtmf",
    "CallerGone",
    "CallerInput",
    "CallerLeg",
    "CallerMark",
    "CallerText",
]


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """Audio of the caller in the leg's format."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CallerCommit:
    """The caller is done speaking: end of a push-to-talk or of a recorded turn."""

    item: str | None = None
    """What the turn is to be called."""


@dataclass(frozen=True, slots=True)
class CallerText:
    """Words that the caller typed."""

    text: str


@dataclass(frozen=True, slots=True)
class CallerDtmf:
    """A key of a telephone."""

    digit: str


@dataclass(frozen=True, slots=True)
class CallerMark:
    """The caller has heard everything up to the mark."""

    name: str


@dataclass(frozen=True, slots=True)
class CallerGone:
    """The caller hung up or vanished."""

    why: str
    hung_up: bool = True
    """Whether it was said; one whose connection broke may come back."""


CallerInput = CallerAudio | CallerCommit | CallerText | CallerDtmf | CallerMark | CallerGone


class CallerLeg(Protocol):
    """A caller whose audio passes through the control plane."""

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""

    @property
    def marks(self) -> bool:
        """Whether the caller tells which marks it has heard; else the playback position is the clock's."""

    @property
    def paced(self) -> bool:
        """Whether audio is sent just ahead of being heard; else at once, and the caller keeps it."""

    @property
    def listening(self) -> bool:
        """Whether anybody would hear what is played now."""

    async def play(self, reply: str, data: bytes) -> None:
        """Send audio of a reply to the caller, paced by the bridge."""

    async def mark(self, name: str) -> None:
        """Ask to be told when everything sent so far was heard."""

    async def clear(self) -> None:
        """Throw away what was sent and not heard."""

    def input(self) -> AsyncIterator[CallerInput]:
        """Yield what the caller does; the last one is `CallerGone`."""

    async def close(self) -> None:
        """Hang up; idempotent."""
