"""The caller's end of a call whose media the control plane carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from agentfield.realtime.audio import AudioFormat

__all__ = ["CallerAudio", "CallerDtmf", "CallerGone", "CallerInput", "CallerLeg", "CallerMark", "CallerText"]


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """Audio of the caller in the leg's format."""

    data: bytes


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


CallerInput = CallerAudio | CallerText | CallerDtmf | CallerMark | CallerGone


class CallerLeg(Protocol):
    """A caller whose audio passes through the control plane."""

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""

    async def play(self, data: bytes) -> None:
        """Send audio to the caller, paced by the bridge."""

    async def mark(self, name: str) -> None:
        """Ask to be told when everything sent so far was heard."""

    async def clear(self) -> None:
        """Throw away what was sent and not heard."""

    def input(self) -> AsyncIterator[CallerInput]:
        """Yield what the caller does; the last one is `CallerGone`."""

    async def close(self) -> None:
        """Hang up; idempotent."""
