"""Contract of the caller's end: `CallerLeg`, a connection whose audio the control plane carries, and its input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from agentfield.realtime.audio import AudioFormat

__all__ = [
    "CallerAudio",
    "CallerBegin",
    "CallerCommit",
    "CallerDtmf",
    "CallerGone",
    "CallerInput",
    "CallerLeg",
    "CallerMark",
    "CallerText",
    "LegEnd",
]


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """Audio of the caller, in the leg's format."""

    data: bytes
    """Whole samples."""


@dataclass(frozen=True, slots=True)
class CallerBegin:
    """The caller begins a turn of push to talk. Without it, a turn begins with the first audio after the last commit."""

    item: str | None = None
    """Id for the turn, None to let the provider choose."""


@dataclass(frozen=True, slots=True)
class CallerCommit:
    """The caller's turn is complete: the end of push-to-talk or of a recorded turn."""

    item: str | None = None
    """Id for the turn, None to let the provider choose."""


@dataclass(frozen=True, slots=True)
class CallerText:
    """Text that the caller typed."""

    text: str
    """The text."""


@dataclass(frozen=True, slots=True)
class CallerDtmf:
    """A telephone key that the caller pressed."""

    digit: str
    """One of `0` to `9`, `*`, `#`, `A` to `D`."""


@dataclass(frozen=True, slots=True)
class CallerMark:
    """The caller confirms that everything up to a mark was heard."""

    name: str
    """The name that `mark` was given."""


@dataclass(frozen=True, slots=True)
class CallerGone:
    """The caller hung up, or the connection was lost."""

    why: str
    """The reason in words."""
    hung_up: bool = True
    """Whether the caller hung up; after a lost connection it may reconnect."""


LegEnd = Literal["gone", "replaced", "slow", "unconvertible", "closed"]
"""Why a leg is no longer carried: its input ended; another leg replaced it; it accepted no audio in time; its audio could not
be converted; the session ended."""

CallerInput = CallerAudio | CallerBegin | CallerCommit | CallerText | CallerDtmf | CallerMark | CallerGone


class CallerLeg(Protocol):
    """A caller's connection whose audio passes through the control plane."""

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""

    @property
    def marks(self) -> bool:
        """Whether the caller confirms marks; otherwise the playback position follows the clock."""

    @property
    def paced(self) -> bool:
        """Whether audio must be sent just ahead of being heard; otherwise it is sent at once and the caller buffers it."""

    @property
    def listening(self) -> bool:
        """Whether audio played now would be heard."""

    async def play(self, reply: str, data: bytes) -> None:
        """Send audio of a reply to the caller, paced by the bridge."""

    async def mark(self, name: str) -> None:
        """Ask the caller to confirm when everything sent so far was heard."""

    async def clear(self) -> None:
        """Discard audio that was sent and not heard yet."""

    def input(self) -> AsyncIterator[CallerInput]:
        """Yield the caller's input; the last item is `CallerGone`."""

    async def close(self) -> None:
        """Hang up; idempotent."""
