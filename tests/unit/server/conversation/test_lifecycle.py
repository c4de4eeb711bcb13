"""Lifecycle of a session and runs of its handler: connecting, limits, presence, drift, restart, one end."""

from __future__ import annotations

import pytest

from agentfield.realtime.commands import ReplyCommand, SayCommand, ToolResultCommand, UpdateCommand
from agentfield.realtime.config import Limits
from agentfield.realtime.events import (
    PlayoutStopped,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    TurnStarted,
)
from agentfield_server.sessions.conversation.effects import (
    CloseRootExecution,
    HangUp,
    OpenHandler,
    ReleaseMachine,
    ResolveInput,
    ResolveOp,
    ResolveSpeech,
    RunTool,
    StopHandler,
)
from agentfield_server.sessions.conversation.inputs import (
    CallerConnected,
    CallerDisconnected,
    EndSession,
    HandlerEnd,
    HandlerLost,
    HandlerOpened,
    HandlerReattached,
    HandlerSay,
    HandlerUnavailable,
    OfferAccepted,
    OpenCallSnapshot,
    OpenTurnSnapshot,
    Snapshot,
    ToolFinished,
)
from support.server.machine import SimulatedCall


def ended(call: SimulatedCall) -> tuple[str, str | None]:
    (effect,) = call.all(CloseRootExecution)
    return effect.reason, effect.detail


# --- connecting


def test_call_goes_live() -> None:
    """After offer and echo the call is live: states are stored in order, the echo is recorded, the handler runs."""
    call = SimulatedCall().live()
    assert call.states() == ["connecting", "live"]
    assert call.recorded("provider.attached") == [{"model": "m-1", "voice": "v-1", "verified": True}]
    assert call.all(OpenHandler) == [OpenHandler(epoch=1, resumed=False)]


def test_never_connected() -> None:
    """A session without an offer for ten minutes, or not ready 30 s after the offer, ends as never connected."""
    silent = SimulatedCall()
    silent.wait(599)
    assert silent.states() == []
    silent.wait(2)
    assert ended(silent)[0] == "never_connected"
    assert silent.all(HangUp) == []
    stuck = SimulatedCall()
    stuck.feed(OfferAccepted())
    stuck.wait(31)
    assert ended(stuck)[0] == "never_connected"
    assert len(stuck.all(HangUp)) == 1


def test_mismatch_ends_the_call_and_names_both() -> None:
    """A model or voice other than the requested one ends the call before anything is spoken; the detail names both."""
    call = SimulatedCall(greeting="hello").live(model="m-1-mini")
    assert ended(call) == ("mismatch", "asked for model 'm-1', the provider answered with 'm-1-mini'")
    assert call.sent(SayCommand) == []


def test_dated_echo_matches_and_absent_echo_is_unverified() -> None:
    """The same name with a date is accepted; a missing echo is recorded as unverified."""
    assert SimulatedCall().live(model="m-1-2026-01-02").reason is None
    call = SimulatedCall().live(model=None)
    assert call.recorded("provider.attached")[0]["verified"] is False
    assert call.recorded("warning")[0]["code"] == "unverified"


def test_second_offer_keeps_the_session() -> None:
    """A second offer replaces the call: the handler continues, and the speech under way is recorded as cut."""
    call = SimulatedCall().live()
    call.taken()
    op_id = call.say("one two")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
    call.live()
    assert call.answer(op_id).spoken.failed == "new_call"
    assert call.states() == ["connecting", "live", "connecting", "live"]
    assert len(call.all(OpenHandler)) == 1
    call.say("again")
    assert call.sent(SayCommand)[-1].text == "again"


# --- the handler's loop


def test_handler_runs_again_after_a_turn() -> None:
    """A handler that returned after a turn runs again for the next one, with a new epoch."""
    call = SimulatedCall().live()
    call.taken()
    call.done()
    assert call.all(OpenHandler)[-1] == OpenHandler(epoch=2, resumed=False)
    assert list(call.closed().values()) == ["succeeded"]


