"""Another provider session takes over: before the expiry, after a broken line, after a second offer or a restart."""

from __future__ import annotations

import pytest

from agentfield.realtime.commands import AddText, CancelReply, Reply, Say, SendToolResult
from agentfield.realtime.config import Limits
from agentfield.realtime.events import (
    PlayoutStarted,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
)
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import CloseTurn, Effect, Ended, OpenHandler, Rotate, SendCommand, TakeAudio
from agentfield_server.sessions.replay import MAX_CHARS, MAX_ENTRIES, newest
from unit.machine_kit import Call

LIMITS = Limits(idle=5000, duration=5000, warn=30)
BROKEN = SessionClosed(reason="closed", message="reset", retry=True)


def expiring(seconds: float = 200, **fields: object) -> Call:
    """Return a live call on a carried pair whose provider session expires in so many seconds."""
    call = Call(**{"media": "bridged", "limits": LIMITS, **fields})  # type: ignore[arg-type]
    return call.live(expires_at=6000.0 + seconds)


def codes(call: Call) -> list[str]:
    return [body["code"] for body in call.recorded("warning")]


def replayed(call: Call) -> list[tuple[str, str]]:
    return [(command.role, command.text) for command in call.sent(AddText)]


def before(effects: list[Effect], kind: type[Effect]) -> list[Effect]:
    """Return the effects before the first of a kind."""
    return effects[: [isinstance(effect, kind) for effect in effects].index(True)]


# --- before the expiry


def test_quiet_session_rotates_a_minute_before_it_expires() -> None:
    """The handler is warned, then in the first quiet moment another session takes over and the call goes on."""
    call = expiring()
    call.taken("a", "where is it")
    call.say("It is on its way.")
    call.heard("r1", "It is on its way.", call.spoken_command())
    call.wait(108.5)
    assert codes(call) == []
    call.wait(1)
    assert codes(call) == ["provider_expires"]
    call.wait(29)
    assert call.all(Rotate) == []
    call.wait(1)
    assert call.all(Rotate) == [Rotate()]
    assert codes(call) == ["provider_expires", "provider_rotated"]
    call.say("Anything else?")
    assert len(call.sent(Say)) == 1
    assert len(call.all(TakeAudio)) == 1, "of the session before"
    brought = call.ready(expires_at=call.now + 5000 + 200)
    assert replayed(call) == [("user", "where is it"), ("assistant", "It is on its way.")]
    assert [e.command.text for e in before(brought, TakeAudio) if isinstance(e, SendCommand)] == [
        "where is it",
        "It is on its way.",
    ]
    assert call.sent(Say)[-1].text == "Anything else?"
    assert call.states() == ["connecting", "live"]
    assert len(call.all(OpenHandler)) == 1
    assert len(call.recorded("provider.attached")) == 2
    call.heard("r2", "Anything else?", call.spoken_command())
    call.wait(150)
    assert len(call.all(Rotate)) == 2


def test_rotation_waits_for_a_quiet_moment() -> None:
    """Speech of either side and tools that run put it off; their end is the moment."""
    call = expiring(floor="model")
    call.wait(139)
    call.speaks("a", "look it up")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    call.tool("c1")
    call.wait(5)
    call.feed(ReplyEnded(reply="r1", text="", tools=1))
    assert call.all(Rotate) == []
    call.feed(i.ToolFinished(call_id="c1", value=1))
    call.heard("r2", "Found it.", call.spoken_command())
    assert len(call.all(Rotate)) == 1
    assert call.closed() == {call.all(CloseTurn)[0].turn_id: "succeeded"}


def test_rotation_waits_for_the_model_to_answer() -> None:
    """On the model's floor a committed turn is answered first."""
    call = expiring(floor="model")
    call.wait(139)
    call.feed(TurnStarted(item="a"))
    call.wait(2)
    call.speaks("a", "hello")
    assert call.all(Rotate) == []
    call.heard("r1", "Hi.")
    assert len(call.all(Rotate)) == 1


def test_rotation_does_not_wait_for_ever() -> None:
    """Fifteen seconds before the expiry what is being said is cut, told as such, and the rest goes on afterwards."""
    call = expiring()
    call.taken("a")
    call.wait(139)
    op_id = call.say("alpha beta gamma delta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha beta gamma delta", audio=True, audio_ms=92_000))
    call.wait(46)
    assert len(call.all(Rotate)) == 1
    assert call.sent(CancelReply) == [CancelReply(reply="r1", heard_ms=46_000)]
    spoken = call.answer(op_id).spoken
    assert (spoken.failed, spoken.heard_text) == ("provider_rotated", "alpha beta")
    call.ready()
    assert replayed(call)[-1] == ("assistant", "alpha beta")


