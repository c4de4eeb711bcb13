"""The transition tables: complete, used for every change of state, and shown by `docs/session-machine.md`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfield.realtime.events import ReplyEnded, SessionClosed, SessionReady
from agentfield.wire.rest import SessionState
from agentfield_server.sessions.conversation.effects import CloseRootExecution, RecordEvent, SetState
from agentfield_server.sessions.conversation.inputs import (
    CallRefused,
    EndSession,
    HandlerEnd,
    OfferAccepted,
    OpenTurnSnapshot,
    Snapshot,
)
from agentfield_server.sessions.conversation.timers import Timer, TimerKind, Timers
from agentfield_server.sessions.conversation.transition_docs import main, update_page
from agentfield_server.sessions.conversation.transitions import (
    SESSION_TRANSITIONS,
    TURN_TRANSITIONS,
    UTTERANCE_TRANSITIONS,
    Condition,
    EndReason,
    SessionPhase,
    Transition,
    TransitionError,
    TransitionTable,
    TurnStage,
    UtteranceStage,
)
from support.server.machine import SimulatedCall
from support.server.random_call import STEPS, RandomCall

PAGE = Path(__file__).parents[4] / "docs" / "session-machine.md"
BEFORE_RESTART = Snapshot(
    handler_epoch=2,
    turns=1,
    live_for=10.0,
    open_turns=(OpenTurnSnapshot(turn_id="exe_old", item="old", number=1, text="hello"),),
)
BEGINNINGS: st.SearchStrategy[Any] = st.one_of(
    st.builds(OfferAccepted),
    st.builds(SessionReady, model=st.sampled_from(["m-1", "m-1", "other", None])),
    st.builds(CallRefused, code=st.just("busy"), message=st.just("m"), final=st.booleans()),
    st.builds(SessionClosed, reason=st.sampled_from(["closed", "ice_failed", "provider_error"])),
    st.builds(EndSession, reason=st.sampled_from(["operator", "ice_failed", "a_plugin's_own"])),
)


@pytest.mark.parametrize(
    ("table", "last"),
    [
        (SESSION_TRANSITIONS, SessionPhase.ENDED),
        (TURN_TRANSITIONS, TurnStage.CLOSED),
        (UTTERANCE_TRANSITIONS, UtteranceStage.FINISHED),
    ],
)
def test_every_state_is_reached_and_leads_to_the_last_one(table: TransitionTable[Any], last: Any) -> None:
    """From the initial state every state is reached, and from every state the last one."""
    leads = {(row.source, row.target) for row in table}
    states = set(type(last).__members__.values())
    assert _closure({table.initial}, lambda known: {b for a, b in leads if a in known}) == states
    assert _closure({last}, lambda known: {a for a, b in leads if b in known}) == states


def _closure(known: set[Any], more: Callable[[set[Any]], set[Any]]) -> set[Any]:
    while not (found := more(known)) <= known:
        known = known | found
    return known


def test_states_are_those_of_the_wire() -> None:
    """The phases of the machine are spelled as the session states of the REST API."""
    assert {phase.wire for phase in SessionPhase} == set(get_args(SessionState))


def test_every_end_has_its_reasons() -> None:
    """Exactly the transitions to `ending` carry reasons, and every reason is used, except an operator's."""
    for row in SESSION_TRANSITIONS:
        assert bool(row.reasons or row.any_reason) == (row.target is SessionPhase.ENDING)
    used = frozenset[EndReason]().union(*(row.reasons for row in SESSION_TRANSITIONS))
    assert used == set(EndReason) - {EndReason.OPERATOR}


def test_changes_that_are_not_in_a_table_fail() -> None:
    """An unknown transition, an unknown reason and a second row for a trigger raise an error."""
    with pytest.raises(TransitionError, match="no transition from ended"):
        SESSION_TRANSITIONS.next(SessionPhase.ENDED, SessionReady)
    with pytest.raises(TransitionError, match="limit_idle"):
        SESSION_TRANSITIONS.end(SessionPhase.LIVE, TimerKind.DURATION, EndReason.LIMIT_IDLE)
    with pytest.raises(TransitionError, match="no transition"):
        UTTERANCE_TRANSITIONS.next(UtteranceStage.QUEUED, ReplyEnded)
    row = Transition(TurnStage.PENDING, Condition.RESTORED, TurnStage.WAITING)
    with pytest.raises(TransitionError, match="two transitions"):
        TransitionTable(TurnStage.PENDING, [row, row])