def test_handler_that_takes_no_turn_ends_the_session() -> None:
    """A handler that returns without having taken a turn ends the session with that detail."""
    call = SimulatedCall().live()
    call.done()
    reason, detail = ended(call)
    assert reason == "handler_failed"
    assert "session.input()" in (detail or "")


def test_exception_fails_the_turn_and_speaks_on_error() -> None:
    """An exception fails the turn, speaks `on_error`, and the handler runs for the next turn."""
    call = SimulatedCall(on_error="Sorry.").live()
    turn_id = call.taken()
    call.done("boom")
    assert call.recorded("handler.failed") == [{"message": "boom"}]
    assert call.recorded("speech.started")[0]["kind"] == "on_error"
    assert call.closed() == {}
    call.heard("r1", "Sorry.", call.spoken_command())
    assert call.closed() == {turn_id: "failed"}
    assert call.epoch == 2


def test_three_failures_in_a_row_end_the_session() -> None:
    """Three exceptions in a row end the session; a finished turn in between resets the count."""
    call = SimulatedCall().live()
    for n, failure in enumerate(["boom", "boom", None, "boom", "boom", "boom"]):
        assert call.reason is None
        call.taken(f"i{n}")
        call.done(failure)
    assert ended(call)[0] == "handler_failed"


def test_model_floor_runs_the_handler_once() -> None:
    """On the model's floor the handler runs once, and its return does not end the session."""
    call = SimulatedCall(floor="model").live()
    call.done()
    call.wait(5)
    assert call.reason is None
    assert len(call.all(OpenHandler)) == 1


def test_lost_handler_gets_its_turn_again() -> None:
    """A lost handler starts again with `resumed`, and its open turn comes as a second attempt."""
    call = SimulatedCall().live()
    turn_id = call.taken()
    call.feed(HandlerLost(1))
    assert call.all(OpenHandler)[-1] == OpenHandler(epoch=2, resumed=True)
    call.feed(HandlerOpened(2))
    op_id = call.input()
    turn = call.answer(op_id).turn
    assert (turn.id, turn.attempt) == (turn_id, 2)


def test_commands_of_a_superseded_run_are_rejected() -> None:
    """Commands of an older run are rejected."""
    call = SimulatedCall().live()
    call.feed(HandlerLost(1))
    call.feed(HandlerSay(op_id="x", epoch=1, text="me too"))
    assert call.answer("x").problem["code"] == "stale_handler"


def test_session_ends_if_no_node_takes_the_handler() -> None:
    """A handler that no node takes within 10 s ends the session with the goodbye."""
    call = SimulatedCall(goodbye="Goodbye.").live()
    call.feed(HandlerUnavailable())
    call.wait(11)
    assert call.reason == "node_lost"
    assert call.sent(SayCommand)[-1].text == "Goodbye."
    back = SimulatedCall().live()
    back.feed(HandlerUnavailable())
    back.wait(5)
    back.feed(HandlerReattached(1))
    back.wait(20)
    assert back.reason is None


# --- limits


def test_duration_warns_and_says_goodbye() -> None:
    """The duration limit warns, then ends the session with its goodbye, and hangs up when that was heard."""
    call = SimulatedCall(goodbye="We are out of time.", limits=Limits(duration=100, warn=30, idle=1000)).live()
    call.wait(71)
    assert [body["code"] for body in call.recorded("warning")] == ["limit_duration"]
    call.wait(30)
    assert call.states()[-1] == "ending"
    assert call.all(HangUp) == []
    call.heard("r1", "We are out of time.", call.spoken_command())
    assert ended(call)[0] == "limit_duration"
    assert call.states()[-2:] == ["ending", "ended"]
    assert len(call.all(HangUp)) == 1


