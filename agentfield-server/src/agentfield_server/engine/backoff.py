"""Exponential backoff with jitter: the pause doubles with each attempt, up to a minute, less a random part."""

from __future__ import annotations

from collections.abc import Callable
from random import SystemRandom

__all__ = ["MAX_BACKOFF", "backoff_delay", "max_backoff"]

MAX_BACKOFF = 60.0
"""Longest pause in seconds, unless the first pause is longer already."""

_random = SystemRandom().random


def max_backoff(backoff: float, attempt: int, *, longest: float = MAX_BACKOFF) -> float:
    """Return the pause in seconds after attempt number `attempt`, without jitter."""
    return min(backoff * 2.0 ** min(attempt - 1, 30), max(longest, backoff))


def backoff_delay(
    backoff: float, attempt: int, *, longest: float = MAX_BACKOFF, random: Callable[[], float] = _random
) -> float:
    """Return the pause in seconds after an attempt, with jitter: at least half, so that simultaneous failures spread.

    Args:
        backoff: Seconds before the second attempt.
        attempt: The attempt that failed, from 1.
        longest: Longest pause, seconds.
        random: Returns numbers from 0 to 1.
    """
    return max_backoff(backoff, attempt, longest=longest) * (0.5 + random() / 2)
