"""The beginning of a call: what was said before it was live interrupts nothing, and texts that must be heard to their end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from agentfield.realtime.commands import CancelReplyCommand, ReplyCommand, SayCommand, UpdateCommand
from agentfield.realtime.config import Say
from agentfield.realtime.events import (
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    SessionReady,
    SessionUpdated,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_server.sessions.conversation.effects import RejectOp, ResolveInput, ResumeUplink, SendCommand
from agentfield_server.sessions.conversation.inputs import OfferAccepted
from support.server.machine import WEBSOCKET, SimulatedCall

NOTICE = Say("this call is recorded", interruptible=False)
Media = Literal["bridged", "direct"]


def begun(call: SimulatedCall) -> str:
    """Let the speech that was sent begin; return its reply."""
    command = call.spoken_command()
    call.feed(ReplyStarted(reply=command, command=command), PlayoutStarted(reply=command))
    return command


def over(call: SimulatedCall, reply: str) -> None:
    """Let a reply be heard to its end."""
    call.feed(ReplyEnded(reply=reply, text="words", audio=True), PlayoutStopped(reply=reply))


def updates(call: SimulatedCall) -> list[bool]:
    return [update.interruptible for update in call.sent(UpdateCommand)]


@pytest.mark.parametrize("known", [True, None])
def test_speech_from_before_the_call_was_live_stops_nothing(known: bool | None) -> None:
    """Held audio is reported right after the greeting was sent: the greeting goes on, and the provider is told not to stop it."""
    call = SimulatedCall(media="bridged", greeting="welcome").live()
    reply = begun(call)
    call.wait(0.3)
    call.feed(TurnStarted(item="a", before_live=known))
    assert call.sent(CancelReplyCommand) == []
    call.wait(2)
    assert updates(call) == [False], "the caller is still speaking"
    asked = call.input()
    call.feed(TurnStopped(item="a"), TurnCommitted(item="a"), TurnTranscript(item="a", text="hello"))
    assert call.answer(asked).turn.text == "hello"
    assert updates(call) == [False, True]
    over(call, reply)
    assert call.recorded("speech.ended")[0]["interrupted"] is False


@pytest.mark.parametrize("media", ["bridged", "direct"])
def test_speech_that_began_after_it_was_live_interrupts(media: Media) -> None:
    """A beginning that is known to be later stops the greeting, also where the provider was told not to."""
    call = SimulatedCall(media=media, greeting="welcome").live()
    begun(call)
    call.wait(0.6)
    call.feed(TurnStarted(item="a", before_live=False))
    assert len(call.sent(CancelReplyCommand)) == 1


def test_after_the_opening_the_provider_may_interrupt_again() -> None:
    """One second after the call became live an ordinary greeting is interruptible by the provider."""
    call = SimulatedCall(greeting="welcome").live()
    begun(call)
    assert updates(call) == [False]
    call.wait(1)
    assert updates(call) == [False, True]


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_a_recording_from_before_the_call_was_live_stops_nothing(seconds: float) -> None:
    """A recording interrupts if it began after the call was live, which its length tells."""
    call = SimulatedCall(media="turns", greeting="welcome").live()
    begun(call)
    call.wait(2)
    length = round(seconds * 1000)
    call.feed(TurnStarted(item="a", at_ms=0), TurnStopped(item="a", at_ms=length), TurnCommitted(item="a"))
    assert len(call.sent(CancelReplyCommand)) == (seconds < 2)


def test_a_recording_after_the_first_turn_interrupts_however_long_it_is() -> None:
    """A recording began after the turn before it, also when it is longer than the call has been live."""
    call = SimulatedCall(media="turns", floor="model").live()
    call.feed(TurnStarted(item="a", at_ms=0), TurnStopped(item="a", at_ms=800), TurnCommitted(item="a"))
    call.feed(ReplyStarted(reply="r1"))
    call.wait(1)
    call.feed(TurnStarted(item="b", at_ms=0), TurnStopped(item="b", at_ms=9000), TurnCommitted(item="b"))
    assert len(call.sent(CancelReplyCommand)) == 1


def test_held_audio_follows_the_greeting() -> None:
    """The greeting is requested before the provider gets the audio that was held: the model would answer that first."""
    call = SimulatedCall(media="bridged", floor="model", greeting=NOTICE)
    call.feed(OfferAccepted())
    effects = call.feed(SessionReady(model="m-1", voice="v-1"))
    sent = [
        effect.command.type if isinstance(effect, SendCommand) else "audio"
        for effect in effects
        if isinstance(effect, SendCommand | ResumeUplink)
    ]
    assert sent == ["update", "say", "audio"]


def test_speech_that_began_before_the_call_was_live_is_answered_after_the_greeting() -> None:
    """On a direct pair the greeting waits until the caller is silent; the model does not answer before it."""
    call = SimulatedCall(floor="model", greeting="welcome")
    call.feed(OfferAccepted(), TurnStarted(item="a"), SessionReady(model="m-1", voice="v-1"))
    call.wait(3)
    assert updates(call) == [False]
    call.speaks("a", "hello")
    assert (call.sent(SayCommand)[0].text, call.sent(ReplyCommand)) == ("welcome", [])
    over(call, begun(call))
    assert len(call.sent(ReplyCommand)) == 1


# --- texts that must be heard to their end


@pytest.mark.parametrize("media", ["bridged", "direct", "turns"])
def test_a_turn_during_a_notice_waits_and_is_answered(media: Any) -> None:
    """The handler gets the turn when the notice was heard."""
    call = SimulatedCall(media=media, greeting=NOTICE).live()
    reply, asked = begun(call), call.input()
    call.wait(5)
    call.speaks("a", "hello")
    assert call.answer(asked) is None
    over(call, reply)
    assert call.answer(asked).turn.text == "hello"
    assert call.recorded("speech.started")[0]["interruptible"] is False
    assert call.sent(CancelReplyCommand) == []


@pytest.mark.parametrize("media", ["bridged", "direct", "turns"])
def test_the_model_answers_a_turn_that_was_spoken_during_a_notice(media: Any) -> None:
    """A provider that must not interrupt does not answer by itself: one answer is requested for all turns."""
    call = SimulatedCall(media=media, floor="model", greeting=NOTICE).live()
    reply = begun(call)
    call.wait(5)
    call.speaks("a", "hello")
    call.speaks("b", "is anybody there")
    assert call.sent(ReplyCommand) == []
    over(call, reply)
    while call.machine.speech.sent is not None:
        call.heard(f"r{call.machine.speech.sent.id}", "Here I am.", call.spoken_command())
    assert set(call.closed().values()) == {"succeeded"}
    assert len(call.closed()) == 2
    assert len(call.sent(ReplyCommand)) == 1


@pytest.mark.parametrize("confirmed", [True, False])
def test_the_order_of_events_tells_who_answers(confirmed: bool) -> None:
    """A turn that is committed before the provider confirms that it may answer again is not answered by it."""
    call = SimulatedCall(floor="model", greeting=NOTICE).live()
    reply = begun(call)
    call.wait(5)
    over(call, reply)
    assert updates(call) == [False, True]
    if confirmed:
        call.feed(SessionUpdated())
    call.speaks("a", "hello")
    assert len(call.sent(ReplyCommand)) == (not confirmed)


def test_a_goodbye_that_must_be_heard_is_not_interrupted() -> None:
    """The caller speaks over the goodbye, and it is heard to its end."""
    call = SimulatedCall(media="bridged", goodbye=NOTICE).under_way()
    call.wait(100)
    reply = begun(call)
    call.feed(TurnStarted(item="a", before_live=False), TurnCommitted(item="a"))
    over(call, reply)
    assert call.sent(CancelReplyCommand) == []
    assert (call.reason, call.recorded("speech.ended")[-1]["interrupted"]) == ("limit_idle", False)


def test_a_pair_that_cannot_protect_a_text_refuses_it() -> None:
    """`say(interruptible=False)` is refused by name, and the session's log has a warning."""
    call = SimulatedCall(media="bridged", capabilities=replace(WEBSOCKET, uninterruptible=False)).live()
    answer = call.answer(call.say("please listen", interruptible=False))
    assert isinstance(answer, RejectOp)
    assert (answer.problem["code"], answer.problem["missing"]) == ("capability_missing", ["uninterruptible"])
    assert [body["code"] for body in call.recorded("warning")] == ["capability_missing"]
    assert call.sent(SayCommand) == []


