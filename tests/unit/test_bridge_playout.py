"""The arithmetic of what was heard, in every order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentfield.realtime.playout import Playout

_steps = st.lists(
    st.tuples(st.sampled_from(["receive", "send", "mark", "told", "wait", "clear"]), st.integers(0, 500)), max_size=60
)


@given(_steps)
def test_heard_never_exceeds_received_and_never_shrinks_but_by_a_clear(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: 0 ≤ heard ≤ sent ≤ received; heard grows until a mark is told or all is cleared."""
    playout, now, names, before = Playout(), 10.0, [], 0
    for what, amount in steps:
        match what:
            case "receive":
                playout.receive(amount)
            case "send":
                playout.send(min(amount, playout.received_ms - playout.sent_ms), now)
            case "mark":
                names.append(f"m{len(names)}")
                playout.mark(names[-1])
            case "told" if names:
                told = playout.marked
                playout.told(names[amount % len(names)])
                # the first mark replaces what the clock guessed
                before = before if told else 0
            case "wait":
                now += amount / 1000
            case "clear":
                playout.clear()
                before = 0
                assert playout.heard(now)[0] == 0
        heard, method = playout.heard(now)
        assert before <= heard <= playout.sent_ms + 1 <= playout.received_ms + 1
        assert method == ("marks" if playout.marked else "wallclock")
        before = heard


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(0, 10_000))
def test_by_the_clock_all_is_heard_once_its_time_has_passed(pieces: list[int], later: int) -> None:
    """Audio sent in one go is heard in real time, to its end and no further."""
    playout = Playout()
    for piece in pieces:
        playout.receive(piece)
        playout.send(piece, 5.0)
    expected = min(sum(pieces), later)
    assert abs(playout.heard(5.0 + later / 1000)[0] - expected) <= 1


def test_a_clear_forgets_marks() -> None:
    """A mark that is told after a clear belongs to nothing."""
    playout = Playout()
    playout.receive(400)
    playout.send(400, 0.0)
    playout.mark("m1")
    playout.clear()
    assert not playout.told("m1")
    assert playout.heard(100.0) == (0, "wallclock")


def test_a_caller_that_is_replaced_leaves_the_clock() -> None:
    """Marks of a caller that is gone count no more."""
    playout = Playout()
    playout.receive(400)
    playout.send(400, 0.0)
    playout.mark("m1")
    assert playout.told("m1")
    playout.forget_marks()
    assert playout.heard(0.1) == (100, "wallclock")
