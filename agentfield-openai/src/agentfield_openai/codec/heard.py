"""How much of a reply was heard, and what that means for the conversation at the provider: plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Cut", "Part", "cuts"]


@dataclass(slots=True)
class Part:
    """The audio of one item of a reply, as far as it was received."""

    item: str
    index: int = 0
    """Where in the item's content it is."""
    size: int = 0
    """Bytes."""
    complete: bool = False
    """Whether all of it was received."""
    odd: bytes = b""
    """Half a sample that waits for its other half."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What is done to an item: truncated at `ms`, or deleted where that is None."""

    item: str
    index: int
    ms: int | None


def cuts(parts: Iterable[tuple[Part, int]], heard_ms: int, *, generating: bool) -> list[Cut]:
    """Return what has to be cut off so that the conversation holds what was heard.

    Args:
        parts: The reply's items in order, each with the milliseconds that were received of it.
        heard_ms: How much of the whole reply was heard; more than was received counts as all that was received.
        generating: Whether the provider may have more than we received.
    """
    found: list[Cut] = []
    left = max(0, heard_ms)
    for part, received in parts:
        heard = min(left, received)
        left -= heard
        everything = heard == received and (part.complete or not generating)
        if heard == 0 and (received or not part.complete):
            found.append(Cut(part.item, part.index, None))
        elif not everything:
            found.append(Cut(part.item, part.index, heard))
    return found
