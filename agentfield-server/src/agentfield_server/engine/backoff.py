"""How long to wait before another attempt: each pause twice the one before, up to a minute, less a random part."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

__all__ = ["LONGEST", "longest_pause", "pause"]

LONGEST = 60.0
"""Seconds that a pause lasts at most, unless the function asked for more to begin with."""

_random = SystemRandom().random


def longest_pause(backoff: float, attempt: int, *, longest: float = LONGEST) -> float:
    """Return the pause after attempt number `attempt` without its random part, seconds."""
    return min(backoff * 2.0 ** min(attempt - 1, 30), max(longest, backoff))


def pause(backoff: float, attempt: int, *, longest: float = LONGEST, random: Callable[[], float] = _random) -> float:
    """Return the pause after an attempt: at least half of the longest, so that those who failed together part.

    Args:
        backoff: Seconds before the second attempt.
        attempt: The attempt that failed, from 1.
        longest: Seconds that a pause lasts at most.
        random: Gives numbers from 0 to 1.
    """
    return longest_pause(backoff, attempt, longest=longest) * (0.5 + random() / 2)