# --- turns that the model does not answer


def test_a_model_that_stays_silent_fails_the_turn() -> None:
    """After 15 s the turn is closed as failed, with a warning; the session goes on."""
    call = SimulatedCall(floor="model").under_way()
    call.speaks("a", "hello")
    call.wait(14)
    assert call.closed() == {}
    call.wait(1)
    assert list(call.closed().values()) == ["failed"]
    assert [body["code"] for body in call.recorded("warning")] == ["model_silent"]
    call.speaks("b", "hello again")
    call.heard("r1", "Yes?")
    assert list(call.closed().values()) == ["failed", "succeeded"]


def test_a_reply_that_is_refused_closes_its_turn() -> None:
    """A typed turn whose answer the provider refuses for good does not stay open."""
    call = SimulatedCall(media="bridged", floor="model").under_way()
    call.feed(TurnCommitted(item="a", text="hello"))
    call.feed(ProviderFault(code="quota", message="no", command=call.spoken_command()))
    call.wait(15)
    assert list(call.closed().values()) == ["failed"]


def test_a_word_said_while_listening_needs_no_answer() -> None:
    """A backchannel that the model does not answer is closed, not failed."""
    call = SimulatedCall(media="bridged", floor="model", interrupt_after_ms=400).under_way()
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    call.speaks("a", "mhm")
    over(call, "r1")
    call.wait(15)
    assert list(call.closed().values()) == ["succeeded"]
    assert call.all(ResolveInput) == []