def test_goodbye_that_is_never_spoken_does_not_keep_the_call() -> None:
    """A goodbye that the provider never speaks is given up after a deadline."""
    call = SimulatedCall(goodbye="Bye.", limits=Limits(duration=10, warn=0)).live()
    call.wait(60)
    assert ended(call)[0] == "limit_duration"


def test_idle_limit() -> None:
    """Silence for the idle time ends the session; speech of either side counts as activity."""
    call = SimulatedCall(limits=Limits(idle=20)).live()
    call.wait(15)
    call.taken()
    call.wait(15)
    call.say("hello")
    call.heard("r1", "hello", call.spoken_command())
    call.wait(15)
    assert call.reason is None
    call.wait(6)
    assert ended(call)[0] == "limit_idle"


def test_provider_expiry_ends_with_a_goodbye() -> None:
    """The provider's own limit is warned of, and the goodbye is spoken before it takes effect."""
    call = SimulatedCall(goodbye="Bye.", limits=Limits(idle=1000)).live(expires_at=6000.0 + 100)
    call.wait(56)
    assert [body["code"] for body in call.recorded("warning")] == ["provider_expires"]
    call.wait(30)
    assert call.reason == "provider_expired"
    assert call.sent(SayCommand)[-1].text == "Bye."


# --- presence and end


def test_page_that_stays_away_ends_the_session() -> None:
    """A page that is away for 10 s counts as hung up; one that comes back does not."""
    call = SimulatedCall().live()
    call.feed(CallerDisconnected())
    call.wait(9)
    call.feed(CallerConnected())
    call.wait(5)
    assert call.reason is None
    call.feed(CallerDisconnected())
    call.wait(11)
    assert ended(call)[0] == "caller_hangup"


def test_end_happens_once() -> None:
    """The first reason to end counts; later ones change nothing."""
    call = SimulatedCall().live()
    call.feed(EndSession(reason="operator", detail="enough"))
    call.feed(SessionClosed(reason="caller_hangup"), EndSession(reason="caller_hangup"), HandlerLost(1))
    assert ended(call) == ("operator", "enough")
    assert call.states().count("ended") == 1
    assert len(call.all(HangUp)) == len(call.all(StopHandler)) == 1
    call.wait(61)
    assert len(call.all(ReleaseMachine)) == 1


def test_handler_ends_after_its_last_words() -> None:
    """`end` lets the speech under way be heard."""
    call = SimulatedCall().live()
    call.taken()
    said, over = call.say("Goodbye then."), call.op()
    call.feed(HandlerEnd(op_id=over, epoch=1))
    assert isinstance(call.answer(over), ResolveOp)
    assert call.all(HangUp) == []
    call.heard("r1", "Goodbye then.", call.spoken_command())
    assert isinstance(call.answer(said), ResolveSpeech)
    assert ended(call)[0] == "handler_ended"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("ice_failed", "ice_failed"), ("provider_expired", "provider_expired"), ("closed", "caller_hangup")],
)
def test_closed_provider_session_ends_the_session(reason: str, expected: str) -> None:
    """The end of the provider's session ends the session with its reason; no command is sent any more."""
    call = SimulatedCall(goodbye="Bye.").live()
    op_id = call.say("one")
    call.feed(SessionClosed.model_validate({"reason": reason}))
    assert ended(call)[0] == expected
    assert call.answer(op_id).spoken.failed == "session_ended"
    assert [say.text for say in call.sent(SayCommand)] == ["one"]


def test_fatal_fault_ends_the_session() -> None:
    """A fatal error of the provider ends the session, with the error as detail."""
    call = SimulatedCall().live()
    call.feed(ProviderFault(code="insufficient_quota", message="no credit", fatal=True))
    assert ended(call) == ("provider_error", "insufficient_quota: no credit")


def test_harmless_fault_is_a_warning() -> None:
    """A fault that is not fatal is recorded as a warning."""
    call = SimulatedCall().live()
    call.feed(ProviderFault(code="odd", message="strange"))
    assert call.recorded("warning") == [{"code": "odd", "message": "strange"}]
    assert call.reason is None


