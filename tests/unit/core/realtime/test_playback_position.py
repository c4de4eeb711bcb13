"""`PlaybackPosition`, driven through random orders of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentfield.realtime.bridge.playback_position import PlaybackPosition

_steps = st.lists(
    st.tuples(st.sampled_from(["receive", "send", "mark", "confirm", "wait", "clear"]), st.integers(0, 500)),
    max_size=60,
)


@given(_steps)
def test_heard_never_exceeds_received_and_shrinks_only_by_a_clear(steps: list[tuple[str, int]]) -> None:
    """In any order of events: 0 ≤ heard ≤ sent ≤ received, and heard grows until a mark is confirmed or the reply cleared."""
    position, now, names, before = PlaybackPosition(), 10.0, [], 0
    for step, amount in steps:
        match step:
            case "receive":
                position.receive(amount)
            case "send":
                position.send(min(amount, position.received_ms - position.sent_ms), now)
            case "mark":
                names.append(f"m{len(names)}")
                position.mark(names[-1])
            case "confirm" if names:
                confirmed = position.confirmed
                position.confirm_mark(names[amount % len(names)])
                # the first confirmed mark replaces the estimate of the clock
                before = before if confirmed else 0
            case "wait":
                now += amount / 1000
            case "clear":
                position.clear()
                before = 0
                assert position.heard(now)[0] == 0
        heard, method = position.heard(now)
        assert before <= heard <= position.sent_ms + 1 <= position.received_ms + 1
        assert method == ("marks" if position.confirmed else "wallclock")
        before = heard


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(0, 10_000))
def test_by_the_clock_audio_is_heard_in_real_time(pieces: list[int], later: int) -> None:
    """Audio sent at once is heard in real time, up to its end."""
    position = PlaybackPosition()
    for piece in pieces:
        position.receive(piece)
        position.send(piece, 5.0)
    expected = min(sum(pieces), later)
    assert abs(position.heard(5.0 + later / 1000)[0] - expected) <= 1


def test_a_clear_forgets_marks() -> None:
    """A mark confirmed after a clear is ignored."""
    position = PlaybackPosition()
    position.receive(400)
    position.send(400, 0.0)
    position.mark("m1")
    position.clear()
    assert not position.confirm_mark("m1")
    assert position.heard(100.0) == (0, "wallclock")


def test_marks_of_a_detached_leg_no_longer_count() -> None:
    """After `forget_marks` only the clock counts."""
    position = PlaybackPosition()
    position.receive(400)
    position.send(400, 0.0)
    position.mark("m1")
    assert position.confirm_mark("m1")
    position.forget_marks()
    assert position.heard(0.1) == (100, "wallclock")
