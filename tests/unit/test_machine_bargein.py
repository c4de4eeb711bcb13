"""The caller speaks over the agent where the machine has to stop it: carried audio, recorded turns, backchannels."""

from __future__ import annotations

from typing import Literal

import pytest

from agentfield.realtime.commands import CancelReply, Reply, Say, Update
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
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import CancelTool, ResolveInput
from unit.machine_kit import Call

WORDS = "alpha beta gamma delta"


def saying(text: str = WORDS, **fields: object) -> tuple[Call, str]:
    """Return a call in which a say is being heard, and the op of that say."""
    call = Call(**{"media": "bridged", **fields}).live()  # type: ignore[arg-type]
    call.taken("first")
    op_id = call.say(text)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    return call, op_id


def test_caller_stops_the_reply_while_it_is_generated() -> None:
    """Speech of the caller cancels at once; what was heard is measured, by its share of what was generated."""
    call, op_id = saying()
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    assert call.sent(CancelReply) == [CancelReply(reply="r1", heard_ms=1000)]
    call.feed(Interrupted(reply="r1", heard_ms=1100, method="marks"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=2200))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (1100, "marks", "alpha beta")
    assert len(call.sent(CancelReply)) == 1


def test_word_of_what_was_heard_is_not_waited_for_for_ever() -> None:
    """Without a word about it a cut speech resolves by the clock, clamped to what there was."""
    call, op_id = saying()
    call.wait(2)
    call.feed(TurnStarted(item="a"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=1500))
    assert call.answer(op_id) is None
    call.wait(0.7)
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (1500, "wallclock", WORDS)


def test_provider_that_stopped_by_itself() -> None:
    """A provider that stopped generating leaves audio on its way: it is thrown away, once, and the tools hear of it."""
    call, op_id = saying()
    call.wait(1)
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted", text=WORDS, audio=True, audio_ms=2200))
    assert call.sent(CancelReply) == [CancelReply(reply="r1", heard_ms=1000)]
    call.feed(TurnStarted(item="a"), Interrupted(reply="r1", heard_ms=900, method="marks"))
    assert len(call.sent(CancelReply)) == 1
    assert call.answer(op_id).spoken.heard_ms == 900


def test_turn_is_told_what_was_heard_of_the_speech_it_interrupts() -> None:
    """`turn.heard` is what was measured, also when that is told after the turn was committed."""
    call, _ = saying()
    asked = call.input()
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=4400))
    call.wait(1)
    call.feed(TurnStarted(item="a"), TurnStopped(item="a"), TurnCommitted(item="a"))
    call.feed(Interrupted(reply="r1", heard_ms=2300, method="marks"), TurnTranscript(item="a", text="wait"))
    assert call.answer(asked).turn.heard == "alpha beta"


def test_uninterruptible_say_is_not_stopped_by_us() -> None:
    """An uninterruptible say is heard to its end where we would stop it, and the next one is interruptible again."""
    call = Call(media="bridged").live()
    op_id = call.say("please listen", interruptible=False)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.speaks("a", "but")
    call.feed(ReplyEnded(reply="r1", text="please listen", audio=True, audio_ms=800), PlayoutStopped(reply="r1"))
    assert call.sent(CancelReply) == []
    assert (call.answer(op_id).spoken.interrupted, call.answer(op_id).spoken.heard_ms) == (False, 800)
    assert [update.interruptible for update in call.sent(Update)] == [False, True]


def test_caller_who_speaks_before_the_reply_begins() -> None:
    """A say that was sent when the caller began to speak is stopped when it begins; silence lets it be said."""
    for speaking in (True, False):
        call = Call(media="bridged").live()
        call.say(WORDS)
        call.feed(TurnStarted(item="a"))
        if not speaking:
            call.feed(TurnDiscarded(item="a", why="cleared"))
        call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
        assert len(call.sent(CancelReply)) == speaking


def test_tools_hear_of_the_interruption_by_the_caller_only() -> None:
    """A tool that is cancelled by an interruption is cancelled when the caller speaks, not when the handler cancels."""
    for by_caller in (True, False):
        call = Call(media="bridged", floor="model").live()
        call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
        call.feed(ToolRequested(call_id="c1", name="desk.stop", arguments="{}", reply="r1"))
        if by_caller:
            call.feed(TurnStarted(item="a"))
        else:
            call.feed(i.CancelSpeech(op_id="x", epoch=call.epoch))
        call.feed(Interrupted(reply="r1", heard_ms=0, method="marks"))
        assert len(call.sent(CancelReply)) == 1
        assert len(call.all(CancelTool)) == by_caller


def test_late_start_of_a_turn_stops_nothing() -> None:
    """A start that is told after its turn was committed is no news, and the answer to that turn goes on."""
    call = Call(media="bridged").live()
    call.taken("a")
    call.say(WORDS)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), TurnStarted(item="a"))
    assert call.sent(CancelReply) == []
    assert call.machine.turns.speaking is None


