"""A caller's leg while it is carried: what converts for it, how far ahead it is, and why it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from agentfield.realtime.caller import CallerLeg

__all__ = ["Converter", "Guarded", "Line", "LineEnd", "Writable"]

LineEnd = Literal["gone", "replaced", "slow", "unconvertible", "closed"]
"""Why a leg is not carried any more: its input is over; another leg came; it took no audio; its audio could not be converted;
the session is over."""


class Converter(Protocol):
    """Turns audio of one format into another, a piece at a time."""

    def __call__(self, data: bytes) -> bytes:
        """Return what came out for what went in."""

    def flush(self) -> bytes:
        """Return what is still held."""


class Guarded:
    """A converter whose failure is told and never raised: it is called in the midst of the provider's connection.

    Args:
        converter: What may fail.
        failed: Told of it; nothing came out then.
    """

    def __init__(self, converter: Converter, failed: Callable[[Exception], None]) -> None:
        self._converter = converter
        self._failed = failed

    def __call__(self, data: bytes) -> bytes:
        """Return what came out for what went in."""
        try:
            return self._converter(data)
        except Exception as error:  # noqa: BLE001 - a library's fault must end this leg, and only this one
            self._failed(error)
            return b""

    def flush(self) -> bytes:
        """Return what is still held."""
        try:
            return self._converter.flush()
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(error)
            return b""


@runtime_checkable
class Writable(Protocol):
    """A leg that knows whether audio would go out without waiting."""

    @property
    def writable(self) -> bool:
        """Whether `play` and `mark` would not wait now."""


@dataclass(eq=False, slots=True)
class Line:
    """A leg while it is carried."""

    leg: CallerLeg
    to_caller: Converter
    from_caller: Converter
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why: LineEnd | None = None
    """Why it is over, None as long as it is not."""
    paced_until: float = 0.0
    """When the caller will have heard all that was sent, had nothing ever stalled."""
    stalled: float = 0.0
    """Seconds for which this process stood still and that audio may make up for."""
    echoes: bool = False
    """Whether the caller ever told a mark."""
    writable: Writable | None = field(init=False)

    def __post_init__(self) -> None:
        self.writable = self.leg if self.leg.paced and isinstance(self.leg, Writable) else None

    def end(self, why: LineEnd) -> None:
        """The line is over; only the first reason counts."""
        if not self.over.is_set():
            self.why = why
            self.over.set()