def test_tools_that_run_report_as_text() -> None:
    """A result that comes after the rotation goes in as text, and the model is asked to go on."""
    call = expiring(floor="model")
    call.speaks("a", "look it up")
    call.feed(ReplyStarted(reply="r1"))
    call.tool("c1")
    call.tool("c2", "desk.slow")
    call.feed(ReplyEnded(reply="r1", text="", tools=2))
    call.feed(i.ToolFinished(call_id="c1", value="here"))
    before = len(call.sent(SendToolResult))
    call.feed(BROKEN)
    call.ready()
    told = [text for role, text in replayed(call) if role == "system"]
    assert [('"here"' in text, "pending" in text) for text in told] == [(True, False), (False, True)]
    assert len(call.sent(Reply)) == 1
    call.feed(i.ToolFinished(call_id="c2", value="there"))
    assert '"there"' in call.sent(AddText)[-1].text
    assert len(call.sent(SendToolResult)) == before


def test_old_session_is_not_listened_to() -> None:
    """While another session is opened, replies, tools and the end of the old one mean nothing; turns still count."""
    call = expiring(floor="model")
    call.feed(BROKEN, ReplyStarted(reply="rx"), SessionClosed(reason="provider_expired"))
    call.tool("cx", reply="rx")
    call.feed(TurnStarted(item="a"), TurnCommitted(item="a"), TurnTranscript(item="a", text="are you there"))
    assert call.reason is None
    assert call.sent(CancelReply) == []
    assert call.recorded("tool.refused") == []
    call.ready()
    assert replayed(call) == [("user", "are you there")]
    assert len(call.sent(Reply)) == 1


def test_what_the_caller_was_saying_is_not_lost_in_silence() -> None:
    """A turn that was begun in the session that broke is recorded as discarded, and nobody waits for its end."""
    call = expiring()
    call.feed(TurnStarted(item="a"), BROKEN)
    assert call.recorded("turn.discarded") == [{"item": "a", "why": "provider_lost"}]
    call.ready()
    call.say("Sorry?")
    assert len(call.sent(Say)) == 1


# --- a line that breaks


