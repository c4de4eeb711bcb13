"""Rotation of the provider's session: before its expiry, after a broken connection, a second offer or a restart."""

from __future__ import annotations

import pytest

from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, ReplyCommand, SayCommand, ToolResultCommand
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
from agentfield_server.sessions.conversation.effects import (
    CloseRootExecution,
    CloseTurn,
    Effect,
    OpenHandler,
    ResumeUplink,
    Rotate,
    SendCommand,
)
from agentfield_server.sessions.conversation.history import MAX_CHARS, MAX_ENTRIES, truncate_history
from agentfield_server.sessions.conversation.inputs import (
    OfferAccepted,
    OpenCallSnapshot,
    OpenTurnSnapshot,
    ProviderFailed,
    Snapshot,
    ToolFinished,
)
from support.server.machine import SimulatedCall

LIMITS = Limits(idle=5000, duration=5000, warn=30)
BROKEN = SessionClosed(reason="closed", message="reset", retry=True)


def expiring(seconds: float = 200, **fields: object) -> SimulatedCall:
    """Return a live call on a carried pair whose provider session expires in some seconds."""
    call = SimulatedCall(**{"media": "bridged", "limits": LIMITS, **fields})  # type: ignore[arg-type]
    return call.live(expires_at=6000.0 + seconds)


def codes(call: SimulatedCall) -> list[str]:
    return [body["code"] for body in call.recorded("warning")]


def replayed(call: SimulatedCall) -> list[tuple[str, str]]:
    return [(command.role, command.text) for command in call.sent(AddTextCommand)]


def before(effects: list[Effect], kind: type[Effect]) -> list[Effect]:
    """Return the effects before the first of a kind."""
    return effects[: [isinstance(effect, kind) for effect in effects].index(True)]


# --- before the expiry


def test_quiet_session_rotates_a_minute_before_it_expires() -> None:
    """The handler is warned, then a replacement takes over in the first quiet moment, and the call continues."""
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
    assert len(call.sent(SayCommand)) == 1
    assert len(call.all(ResumeUplink)) == 1, "of the session before"
    brought = call.ready(expires_at=call.now + 5000 + 200)
    assert replayed(call) == [("user", "where is it"), ("assistant", "It is on its way.")]
    assert [e.command.text for e in before(brought, ResumeUplink) if isinstance(e, SendCommand)] == [
        "where is it",
        "It is on its way.",
    ]
    assert call.sent(SayCommand)[-1].text == "Anything else?"
    assert call.states() == ["connecting", "live"]
    assert len(call.all(OpenHandler)) == 1
    assert len(call.recorded("provider.attached")) == 2
    call.heard("r2", "Anything else?", call.spoken_command())
    call.wait(150)
    assert len(call.all(Rotate)) == 2


def test_rotation_waits_for_a_quiet_moment() -> None:
    """Speech of either side and running tools delay the rotation; it begins when they end."""
    call = expiring(floor="model")
    call.wait(139)
    call.speaks("a", "look it up")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    call.tool("c1")
    call.wait(5)
    call.feed(ReplyEnded(reply="r1", text="", tools=1))
    assert call.all(Rotate) == []
    call.feed(ToolFinished(call_id="c1", value=1))
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


def test_rotation_is_forced_before_the_expiry() -> None:
    """Fifteen seconds before the expiry the active speech is cut and recorded so; the other speeches follow afterwards."""
    call = expiring()
    call.taken("a")
    call.wait(139)
    op_id = call.say("alpha beta gamma delta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha beta gamma delta", audio=True, audio_ms=92_000))
    call.wait(46)
    assert len(call.all(Rotate)) == 1
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=46_000)]
    spoken = call.answer(op_id).spoken
    assert (spoken.failed, spoken.heard_text) == ("provider_rotated", "alpha beta")
    call.ready()
    assert replayed(call)[-1] == ("assistant", "alpha beta")


