"""Pauses between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentfield_server.engine.backoff import LONGEST, longest_pause, pause


@given(st.floats(0, 3600), st.integers(1, 200), st.floats(0, 1))
def test_pauses_grow_up_to_a_minute_and_keep_apart(backoff: float, attempt: int, random: float) -> None:
    """Between half of the longest pause and all of it; never shorter than the one before, never beyond a minute."""
    longest = longest_pause(backoff, attempt)
    assert longest / 2 <= pause(backoff, attempt, random=lambda: random) <= longest <= max(LONGEST, backoff)
    assert longest <= longest_pause(backoff, attempt + 1)


def test_each_pause_is_twice_the_one_before() -> None:
    """Half a second, one, two, four."""
    assert [longest_pause(0.5, attempt) for attempt in (1, 2, 3, 4)] == [0.5, 1, 2, 4]
