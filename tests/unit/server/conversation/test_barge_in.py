"""Barge-in where the machine stops the speech: carried audio, recorded turns, backchannels."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from agentfield.realtime.commands import CancelReplyCommand, ReplyCommand, SayCommand, UpdateCommand
from agentfield.realtime.events import (
    Interrupted,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    ToolRequested,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_server.sessions.conversation.effects import CancelTool, ResolveInput
from agentfield_server.sessions.conversation.inputs import CancelSpeech, TextInput
from support.server.machine import WEBSOCKET, SimulatedCall

WORDS = "alpha beta gamma delta"


def saying(text: str = WORDS, **fields: object) -> tuple[SimulatedCall, str]:
    """Return a call in which a `say` is playing, and its op id."""
    call = SimulatedCall(**{"media": "bridged", **fields}).under_way()  # type: ignore[arg-type]
    call.taken("first")
    op_id = call.say(text)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    return call, op_id


def test_caller_stops_the_reply_while_it_is_generated() -> None:
    """The caller's speech cancels the reply at once; what was heard is its share of what was generated."""
    call, op_id = saying()
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=1000)]
    call.feed(Interrupted(reply="r1", heard_ms=1100, method="marks"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=2200))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (1100, "marks", "alpha beta")
    assert len(call.sent(CancelReplyCommand)) == 1


def test_missing_measurement_falls_back_to_the_clock() -> None:
    """Without a report of what was heard a cut speech resolves by the clock, at most with what was generated."""
    call, op_id = saying()
    call.wait(2)
    call.feed(TurnStarted(item="a"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=1500))
    assert call.answer(op_id) is None
    call.wait(0.7)
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (1500, "wallclock", WORDS)


def test_audio_left_by_a_provider_that_stopped_by_itself_is_dropped_once() -> None:
    """A provider that stopped generating leaves queued audio: it is dropped once, and the reply's tools are interrupted."""
    call, op_id = saying()
    call.wait(1)
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted", text=WORDS, audio=True, audio_ms=2200))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=1000)]
    call.feed(TurnStarted(item="a"), Interrupted(reply="r1", heard_ms=900, method="marks"))
    assert len(call.sent(CancelReplyCommand)) == 1
    assert call.answer(op_id).spoken.heard_ms == 900


def test_turn_carries_what_was_heard_of_the_speech_it_interrupts() -> None:
    """`turn.heard` is the measured text, also if the measurement arrives after the commit."""
    call, _ = saying()
    asked = call.input()
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=4400))
    call.wait(1)
    call.feed(TurnStarted(item="a"), TurnStopped(item="a"), TurnCommitted(item="a"))
    call.feed(Interrupted(reply="r1", heard_ms=2300, method="marks"), TurnTranscript(item="a", text="wait"))
    assert call.answer(asked).turn.heard == "alpha beta"


def test_uninterruptible_say_is_not_stopped() -> None:
    """An uninterruptible say plays to its end where the machine would stop it; the next one is interruptible again."""
    call = SimulatedCall(media="bridged").live()
    op_id = call.say("please listen", interruptible=False)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.speaks("a", "but")
    call.feed(ReplyEnded(reply="r1", text="please listen", audio=True, audio_ms=800), PlayoutStopped(reply="r1"))
    assert call.sent(CancelReplyCommand) == []
    assert (call.answer(op_id).spoken.interrupted, call.answer(op_id).spoken.heard_ms) == (False, 800)
    assert [update.interruptible for update in call.sent(UpdateCommand)] == [False, True]


def test_caller_speaks_before_the_reply_begins() -> None:
    """A say that was sent when the caller began to speak is stopped when it begins; if the caller is silent by then, it plays."""
    for speaking in (True, False):
        call = SimulatedCall(media="bridged").under_way()
        call.say(WORDS)
        call.feed(TurnStarted(item="a"))
        if not speaking:
            call.feed(TurnDiscarded(item="a", why="cleared"))
        call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
        assert len(call.sent(CancelReplyCommand)) == speaking


def test_tools_are_cancelled_by_an_interruption_only() -> None:
    """A tool with `on_interrupt="cancel"` is cancelled when the caller speaks, not when the handler cancels."""
    for by_caller in (True, False):
        call = SimulatedCall(media="bridged", floor="model").under_way()
        call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
        call.feed(ToolRequested(call_id="c1", name="shop.stop", arguments="{}", reply="r1"))
        if by_caller:
            call.feed(TurnStarted(item="a"))
        else:
            call.feed(CancelSpeech(op_id="x", epoch=call.epoch))
        call.feed(Interrupted(reply="r1", heard_ms=0, method="marks"))
        assert len(call.sent(CancelReplyCommand)) == 1
        assert len(call.all(CancelTool)) == by_caller