def test_results_after_a_rotation_go_in_as_text() -> None:
    """A result that arrives after the rotation goes in as text, and the model is asked to continue."""
    call = expiring(floor="model")
    call.speaks("a", "look it up")
    call.feed(ReplyStarted(reply="r1"))
    call.tool("c1")
    call.tool("c2", "shop.slow")
    call.feed(ReplyEnded(reply="r1", text="", tools=2))
    call.feed(ToolFinished(call_id="c1", value="here"))
    before = len(call.sent(ToolResultCommand))
    call.feed(BROKEN)
    call.ready()
    told = [text for role, text in replayed(call) if role == "system"]
    assert [('"here"' in text, "pending" in text) for text in told] == [(True, False), (False, True)]
    assert len(call.sent(ReplyCommand)) == 1
    call.feed(ToolFinished(call_id="c2", value="there"))
    assert '"there"' in call.sent(AddTextCommand)[-1].text
    assert len(call.sent(ToolResultCommand)) == before


def test_events_of_the_old_session_are_ignored() -> None:
    """While a replacement is opened, replies, tools and the end of the old session are ignored; turns still count."""
    call = expiring(floor="model")
    call.feed(BROKEN, ReplyStarted(reply="rx"), SessionClosed(reason="provider_expired"))
    call.tool("cx", reply="rx")
    call.feed(TurnStarted(item="a"), TurnCommitted(item="a"), TurnTranscript(item="a", text="are you there"))
    assert call.reason is None
    assert call.sent(CancelReplyCommand) == []
    assert call.recorded("tool.refused") == []
    call.ready()
    assert replayed(call) == [("user", "are you there")]
    assert len(call.sent(ReplyCommand)) == 1


def test_unfinished_turn_of_a_lost_session_is_discarded() -> None:
    """A turn that had begun in the broken session is recorded as discarded, and its end is not awaited."""
    call = expiring()
    call.feed(TurnStarted(item="a"), BROKEN)
    assert call.recorded("turn.discarded") == [{"item": "a", "why": "provider_lost"}]
    call.ready()
    call.say("Sorry?")
    assert len(call.sent(SayCommand)) == 1


# --- a line that breaks


def test_broken_connection_is_replaced() -> None:
    """The active speech fails, a speech that had not begun is sent again, the open turn continues."""
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


def test_model_is_asked_again_for_an_answer_that_broke_off() -> None:
    """On the model's floor the answer that broke off is requested again, once, for the same turn."""
    call = expiring(floor="model")
    call.speaks("a", "hello")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"), BROKEN)
    assert call.closed() == {}
    call.ready()
    assert len(call.sent(ReplyCommand)) == 1
    call.heard("r2", "Hi again.", call.spoken_command())
    assert list(call.closed().values()) == ["succeeded"]


def test_say_that_was_sent_and_had_not_begun_is_sent_again() -> None:
    """Nothing of such a say can have been heard, so it has not failed."""
    call = expiring()
    op_id = call.say("alpha")
    call.feed(BROKEN)
    assert call.answer(op_id) is None
    call.ready()
    assert [say.text for say in call.sent(SayCommand)] == ["alpha", "alpha"]
    assert len(call.recorded("speech.started")) == 1


def test_rotations_are_limited() -> None:
    """At most three replacements are opened within a minute; then the call ends with that detail."""
    call = expiring()
    for _ in range(3):
        call.feed(BROKEN)
        call.ready()
    assert len(call.all(Rotate)) == 3
    call.feed(BROKEN)
    (end,) = call.all(CloseRootExecution)
    assert end.reason == "provider_error"
    assert "3 others" in (end.detail or "")
    patient = expiring(5000)
    for _ in range(5):
        patient.feed(BROKEN)
        patient.ready()
        patient.wait(25)
    assert patient.reason is None


def test_replacement_that_cannot_be_opened() -> None:
    """A failed opening is tried again after a moment, a refused one is not, and the wait has a deadline."""
    call = expiring()
    call.feed(BROKEN, ProviderFailed("no answer", retry=True))
    assert len(call.all(Rotate)) == 1
    call.wait(1)
    assert len(call.all(Rotate)) == 2
    call.ready()
    assert call.reason is None
    refused = expiring()
    refused.feed(BROKEN, ProviderFailed("no such model"))
    assert refused.all(CloseRootExecution)[0] == CloseRootExecution("provider_error", "no such model")
    fatal = expiring()
    fatal.feed(BROKEN, ProviderFault(code="invalid_api_key", message="bad key", fatal=True))
    assert fatal.all(CloseRootExecution)[0].reason == "provider_error"
    fatal.feed(ProviderFailed("no answer", retry=True))
    fatal.wait(5)
    assert len(fatal.all(Rotate)) == 1
    silent = expiring()
    silent.feed(BROKEN)
    silent.wait(31)
    assert silent.all(CloseRootExecution)[0].reason == "provider_error"


