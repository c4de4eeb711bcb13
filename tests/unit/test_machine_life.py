"""The handler's loop, connecting, limits, presence, drift, and the one end."""

from __future__ import annotations

import pytest

from agentfield.realtime.commands import Reply, Say, SendToolResult, Update
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
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import (
    Ended,
    Finished,
    HangUp,
    OpenHandler,
    ResolveInput,
    ResolveOp,
    ResolveSpeech,
    RunTool,
    StopHandler,
)
from unit.machine_kit import Call


def ended(call: Call) -> tuple[str, str | None]:
    (effect,) = call.all(Ended)
    return effect.reason, effect.detail


# --- connecting


def test_call_goes_live() -> None:
    """Offer, echo, live: the states are stored in order, the echo is recorded, the handler runs."""
    call = Call().live()
    assert call.states() == ["connecting", "live"]
    assert call.recorded("provider.attached") == [{"model": "m-1", "voice": "v-1", "verified": True}]
    assert call.all(OpenHandler) == [OpenHandler(epoch=1, resumed=False)]


def test_never_connected() -> None:
    """A session that nobody opens for ten minutes, or that is not ready 30 s after the offer, ends as never connected."""
    silent = Call()
    silent.wait(599)
    assert silent.states() == []
    silent.wait(2)
    assert ended(silent)[0] == "never_connected"
    assert silent.all(HangUp) == []
    stuck = Call()
    stuck.feed(i.OfferAccepted())
    stuck.wait(31)
    assert ended(stuck)[0] == "never_connected"
    assert len(stuck.all(HangUp)) == 1


def test_mismatch_ends_the_call_and_names_both() -> None:
    """Another model or voice than was asked for ends the call before anything is said."""
    call = Call(greeting="hello").live(model="m-1-mini")
    assert ended(call) == ("mismatch", "asked for model 'm-1', the provider answered with 'm-1-mini'")
    assert call.sent(Say) == []


def test_echo_with_a_date_is_the_same_and_an_absent_one_is_unverified() -> None:
    """The same name with a date is accepted; no echo is recorded as unverified."""
    assert Call().live(model="m-1-2026-01-02").reason is None
    call = Call().live(model=None)
    assert call.recorded("provider.attached")[0]["verified"] is False
    assert call.recorded("warning")[0]["code"] == "unverified"


def test_second_offer_keeps_the_session() -> None:
    """A second offer replaces the call: the handler goes on, what was being said is told as cut."""
    call = Call().live()
    call.taken()
    op_id = call.say("one two")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
    call.live()
    assert call.answer(op_id).spoken.failed == "new_call"
    assert call.states() == ["connecting", "live", "connecting", "live"]
    assert len(call.all(OpenHandler)) == 1
    call.say("again")
    assert call.sent(Say)[-1].text == "again"


# --- the handler's loop


def test_handler_runs_again_after_a_turn() -> None:
    """A handler that returned after a turn is run for the next one, as a new run."""
    call = Call().live()
    call.taken()
    call.done()
    assert call.all(OpenHandler)[-1] == OpenHandler(epoch=2, resumed=False)
    assert list(call.closed().values()) == ["succeeded"]


def test_handler_that_takes_no_turn_ends_the_session() -> None:
    """Returning without having taken a turn is a mistake that is told."""
    call = Call().live()
    call.done()
    reason, detail = ended(call)
    assert reason == "handler_failed"
    assert "session.input()" in (detail or "")


def test_exception_fails_the_turn_and_speaks_on_error() -> None:
    """An exception fails that turn, speaks `on_error`, and the handler is run for the next turn."""
    call = Call(on_error="Sorry.").live()
    turn_id = call.taken()
    call.done("boom")
    assert call.recorded("handler.failed") == [{"message": "boom"}]
    assert call.recorded("speech.started")[0]["kind"] == "on_error"
    assert call.closed() == {}
    call.heard("r1", "Sorry.", call.spoken_command())
    assert call.closed() == {turn_id: "failed"}
    assert call.epoch == 2


def test_three_failures_in_a_row_end_the_session() -> None:
    """Three exceptions in a row end the session; a good turn in between starts the count again."""
    call = Call().live()
    for n, failure in enumerate(["boom", "boom", None, "boom", "boom", "boom"]):
        assert call.reason is None
        call.taken(f"i{n}")
        call.done(failure)
    assert ended(call)[0] == "handler_failed"


def test_model_floor_runs_the_handler_once() -> None:
    """On the model floor the handler runs once, and its end ends nothing."""
    call = Call(floor="model").live()
    call.done()
    call.wait(5)
    assert call.reason is None
    assert len(call.all(OpenHandler)) == 1