def test_late_start_of_a_turn_stops_nothing() -> None:
    """A start that arrives after its turn's commit is ignored, and the answer to that turn continues."""
    call = SimulatedCall(media="bridged").live()
    call.taken("a")
    call.say(WORDS)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), TurnStarted(item="a"))
    assert call.sent(CancelReplyCommand) == []
    assert call.machine.turns.speaking is None


def test_model_begins_before_the_requested_reply() -> None:
    """A queued request is dropped when the model answers by itself; a refused one is sent again."""
    call = SimulatedCall(media="bridged", floor="model").live()
    call.feed(TurnStarted(item="a"), TextInput("and by the way"))
    assert call.sent(ReplyCommand) == []
    call.speaks("a", "where is it")
    call.heard("r1", "Here, by the way.")
    call.wait(1)
    assert call.sent(ReplyCommand) == []
    assert sorted(body["stale"] for body in call.recorded("speech.ended")) == [False, True]
    busy = SimulatedCall(media="bridged", floor="model").live()
    busy.feed(TextInput("and by the way"))
    refused = ProviderFault(code="busy", message="busy", retry=True, command=busy.spoken_command())
    busy.feed(refused, ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    busy.feed(ReplyEnded(reply="r1", text=WORDS, audio=True), PlayoutStopped(reply="r1"))
    busy.wait(1)
    assert len(busy.sent(ReplyCommand)) == 2


# --- recorded turns and push to talk


def test_recorded_turn_interrupts_by_its_commit() -> None:
    """A recorded turn that arrives during a reply stops it; the same turn again does not."""
    call, op_id = saying(media="turns")
    call.wait(1)
    call.feed(TurnCommitted(item="b"))
    assert len(call.sent(CancelReplyCommand)) == 1
    call.feed(Interrupted(reply="r1", heard_ms=1000), ReplyEnded(reply="r1", status="cancelled", why="asked"))
    assert call.answer(op_id).spoken.interrupted is True
    call.feed(TurnTranscript(item="b", text="no, stop"))
    call.input()
    assert call.all(ResolveInput)[-1].turn.heard
    call.say("all right")
    call.feed(ReplyStarted(reply="r2", command=call.spoken_command()), TurnCommitted(item="b"))
    assert len(call.sent(CancelReplyCommand)) == 1


def test_recorded_turn_before_the_reply_begins() -> None:
    """A turn that arrives before a sent say has begun stops the say when it begins."""
    call = SimulatedCall(media="turns").under_way()
    call.taken("a")
    op_id = call.say(WORDS)
    call.feed(TurnCommitted(item="b"), ReplyStarted(reply="r1", command=call.spoken_command()))
    assert len(call.sent(CancelReplyCommand)) == 1
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=""))
    assert call.answer(op_id).spoken.interrupted is True


def test_push_to_talk_interrupts() -> None:
    """Where the caller commits turns, the commit interrupts: the provider detects no speech."""
    for media in ("bridged", "direct"):
        call, _ = saying(media=media, turn_detection=None)
        call.feed(TurnCommitted(item="b"))
        assert len(call.sent(CancelReplyCommand)) == 1


def test_recorded_turn_waits_longer_for_its_words() -> None:
    """A recorded turn waits 20 s for its words instead of 3 s."""
    call = SimulatedCall(media="turns").live()
    op_id = call.input()
    call.feed(TurnCommitted(item="a"))
    call.wait(15)
    call.feed(TurnTranscript(item="a", text="a long story"))
    assert call.answer(op_id).turn.text == "a long story"
    call.input()
    call.feed(TurnCommitted(item="b"))
    call.wait(21)
    assert call.all(ResolveInput)[-1].turn.text_missing == "timeout"


# --- backchannels


def test_backchannel_stops_nothing() -> None:
    """Speech shorter than `interrupt_after_ms` is recorded as a backchannel; it is a turn, and makes nothing stale."""
    for media in ("bridged", "direct"):
        call, first = saying(media=media, interrupt_after_ms=400)
        second = call.say("epsilon zeta")
        call.feed(TurnStarted(item="b"))
        call.wait(0.8)  # 300 ms of speech and the 500 ms of silence that end it
        call.feed(TurnStopped(item="b"), TurnCommitted(item="b"), TurnTranscript(item="b", text="mhm"))
        assert call.recorded("backchannel") == [{"item": "b"}]
        assert call.sent(CancelReplyCommand) == []
        call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True), PlayoutStopped(reply="r1"))
        assert call.answer(first).spoken.interrupted is False
        call.heard("r2", "epsilon zeta", call.spoken_command())
        assert call.answer(second).spoken.stale is False
        assert [body["text"] for body in call.recorded("turn.committed")] == ["hello", "mhm"]