def test_broken_connection_of_a_direct_call_ends_it() -> None:
    """Where the audio does not pass through the control plane, a broken connection ends the call."""
    call = SimulatedCall().live(expires_at=6100.0)
    call.feed(BROKEN)
    assert call.all(Rotate) == []
    assert len(call.all(CloseRootExecution)) == 1


def test_limits_continue_through_a_rotation() -> None:
    """The session's duration is not restarted by a rotation."""
    call = expiring(100, limits=Limits(duration=150, warn=0, idle=1000))
    call.wait(50)
    assert len(call.all(Rotate)) == 1
    call.ready(expires_at=call.now + 5000 + 1000)
    call.wait(99)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_duration"


def test_replacement_with_another_model_ends_the_call() -> None:
    """Another model after a rotation ends the call as it would at the beginning."""
    call = expiring()
    call.feed(BROKEN)
    call.ready(model="m-2")
    assert call.all(CloseRootExecution)[0].reason == "mismatch"


# --- new conversations


def test_second_offer_replays_the_history() -> None:
    """A caller that comes back with a new call continues the conversation."""
    call = SimulatedCall().live()
    call.taken("a", "hello")
    call.say("alpha beta")
    call.heard("r1", "alpha beta", call.spoken_command())
    call.live()
    assert replayed(call) == [("user", "hello"), ("assistant", "alpha beta")]


@pytest.mark.parametrize(("media", "told"), [("direct", False), ("bridged", True), ("turns", True)])
def test_restart_replays_the_history_into_an_empty_session(media: str, told: bool) -> None:
    """After a restart the history goes into a new provider session; one that is attached to again has it."""
    open_call = OpenCallSnapshot(call_id="c1", target="shop.look", args={})
    snapshot = Snapshot(
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
    call = SimulatedCall(snapshot=snapshot, media=media, floor="model")
    call.feed(OfferAccepted(), SessionReady(model="m-1", voice="v-1"))
    assert replayed(call)[:2] == ([("user", "hi"), ("assistant", "hello")] if told else [])
    call.feed(ToolFinished(call_id="c1", value=7))
    assert len(call.sent(ToolResultCommand)) == (not told)
    assert len(call.sent(ReplyCommand)) == 1


@pytest.mark.parametrize(("media", "asked"), [("direct", 0), ("bridged", 1)])
def test_answer_that_a_restart_cut_off_is_requested_again(media: str, asked: int) -> None:
    """On the model's floor an open turn is answered in the new conversation; one that is attached to continues itself."""
    turn = OpenTurnSnapshot(turn_id="exe_a", item="a", number=1, text="where is it")
    history = ({"role": "caller", "turn_id": "exe_a", "text": "where is it"},)
    snapshot = Snapshot(handler_epoch=1, turns=1, open_turns=(turn,), history=history)
    call = SimulatedCall(snapshot=snapshot, media=media, floor="model")
    call.feed(OfferAccepted(), SessionReady(model="m-1", voice="v-1"))
    assert len(call.sent(ReplyCommand)) == asked


def test_replayed_history_is_bounded() -> None:
    """The newest 60 entries and 16000 characters are replayed; an omission is marked."""
    lines = [("user", f"line {n}") for n in range(100)]
    kept = truncate_history(lines)  # type: ignore[arg-type]
    assert kept[0][0] == "system"
    assert kept[1:] == lines[-MAX_ENTRIES:]
    assert truncate_history(lines[:5]) == lines[:5]  # type: ignore[arg-type]
    long = truncate_history([("user", "x" * 9000), ("assistant", "y" * 9000)])
    assert [role for role, _ in long] == ["system", "assistant"]
    assert len(truncate_history([("user", "x" * 20_000)])[-1][1]) == MAX_CHARS
    assert truncate_history([]) == []