def test_lost_handler_gets_its_turn_again() -> None:
    """A lost handler is run from the top with `resumed`, and the open turn comes as a second attempt."""
    call = Call().live()
    turn_id = call.taken()
    call.feed(i.HandlerLost(1))
    assert call.all(OpenHandler)[-1] == OpenHandler(epoch=2, resumed=True)
    call.feed(i.HandlerOpened(2))
    op_id = call.input()
    turn = call.answer(op_id).turn
    assert (turn.id, turn.attempt) == (turn_id, 2)


def test_stale_run_of_the_handler_is_refused() -> None:
    """Commands of an older run are refused."""
    call = Call().live()
    call.feed(i.HandlerLost(1))
    call.feed(i.HandlerSay(op_id="x", epoch=1, text="me too"))
    assert call.answer("x").problem["code"] == "stale_handler"


def test_no_node_within_ten_seconds() -> None:
    """A handler that finds no node ends the session after 10 s, with the goodbye."""
    call = Call(goodbye="Goodbye.").live()
    call.feed(i.HandlerAway())
    call.wait(11)
    assert call.reason == "node_lost"
    assert call.sent(Say)[-1].text == "Goodbye."
    back = Call().live()
    back.feed(i.HandlerAway())
    back.wait(5)
    back.feed(i.HandlerBack(1))
    back.wait(20)
    assert back.reason is None


# --- limits


def test_duration_warns_and_says_goodbye() -> None:
    """The session is warned, then ended with its goodbye, and hung up when that was heard."""
    call = Call(goodbye="We are out of time.", limits=Limits(duration=100, warn=30, idle=1000)).live()
    call.wait(71)
    assert [body["code"] for body in call.recorded("warning")] == ["limit_duration"]
    call.wait(30)
    assert call.states()[-1] == "ending"
    assert call.all(HangUp) == []
    call.heard("r1", "We are out of time.", call.spoken_command())
    assert ended(call)[0] == "limit_duration"
    assert call.states()[-2:] == ["ending", "ended"]
    assert len(call.all(HangUp)) == 1


def test_goodbye_is_not_waited_for_for_ever() -> None:
    """A goodbye that the provider never speaks does not keep the call."""
    call = Call(goodbye="Bye.", limits=Limits(duration=10, warn=0)).live()
    call.wait(60)
    assert ended(call)[0] == "limit_duration"


def test_idle() -> None:
    """Nobody speaking for the idle time ends the session; speech of either side counts."""
    call = Call(limits=Limits(idle=20)).live()
    call.wait(15)
    call.taken()
    call.wait(15)
    call.say("hello")
    call.heard("r1", "hello", call.spoken_command())
    call.wait(15)
    assert call.reason is None
    call.wait(6)
    assert ended(call)[0] == "limit_idle"


def test_provider_expiry() -> None:
    """The provider's own limit is warned of and met with a goodbye before it strikes."""
    call = Call(goodbye="Bye.", limits=Limits(idle=1000)).live(expires_at=6000.0 + 100)
    call.wait(56)
    assert [body["code"] for body in call.recorded("warning")] == ["provider_expires"]
    call.wait(30)
    assert call.reason == "provider_expired"
    assert call.sent(Say)[-1].text == "Bye."


# --- presence and end


def test_caller_gone_for_ten_seconds() -> None:
    """A page that stays away for 10 s hangs up; one that comes back does not."""
    call = Call().live()
    call.feed(i.CallerGone())
    call.wait(9)
    call.feed(i.CallerPresent())
    call.wait(5)
    assert call.reason is None
    call.feed(i.CallerGone())
    call.wait(11)
    assert ended(call)[0] == "caller_hangup"


def test_end_happens_once() -> None:
    """The first reason counts; whatever follows changes nothing."""
    call = Call().live()
    call.feed(i.EndSession(reason="operator", detail="enough"))
    call.feed(SessionClosed(reason="caller_hangup"), i.EndSession(reason="caller_hangup"), i.HandlerLost(1))
    assert ended(call) == ("operator", "enough")
    assert call.states().count("ended") == 1
    assert len(call.all(HangUp)) == len(call.all(StopHandler)) == 1
    call.wait(61)
    assert len(call.all(Finished)) == 1


def test_handler_ends_after_its_last_words() -> None:
    """`end` lets the words that are being said be heard."""
    call = Call().live()
    call.taken()
    said, over = call.say("Goodbye then."), call.op()
    call.feed(i.HandlerEnd(op_id=over, epoch=1))
    assert isinstance(call.answer(over), ResolveOp)
    assert call.all(HangUp) == []
    call.heard("r1", "Goodbye then.", call.spoken_command())
    assert isinstance(call.answer(said), ResolveSpeech)
    assert ended(call)[0] == "handler_ended"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("ice_failed", "ice_failed"), ("provider_expired", "provider_expired"), ("closed", "caller_hangup")],
)
def test_provider_gone(reason: str, expected: str) -> None:
    """When the provider's end is gone the session ends with its reason; nothing is sent to it any more."""
    call = Call(goodbye="Bye.").live()
    op_id = call.say("one")
    call.feed(SessionClosed.model_validate({"reason": reason}))
    assert ended(call)[0] == expected
    assert call.answer(op_id).spoken.failed == "session_ended"
    assert [say.text for say in call.sent(Say)] == ["one"]