def test_longer_speech_stops_the_reply() -> None:
    """If the caller continues to speak the reply is stopped, and its remaining words are reported."""
    for media in ("bridged", "direct"):
        call, op_id = saying(media=media, interrupt_after_ms=400)
        call.feed(TurnStarted(item="b"))
        call.wait(0.8)
        assert call.sent(CancelReplyCommand) == []
        call.wait(0.2)
        assert [command.reply for command in call.sent(CancelReplyCommand)] == ["r1"]
        call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=1800))
        call.wait(1)
        spoken = call.answer(op_id).spoken
        assert (spoken.interrupted, spoken.heard_text, spoken.remaining) == (True, "alpha beta", "gamma delta")
        assert call.recorded("backchannel") == []


def test_short_speech_without_a_reply_is_no_backchannel() -> None:
    """A short word while the agent is silent is a turn like any other."""
    call = SimulatedCall(media="bridged", interrupt_after_ms=400).live()
    call.speaks("a", "yes")
    assert call.recorded("backchannel") == []
    assert len(call.recorded("turn.committed")) == 1


def test_turn_after_a_backchannel_makes_a_say_stale() -> None:
    """A real turn after a backchannel makes a say for the older turn stale."""
    call, _ = saying(interrupt_after_ms=400)
    second = call.say("epsilon")
    call.speaks("b", "mhm")
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True), PlayoutStopped(reply="r1"))
    call.heard("r2", "epsilon", call.spoken_command())
    assert call.answer(second).spoken.stale is False
    call.feed(TurnStarted(item="c"))
    call.wait(1.5)
    call.speaks("c", "stop that please")
    third = call.say("zeta")
    assert call.answer(third).spoken.stale is True
    assert len(call.sent(SayCommand)) == 2


@pytest.mark.parametrize(
    ("media", "unsaid"), [("bridged", "wallclock"), ("turns", "wallclock"), ("direct", "provider")]
)
@pytest.mark.parametrize("method", ["marks", "wallclock", "provider", None])
def test_heard_method_of_a_fully_heard_speech(
    media: str, unsaid: str, method: Literal["marks", "wallclock", "provider"] | None
) -> None:
    """The method is that of the end of playout; if that has none, the weakest one that applies."""
    call, op_id = saying(media=media)
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=2200), PlayoutStopped(reply="r1", method=method))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_text, spoken.heard_method) == (2200, WORDS, method or unsaid)


# --- a provider that stops its replies itself, over media that the control plane carries

SERVER = replace(WEBSOCKET, interruption="server", truncation="none")


def answering(**fields: object) -> SimulatedCall:
    """Return a call on the model's floor in which the model's answer is playing."""
    call = SimulatedCall(media="bridged", capabilities=SERVER, floor="model", **fields).under_way()  # type: ignore[arg-type]
    call.speaks("first", "hello")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    return call


def test_the_provider_stops_what_it_generates() -> None:
    """While it generates, a provider that interrupts by itself is not told to stop."""
    call = answering()
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    assert not call.sent(CancelReplyCommand)
    call.feed(Interrupted(reply="r1", heard_ms=900, method="marks"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted", text=WORDS, audio=True, audio_ms=2200))
    ended = call.recorded("speech.ended")[-1]
    assert (ended["interrupted"], ended["heard_ms"], ended["heard_method"]) == (True, 900, "marks")
    assert not call.sent(CancelReplyCommand)


def test_the_caller_stops_what_the_provider_has_generated() -> None:
    """What is generated no provider stops: the caller's speech stops the playback."""
    call = answering()
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=9000))
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=1000)]
    call.feed(Interrupted(reply="r1", heard_ms=1100, method="marks"))
    assert call.recorded("speech.ended")[-1]["heard_ms"] == 1100


def test_generation_that_ends_under_the_callers_speech_is_stopped() -> None:
    """The provider has generated everything before it noticed the caller: nobody but the machine stops the playback."""
    call = answering()
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=9000))
    assert [command.reply for command in call.sent(CancelReplyCommand)] == ["r1"]


def test_an_answer_under_speech_that_goes_on_is_played() -> None:
    """The caller spoke on when the model began to answer: the model heard it, so its answer is played."""
    call = SimulatedCall(media="bridged", capabilities=SERVER, floor="model").under_way()
    call.speaks("first", "hello")
    call.feed(TurnStarted(item="a"))
    call.wait(0.5)
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=2200))
    assert not call.sent(CancelReplyCommand)


def test_without_interruption_nothing_is_stopped() -> None:
    """A pair that declares no interruption plays its replies to the end."""
    call = SimulatedCall(media="bridged", capabilities=replace(SERVER, interruption="none"), floor="model").under_way()
    call.speaks("first", "hello")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=9000), TurnStarted(item="a"))
    assert not call.sent(CancelReplyCommand)
