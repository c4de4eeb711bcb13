"""Backoff between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentfield_server.engine.backoff import MAX_BACKOFF, backoff_delay, max_backoff


@given(st.floats(0, 3600), st.integers(1, 200), st.floats(0, 1))
def test_delays_grow_to_a_minute_with_jitter(backoff: float, attempt: int, random: float) -> None:
    """A delay is between half of its maximum and all of it, never shorter than the one before, at most a minute."""
    longest = max_backoff(backoff, attempt)
    assert longest / 2 <= backoff_delay(backoff, attempt, random=lambda: random) <= longest <= max(MAX_BACKOFF, backoff)
    assert longest <= max_backoff(backoff, attempt + 1)


def test_each_maximum_is_twice_the_one_before() -> None:
    """Half a second, one, two, four."""
    assert [max_backoff(0.5, attempt) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
