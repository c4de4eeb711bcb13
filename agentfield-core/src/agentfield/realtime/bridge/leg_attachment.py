"""A caller's leg while the bridge carries it: its converters, its pacing, and the reason of its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from agentfield.realtime.caller import CallerLeg, LegEnd

__all__ = ["Converter", "GuardedConverter", "LegAttachment", "WritableLeg"]


class Converter(Protocol):
    """Streaming converter of audio from one format to another."""

    def __call__(self, data: bytes) -> bytes:
        """Convert a piece of audio and return the available output."""

    def flush(self) -> bytes:
        """Return the output that is still buffered."""


class GuardedConverter:
    """A converter that reports failures instead of raising them, because it is called inside the provider's receive loop.

    Args:
        converter: The converter to call.
        failed: Called with its exception; the output is empty then.
    """

    def __init__(self, converter: Converter, failed: Callable[[Exception], None]) -> None:
        self._converter = converter
        self._failed = failed

    def __call__(self, data: bytes) -> bytes:
        """Convert a piece of audio and return the available output."""
        try:
            return self._converter(data)
        except Exception as error:  # noqa: BLE001 - a failing converter must end this leg, and only this one
            self._failed(error)
            return b""

    def flush(self) -> bytes:
        """Return the output that is still buffered."""
        try:
            return self._converter.flush()
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
            return b""


@runtime_checkable
class WritableLeg(Protocol):
    """A leg that can report whether sending would block."""

    @property
    def writable(self) -> bool:
        """Whether `play` and `mark` would return without waiting."""


@dataclass(eq=False, slots=True)
class LegAttachment:
    """A leg while it is carried. Times are seconds of the bridge's clock."""

    leg: CallerLeg
    to_caller: Converter
    from_caller: Converter
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reason: LegEnd | None = None
    """Why it ended, None while it is carried."""
    paced_until: float = 0.0
    """Time at which everything sent will have been heard, not counting stalls of this process."""
    stalled: float = 0.0
    """Seconds of stalls of this process that late audio may still catch up on."""
    confirms_marks: bool = False
    """Whether the caller has confirmed any mark."""
    writable: WritableLeg | None = field(init=False)

    def __post_init__(self) -> None:
        self.writable = self.leg if self.leg.paced and isinstance(self.leg, WritableLeg) else None

    def end(self, reason: LegEnd) -> None:
        """End the leg; only the first reason counts."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()
