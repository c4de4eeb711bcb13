"""Computes the truncations that make the provider's conversation hold only what was heard of a reply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ReceivedAudio", "Truncation", "truncations"]


@dataclass(slots=True)
class ReceivedAudio:
    """Received audio of one item of a reply."""

    item: str
    index: int = 0
    """Index of the audio part in the content of the item."""
    size: int = 0
    """Bytes received."""
    complete: bool = False
    """Whether the provider has sent all audio of the item."""
    odd: bytes = b""
    """Bytes of an incomplete sample."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Truncation of an item at `ms` milliseconds, or its deletion if `ms` is None."""

    item: str
    index: int
    ms: int | None


def truncations(parts: Iterable[tuple[ReceivedAudio, int]], heard_ms: int, *, generating: bool) -> list[Truncation]:
    """Return the truncations after which the conversation holds only the heard part of a reply.

    Args:
        parts: The items of the reply in order, each with its received milliseconds.
        heard_ms: Heard milliseconds of the whole reply, capped at the received ones.
        generating: Whether the provider may have generated more than we received.
    """
    found: list[Truncation] = []
    left = max(0, heard_ms)
    for part, received in parts:
        heard = min(left, received)
        left -= heard
        everything = heard == received and (part.complete or not generating)
        if heard == 0 and (received or not part.complete):
            found.append(Truncation(part.item, part.index, None))
        elif not everything:
            found.append(Truncation(part.item, part.index, heard))
    return found