# --- drift


def test_drift_enforced_three_times() -> None:
    """A caller that changes the session is corrected three times, then the call ends."""
    call = SimulatedCall().live()
    for _ in range(3):
        call.feed(SessionUpdated(drift=("instructions",)))
    assert len(call.sent(UpdateCommand)) == 3
    assert call.reason is None
    call.feed(SessionUpdated(drift=("instructions",)))
    assert ended(call)[0] == "mismatch"
    assert [body["action"] for body in call.recorded("drift")] == ["enforced"] * 3 + ["ended"]


def test_drift_allowed_or_terminated() -> None:
    """`allow` only records drift, `terminate` ends the session at once."""
    allowed = SimulatedCall(drift="allow").live()
    allowed.feed(SessionUpdated(drift=("tools",)), SessionUpdated())
    assert allowed.recorded("drift") == [{"fields": ["tools"], "action": "allowed"}]
    assert allowed.reason is None
    strict = SimulatedCall(drift="terminate").live()
    strict.feed(SessionUpdated(drift=("tools",)))
    assert ended(strict)[0] == "mismatch"


# --- going on after a restart


def test_machine_continues_after_a_restart() -> None:
    """After a restart the handler runs as resumed, the open turn comes again, counters and history continue."""
    turns = (
        OpenTurnSnapshot(turn_id="exe_a", item="a", number=4, text="where is it"),
        OpenTurnSnapshot(turn_id="exe_b", item="b", number=5, text="hello?"),
    )
    snapshot = Snapshot(
        handler_epoch=7, turns=5, live_for=40.0, open_turns=turns, history=({"role": "caller", "text": "hi"},)
    )
    call = SimulatedCall(snapshot=snapshot, greeting="hello", limits=Limits(duration=100, warn=0, idle=1000))
    call.feed(SessionReady(model="m-1", voice="v-1"))
    assert call.all(OpenHandler) == [OpenHandler(epoch=8, resumed=True)]
    assert call.sent(SayCommand) == []
    call.feed(HandlerOpened(8))
    call.input()
    call.input()
    assert [(e.turn.id, e.turn.attempt) for e in call.all(ResolveInput)] == [("exe_a", 2), ("exe_b", 1)]
    call.speaks("a", "a repeated commit")
    assert call.machine.turns.count == 5
    call.wait(59)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_duration"


def test_call_that_is_not_ready_after_a_restart_ends() -> None:
    """A call that cannot be attached to in time ends with the restart as its reason."""
    call = SimulatedCall(snapshot=Snapshot(handler_epoch=1, turns=1))
    call.feed(OfferAccepted())
    call.wait(31)
    assert ended(call)[0] == "control_plane_restart"
    assert len(call.all(HangUp)) == 1


def test_events_of_unknown_replies_are_ignored() -> None:
    """Events of unknown replies change nothing."""
    call = SimulatedCall().live()
    call.feed(ReplyEnded(reply="x", text="?"), PlayoutStopped(reply="x"), TurnStarted(item="q"))
    assert call.sent(ReplyCommand) == []
    assert call.reason is None


def test_running_tool_calls_are_awaited_after_a_restart() -> None:
    """A running tool call is awaited again, answered once, and its id cannot be used twice."""
    open_call = OpenCallSnapshot(call_id="c1", target="shop.look", args={"x": 1})
    call = SimulatedCall(
        floor="model", snapshot=Snapshot(handler_epoch=1, turns=1, open_calls=(open_call,), call_ids=("c1",))
    )
    call.feed(SessionReady(model="m-1", voice="v-1"))
    assert [(run.call_id, run.args) for run in call.all(RunTool)] == [("c1", {"x": 1})]
    call.tool("c1")
    call.feed(ToolFinished(call_id="c1", value=2))
    assert [(sent.call_id, sent.output) for sent in call.sent(ToolResultCommand)] == [("c1", "2")]
    assert len(call.sent(ReplyCommand)) == 1