def test_broken_line_is_replaced() -> None:
    """What was being said fails, what had not begun is sent again, the open turn goes on."""
    call = expiring()
    turn_id = call.taken("a", "hello")
    first = call.say("alpha beta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    second = call.say("gamma")
    call.feed(BROKEN)
    assert call.answer(first).spoken.failed == "provider_lost"
    assert call.closed() == {}
    call.ready()
    call.heard("r2", "gamma", call.spoken_command())
    assert call.answer(second).spoken.failed is None
    call.done()
    assert call.closed() == {turn_id: "succeeded"}
    assert codes(call) == ["provider_lost"]


def test_model_is_asked_again_for_what_it_was_saying() -> None:
    """On the model's floor the answer that broke off is asked for again, once, for the same turn."""
    call = expiring(floor="model")
    call.speaks("a", "hello")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"), BROKEN)
    assert call.closed() == {}
    call.ready()
    assert len(call.sent(Reply)) == 1
    call.heard("r2", "Hi again.", call.spoken_command())
    assert list(call.closed().values()) == ["succeeded"]


def test_say_that_was_sent_and_had_not_begun_is_sent_again() -> None:
    """Nothing of it can have been heard, so it is no failure."""
    call = expiring()
    op_id = call.say("alpha")
    call.feed(BROKEN)
    assert call.answer(op_id) is None
    call.ready()
    assert [say.text for say in call.sent(Say)] == ["alpha", "alpha"]
    assert len(call.recorded("speech.started")) == 1


def test_line_that_breaks_again_and_again() -> None:
    """At most three sessions are opened within a minute; then the call ends and says why."""
    call = expiring()
    for _ in range(3):
        call.feed(BROKEN)
        call.ready()
    assert len(call.all(Rotate)) == 3
    call.feed(BROKEN)
    (end,) = call.all(Ended)
    assert end.reason == "provider_error"
    assert "3 others" in (end.detail or "")
    patient = expiring(5000)
    for _ in range(5):
        patient.feed(BROKEN)
        patient.ready()
        patient.wait(25)
    assert patient.reason is None


def test_session_that_cannot_be_opened() -> None:
    """A failed opening is tried again after a moment, a refusal is not, and nobody waits for ever."""
    call = expiring()
    call.feed(BROKEN, i.ProviderFailed("no answer", retry=True))
    assert len(call.all(Rotate)) == 1
    call.wait(1)
    assert len(call.all(Rotate)) == 2
    call.ready()
    assert call.reason is None
    refused = expiring()
    refused.feed(BROKEN, i.ProviderFailed("no such model"))
    assert refused.all(Ended)[0] == Ended("provider_error", "no such model")
    fatal = expiring()
    fatal.feed(BROKEN, ProviderFault(code="invalid_api_key", message="bad key", fatal=True))
    assert fatal.all(Ended)[0].reason == "provider_error"
    fatal.feed(i.ProviderFailed("no answer", retry=True))
    fatal.wait(5)
    assert len(fatal.all(Rotate)) == 1
    silent = expiring()
    silent.feed(BROKEN)
    silent.wait(31)
    assert silent.all(Ended)[0].reason == "provider_error"


def test_line_of_a_direct_call_is_not_replaced() -> None:
    """Where the media does not pass through us a broken line ends the call."""
    call = Call().live(expires_at=6100.0)
    call.feed(BROKEN)
    assert call.all(Rotate) == []
    assert len(call.all(Ended)) == 1


def test_limits_count_on_through_a_rotation() -> None:
    """The session's own duration is not begun anew by another provider session."""
    call = expiring(100, limits=Limits(duration=150, warn=0, idle=1000))
    call.wait(50)
    assert len(call.all(Rotate)) == 1
    call.ready(expires_at=call.now + 5000 + 1000)
    call.wait(99)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_duration"


def test_other_session_must_be_what_was_asked_for() -> None:
    """Another model after a rotation ends the call like at its beginning."""
    call = expiring()
    call.feed(BROKEN)
    call.ready(model="m-2")
    assert call.all(Ended)[0].reason == "mismatch"


# --- new conversations


def test_second_offer_is_told_the_history() -> None:
    """A caller that comes back with a new call finds the conversation where it was."""
    call = Call().live()
    call.taken("a", "hello")
    call.say("alpha beta")
    call.heard("r1", "alpha beta", call.spoken_command())
    call.live()
    assert replayed(call) == [("user", "hello"), ("assistant", "alpha beta")]


@pytest.mark.parametrize(("media", "told"), [("direct", False), ("bridged", True), ("turns", True)])
def test_restart_replays_where_the_conversation_is_new(media: str, told: bool) -> None:
    """After a restart the history goes into a new session; a call that is attached to again knows it."""
    open_call = i.OpenCallSnapshot(call_id="c1", target="desk.look", args={})
    snapshot = i.Snapshot(
        handler_epoch=1,
        turns=1,
        open_calls=(open_call,),
        call_ids=("c1",),
        history=(
            {"role": "caller", "turn_id": "t", "text": "hi"},
            {"role": "agent", "speech_id": "s", "asked": None, "generated": "hello there", "heard_text": "hello"},
            {"role": "caller", "turn_id": "u", "text": None},
        ),
    )
    call = Call(snapshot=snapshot, media=media, floor="model")
    call.feed(i.OfferAccepted(), SessionReady(model="m-1", voice="v-1"))
    assert replayed(call)[:2] == ([("user", "hi"), ("assistant", "hello")] if told else [])
    call.feed(i.ToolFinished(call_id="c1", value=7))
    assert len(call.sent(SendToolResult)) == (not told)
    assert len(call.sent(Reply)) == 1


@pytest.mark.parametrize(("media", "asked"), [("direct", 0), ("bridged", 1)])
def test_answer_that_a_restart_cut_off_is_asked_for_again(media: str, asked: int) -> None:
    """On the model's floor an open turn is answered in the new conversation; one that is attached to goes on itself."""
    turn = i.OpenTurnSnapshot(turn_id="exe_a", item="a", number=1, text="where is it")
    history = ({"role": "caller", "turn_id": "exe_a", "text": "where is it"},)
    snapshot = i.Snapshot(handler_epoch=1, turns=1, open_turns=(turn,), history=history)
    call = Call(snapshot=snapshot, media=media, floor="model")
    call.feed(i.OfferAccepted(), SessionReady(model="m-1", voice="v-1"))
    assert len(call.sent(Reply)) == asked


def test_replay_is_bounded_and_says_so() -> None:
    """The newest 60 entries and 16000 characters are replayed; what is left out is marked."""
    lines = [("user", f"line {n}") for n in range(100)]
    kept = newest(lines)  # type: ignore[arg-type]
    assert kept[0][0] == "system"
    assert kept[1:] == lines[-MAX_ENTRIES:]
    assert newest(lines[:5]) == lines[:5]  # type: ignore[arg-type]
    long = newest([("user", "x" * 9000), ("assistant", "y" * 9000)])
    assert [role for role, _ in long] == ["system", "assistant"]
    assert len(newest([("user", "x" * 20_000)])[-1][1]) == MAX_CHARS
    assert newest([]) == []