def test_the_machine_changes_its_phase_by_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose table lacks a transition fails instead of changing its phase."""
    rows = [row for row in SESSION_TRANSITIONS if row.trigger is not SessionReady]
    monkeypatch.setattr(
        "agentfield_server.sessions.conversation.state.SESSION_TRANSITIONS", TransitionTable(SessionPhase.CREATED, rows)
    )
    call = SimulatedCall()
    call.feed(OfferAccepted())
    with pytest.raises(TransitionError, match="no transition from connecting"):
        call.feed(SessionReady(model="m-1", voice="v-1"))
    assert call.machine.state.phase is SessionPhase.CONNECTING


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    floor=st.sampled_from(["handler", "model"]),
    media=st.sampled_from(["direct", "bridged", "turns"]),
    expires_in=st.none() | st.sampled_from([62.0, 90.0]),
    snapshot=st.none() | st.just(BEFORE_RESTART),
    connected=st.booleans(),
    beginning=st.lists(BEGINNINGS, max_size=3),
    steps=st.lists(STEPS, max_size=60),
    ended_by_handler=st.booleans(),
)
def test_every_change_of_phase_is_in_the_table(
    floor: str,
    media: str,
    expires_in: float | None,
    snapshot: Snapshot | None,
    connected: bool,
    beginning: list[Any],
    steps: list[tuple[str, Any]],
    ended_by_handler: bool,
) -> None:
    """Whatever happens in whatever order, the phases follow the table, and the reason to end is set once."""
    random_call = RandomCall(floor, "enforce", media, 400, expires_in, connected=connected, snapshot=snapshot)
    call = random_call.call
    call.feed(*beginning)
    for kind, value in steps:
        random_call.step(kind, value)
    if ended_by_handler:
        random_call.command(HandlerEnd(op_id=call.op(), epoch=call.epoch))
    call.feed(EndSession(reason="operator"))
    call.wait(700)

    check_phases(call, SessionPhase.CREATED if snapshot is None else SessionPhase.CONNECTING)


def check_phases(call: SimulatedCall, phase: SessionPhase) -> None:
    """Compare the phases that were emitted, and their reasons, with the table."""
    reason: str | None = None
    for effect in call.all(SetState):
        target = SessionPhase(effect.state)
        rows = [row for row in SESSION_TRANSITIONS if (row.source, row.target) == (phase, target)]
        assert rows, f"{phase} to {target}"
        if target is SessionPhase.ENDING:
            assert any(row.any_reason or effect.reason in row.reasons for row in rows)
            assert reason is None
            reason = effect.reason
        assert effect.reason == reason
        phase = target
    assert phase is SessionPhase.ENDED
    assert [effect.reason for effect in call.all(CloseRootExecution)] == [reason]


def test_a_transport_plugin_ends_with_its_own_reason() -> None:
    """The reason of `EndSession` is kept as it is, also one that the machine does not know."""
    call = SimulatedCall().live()
    call.feed(EndSession(reason="line_cut"))
    call.feed(EndSession(reason="operator"))
    assert call.reason == "line_cut"
    assert call.states() == ["connecting", "live", "ending", "ended"]


def test_effects_carry_plain_strings() -> None:
    """Phases and reasons leave the machine as the strings that the store and the wire have always had."""
    call = SimulatedCall().live()
    call.wait(5000)
    states = {type(effect.state) for effect in call.all(SetState)}
    reasons = {type(effect.reason) for effect in call.all(CloseRootExecution)}
    assert states == reasons == {str}
    assert all(type(record.type) is str for record in call.all(RecordEvent))


def test_deadlines_of_the_same_time_fire_by_name() -> None:
    """Deadlines are popped by time, then by name and subject; clearing keeps what was asked for."""
    timers = Timers()
    timers.set(TimerKind.TURN, 5.0, "b")
    timers.set(TimerKind.TURN, 5.0, "a")
    timers.set(TimerKind.SPEECH_START, 5.0)
    timers.set(TimerKind.IDLE, 4.0)
    assert TimerKind.IDLE in timers
    assert TimerKind.TURN not in timers
    assert timers.next() == 4.0
    fired = [timers.pop_due(5.0) for _ in range(5)]
    expected = [
        Timer(TimerKind.IDLE),
        Timer(TimerKind.SPEECH_START),
        Timer(TimerKind.TURN, "a"),
        Timer(TimerKind.TURN, "b"),
    ]
    assert fired == [*expected, None]
    timers.set(TimerKind.GRACE, 1.0)
    timers.set(TimerKind.SPEECH, 2.0)
    timers.clear_all(keep={TimerKind.SPEECH})
    assert timers.next() == 2.0


def test_the_page_shows_the_tables(tmp_path: Path) -> None:
    """The documentation has the tables of the code; its command rewrites them."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == update_page(page), f"run python -m {update_page.__module__} docs/session-machine.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.replace("`never_connected`", "`gone`"), encoding="utf-8")
    main([str(copy)])
    assert copy.read_text(encoding="utf-8") == page


def test_a_page_without_markers_is_not_rewritten() -> None:
    """A page needs both markers."""
    with pytest.raises(ValueError, match="needs the markers"):
        update_page("no markers here")