def test_fatal_fault() -> None:
    """A fatal error of the provider ends the session and says which."""
    call = Call().live()
    call.feed(ProviderFault(code="insufficient_quota", message="no credit", fatal=True))
    assert ended(call) == ("provider_error", "insufficient_quota: no credit")


def test_harmless_fault_is_a_warning() -> None:
    """An error that the call survives is recorded."""
    call = Call().live()
    call.feed(ProviderFault(code="odd", message="strange"))
    assert call.recorded("warning") == [{"code": "odd", "message": "strange"}]
    assert call.reason is None


# --- drift


def test_drift_enforced_three_times() -> None:
    """A caller that changes the session is corrected three times, then the call ends."""
    call = Call().live()
    for _ in range(3):
        call.feed(SessionUpdated(drift=("instructions",)))
    assert len(call.sent(Update)) == 3
    assert call.reason is None
    call.feed(SessionUpdated(drift=("instructions",)))
    assert ended(call)[0] == "mismatch"
    assert [body["action"] for body in call.recorded("drift")] == ["enforced"] * 3 + ["ended"]


def test_drift_allowed_or_terminated() -> None:
    """`allow` records drift only, `terminate` ends at once."""
    allowed = Call(drift="allow").live()
    allowed.feed(SessionUpdated(drift=("tools",)), SessionUpdated())
    assert allowed.recorded("drift") == [{"fields": ["tools"], "action": "allowed"}]
    assert allowed.reason is None
    strict = Call(drift="terminate").live()
    strict.feed(SessionUpdated(drift=("tools",)))
    assert ended(strict)[0] == "mismatch"


# --- going on after a restart


def test_resumed_machine_goes_on() -> None:
    """After a restart the handler runs as resumed, the open turn comes again, counters and history go on."""
    turns = (
        i.OpenTurnSnapshot(turn_id="exe_a", item="a", number=4, text="where is it"),
        i.OpenTurnSnapshot(turn_id="exe_b", item="b", number=5, text="hello?"),
    )
    snapshot = i.Snapshot(
        handler_epoch=7, turns=5, live_for=40.0, open_turns=turns, history=({"role": "caller", "text": "hi"},)
    )
    call = Call(snapshot=snapshot, greeting="hello", limits=Limits(duration=100, warn=0, idle=1000))
    call.feed(SessionReady(model="m-1", voice="v-1"))
    assert call.all(OpenHandler) == [OpenHandler(epoch=8, resumed=True)]
    assert call.sent(Say) == []
    call.feed(i.HandlerOpened(8))
    call.input()
    call.input()
    assert [(e.turn.id, e.turn.attempt) for e in call.all(ResolveInput)] == [("exe_a", 2), ("exe_b", 1)]
    call.speaks("a", "a repeated commit")
    assert call.machine.turns.count == 5
    call.wait(59)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_duration"


def test_resumed_call_that_is_never_ready() -> None:
    """A call that cannot be taken up again in time ends with the restart as its reason."""
    call = Call(snapshot=i.Snapshot(handler_epoch=1, turns=1))
    call.feed(i.OfferAccepted())
    call.wait(31)
    assert ended(call)[0] == "control_plane_restart"
    assert len(call.all(HangUp)) == 1


def test_reply_events_for_nobody_are_ignored() -> None:
    """Events of replies that nobody knows change nothing."""
    call = Call().live()
    call.feed(ReplyEnded(reply="x", text="?"), PlayoutStopped(reply="x"), TurnStarted(item="q"))
    assert call.sent(Reply) == []
    assert call.reason is None


def test_resumed_machine_waits_for_its_calls_again() -> None:
    """A tool call that was under way is waited for again, answered once, and its id cannot be used twice."""
    open_call = i.OpenCallSnapshot(call_id="c1", target="desk.look", args={"x": 1})
    call = Call(floor="model", snapshot=i.Snapshot(handler_epoch=1, turns=1, open_calls=(open_call,), call_ids=("c1",)))
    call.feed(SessionReady(model="m-1", voice="v-1"))
    assert [(run.call_id, run.args) for run in call.all(RunTool)] == [("c1", {"x": 1})]
    call.tool("c1")
    call.feed(i.ToolFinished(call_id="c1", value=2))
    assert [(sent.call_id, sent.output) for sent in call.sent(SendToolResult)] == [("c1", "2")]
    assert len(call.sent(Reply)) == 1