def test_model_that_wins_the_race_for_the_slot() -> None:
    """A request that waits is dropped when the model answers by itself; one that was refused for it is made again."""
    call = Call(media="bridged", floor="model").live()
    call.feed(TurnStarted(item="a"), i.TextInput("and by the way"))
    assert call.sent(Reply) == []
    call.speaks("a", "where is it")
    call.heard("r1", "Here, by the way.")
    call.wait(1)
    assert call.sent(Reply) == []
    assert sorted(body["stale"] for body in call.recorded("speech.ended")) == [False, True]
    busy = Call(media="bridged", floor="model").live()
    busy.feed(i.TextInput("and by the way"))
    refused = ProviderFault(code="busy", message="busy", retry=True, command=busy.spoken_command())
    busy.feed(refused, ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    busy.feed(ReplyEnded(reply="r1", text=WORDS, audio=True), PlayoutStopped(reply="r1"))
    busy.wait(1)
    assert len(busy.sent(Reply)) == 2


# --- recorded turns and push to talk


def test_recorded_turn_interrupts_by_being_there() -> None:
    """A recorded turn that comes while a reply runs stops it; the same turn again does not."""
    call, op_id = saying(media="turns")
    call.wait(1)
    call.feed(TurnCommitted(item="b"))
    assert len(call.sent(CancelReply)) == 1
    call.feed(Interrupted(reply="r1", heard_ms=1000), ReplyEnded(reply="r1", status="cancelled", why="asked"))
    assert call.answer(op_id).spoken.interrupted is True
    call.feed(TurnTranscript(item="b", text="no, stop"))
    call.input()
    assert call.all(ResolveInput)[-1].turn.heard
    call.say("all right")
    call.feed(ReplyStarted(reply="r2", command=call.spoken_command()), TurnCommitted(item="b"))
    assert len(call.sent(CancelReply)) == 1


def test_recorded_turn_before_the_reply_begins() -> None:
    """A turn that comes before a sent say has begun stops it at its beginning."""
    call = Call(media="turns").live()
    call.taken("a")
    op_id = call.say(WORDS)
    call.feed(TurnCommitted(item="b"), ReplyStarted(reply="r1", command=call.spoken_command()))
    assert len(call.sent(CancelReply)) == 1
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=""))
    assert call.answer(op_id).spoken.interrupted is True


def test_push_to_talk_interrupts() -> None:
    """Where the caller says when a turn is over, that turn interrupts: nobody else could stop the reply."""
    for media in ("bridged", "direct"):
        call, _ = saying(media=media, turn_detection=None)
        call.feed(TurnCommitted(item="b"))
        assert len(call.sent(CancelReply)) == 1


def test_words_of_a_recorded_turn_may_take_longer() -> None:
    """A recorded turn waits for its words for 20 s instead of 3."""
    call = Call(media="turns").live()
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
    """Speech shorter than `interrupt_after_ms` is recorded as a backchannel; it is a turn, and nothing gets stale by it."""
    for media in ("bridged", "direct"):
        call, first = saying(media=media, interrupt_after_ms=400)
        second = call.say("epsilon zeta")
        call.feed(TurnStarted(item="b"))
        call.wait(0.8)  # 300 ms of speech and the 500 ms of silence that end it
        call.feed(TurnStopped(item="b"), TurnCommitted(item="b"), TurnTranscript(item="b", text="mhm"))
        assert call.recorded("backchannel") == [{"item": "b"}]
        assert call.sent(CancelReply) == []
        call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True), PlayoutStopped(reply="r1"))
        assert call.answer(first).spoken.interrupted is False
        call.heard("r2", "epsilon zeta", call.spoken_command())
        assert call.answer(second).spoken.stale is False
        assert [body["text"] for body in call.recorded("turn.committed")] == ["hello", "mhm"]


def test_longer_speech_stops_the_reply() -> None:
    """When the caller goes on speaking the reply is stopped, and what remains is told."""
    for media in ("bridged", "direct"):
        call, op_id = saying(media=media, interrupt_after_ms=400)
        call.feed(TurnStarted(item="b"))
        call.wait(0.8)
        assert call.sent(CancelReply) == []
        call.wait(0.2)
        assert [command.reply for command in call.sent(CancelReply)] == ["r1"]
        call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text=WORDS, audio=True, audio_ms=1800))
        call.wait(1)
        spoken = call.answer(op_id).spoken
        assert (spoken.interrupted, spoken.heard_text, spoken.remaining) == (True, "alpha beta", "gamma delta")
        assert call.recorded("backchannel") == []


def test_speech_while_nothing_is_said_is_no_backchannel() -> None:
    """A short word while the agent is silent is a turn like any other."""
    call = Call(media="bridged", interrupt_after_ms=400).live()
    call.speaks("a", "yes")
    assert call.recorded("backchannel") == []
    assert len(call.recorded("turn.committed")) == 1


def test_turn_after_a_backchannel_makes_stale() -> None:
    """A real turn after a backchannel makes a say for the older turn stale, as ever."""
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
    assert len(call.sent(Say)) == 2


@pytest.mark.parametrize(
    ("media", "unsaid"), [("bridged", "wallclock"), ("turns", "wallclock"), ("direct", "provider")]
)
@pytest.mark.parametrize("method", ["marks", "wallclock", "provider", None])
def test_of_what_was_heard_whole_it_is_told_how_that_is_known(
    media: str, unsaid: str, method: Literal["marks", "wallclock", "provider"] | None
) -> None:
    """The method is that of the playout's end; where that says nothing, it is never claimed to be better than it may be."""
    call, op_id = saying(media=media)
    call.feed(ReplyEnded(reply="r1", text=WORDS, audio=True, audio_ms=2200), PlayoutStopped(reply="r1", method=method))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_text, spoken.heard_method) == (2200, WORDS, method or unsaid)
