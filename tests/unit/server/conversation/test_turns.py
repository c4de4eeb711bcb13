"""Turns: their order, their words, waiting and closing."""

from __future__ import annotations

import pytest

from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, ReplyCommand, SayCommand
from agentfield.realtime.config import Limits
from agentfield.realtime.events import (
    Interrupted,
    PlayoutStarted,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_server.sessions.conversation.effects import Broadcast, OpenTurn, RejectOp, ResolveInput
from agentfield_server.sessions.conversation.inputs import EndSession, OfferAccepted, TextInput
from support.server.machine import SimulatedCall


def texts(call: SimulatedCall) -> list[str | None]:
    return [effect.turn.text for effect in call.all(ResolveInput)]


def test_input_resolves_with_the_final_transcript() -> None:
    """A turn is given out when its words are final, with times since the epoch."""
    call = SimulatedCall().live()
    op_id = call.input()
    call.speaks("a")
    assert call.answer(op_id) is None
    call.feed(TurnTranscript(item="a", text="where is", final=False), TurnTranscript(item="a", text="where is it"))
    turn = call.answer(op_id).turn
    assert (turn.text, turn.text_missing, turn.attempt, turn.started_at) == ("where is it", None, 1, 6000.0)
    assert call.recorded("turn.committed") == [
        {"turn_id": turn.id, "item": "a", "text": "where is it", "text_missing": None}
    ]
    assert [e.turn_id for e in call.all(OpenTurn)] == [turn.id]


@pytest.mark.parametrize("failed", [True, False])
def test_turn_without_a_transcript(failed: bool) -> None:
    """Words that fail or do not arrive within 3 s leave a turn without text, with the reason."""
    call = SimulatedCall().live()
    op_id = call.input()
    call.speaks("a")
    if failed:
        call.feed(TurnTranscript(item="a", text="", failed="asr_down"))
    else:
        call.wait(2.9)
        assert call.answer(op_id) is None
        call.wait(0.2)
    turn = call.answer(op_id).turn
    assert (turn.text, turn.text_missing) == (None, "asr_down" if failed else "timeout")


@pytest.mark.parametrize(("spoken", "waited"), [(1.0, 3.0), (6.0, 3.0), (20.0, 10.0), (30.0, 15.0), (50.0, 20.0)])
def test_a_longer_turn_is_waited_for_longer(spoken: float, waited: float) -> None:
    """A transcript is waited for half as long as the caller spoke, at least 3 s and at most 20 s."""
    call = SimulatedCall().live()
    op_id = call.input()
    call.feed(TurnStarted(item="a"))
    call.wait(spoken)
    call.feed(TurnStopped(item="a"), TurnCommitted(item="a"))
    call.wait(waited - 0.1)
    assert call.answer(op_id) is None
    call.feed(TurnTranscript(item="a", text="all the words"))
    assert call.answer(op_id).turn.text == "all the words"
    second = call.input()
    call.feed(TurnStarted(item="b"))
    call.wait(spoken)
    call.feed(TurnStopped(item="b"), TurnCommitted(item="b", previous="a"))
    call.wait(waited + 0.1)
    assert call.answer(second).turn.text_missing == "timeout"


def test_late_words_are_recorded_and_the_turn_does_not_change() -> None:
    """Words that arrive after the wait are an event and part of the history; they make no second turn."""
    call = SimulatedCall().live()
    taken = call.input()
    call.speaks("a")
    call.wait(4)
    turn = call.answer(taken).turn
    call.feed(TurnTranscript(item="a", text="never mind", failed="asr_down"), TurnTranscript(item="a", text=" "))
    assert call.recorded("turn.transcript") == []
    call.feed(TurnTranscript(item="a", text="la", final=False), TurnTranscript(item="a", text="late"))
    call.feed(TurnTranscript(item="a", text="late"), TurnTranscript(item="x", text="nobody's"))
    call.input()
    assert texts(call) == [None]
    assert call.recorded("turn.transcript") == [{"turn_id": turn.id, "item": "a", "text": "late", "late": True}]
    assert call.machine.state.history[-1] == {"role": "caller", "turn_id": turn.id, "text": "late"}
    heard = [effect.body for effect in call.all(Broadcast) if effect.body.get("late")]
    assert [(body["turn_id"], body["text"]) for body in heard] == [(turn.id, "late")]


def test_late_words_of_a_waiting_turn_reach_the_handler() -> None:
    """A turn that was not handed out yet gets its late words."""
    call = SimulatedCall().live()
    call.speaks("a")
    call.wait(4)
    call.feed(TurnTranscript(item="a", text="late"))
    op_id = call.input()
    assert (call.answer(op_id).turn.text, call.answer(op_id).turn.text_missing) == ("late", None)


def test_order_is_by_predecessor_not_by_transcript() -> None:
    """The second turn waits for the words of the first, however early its own arrive."""
    call = SimulatedCall().live()
    call.input()
    call.input()
    call.speaks("a")
    call.speaks("b", previous="a")
    call.feed(TurnTranscript(item="b", text="second"))
    assert texts(call) == []
    call.feed(TurnTranscript(item="a", text="first"))
    assert texts(call) == ["first", "second"]


def test_turn_waits_for_a_predecessor_that_is_being_spoken() -> None:
    """A turn whose predecessor is not committed waits for it, at most 3 s."""
    for late in (False, True):
        call = SimulatedCall().live()
        call.input()
        call.input()
        call.feed(TurnStarted(item="a"), TurnCommitted(item="b", previous="a"), TurnTranscript(item="b", text="second"))
        assert texts(call) == []
        call.wait(3.5 if late else 1)
        call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text="first"))
        assert texts(call) == (["second", "first"] if late else ["first", "second"])


def test_repeated_commit_is_one_turn() -> None:
    """A repeated commit makes one turn."""
    call = SimulatedCall().live()
    call.input()
    call.input()
    call.speaks("a", "hello")
    call.speaks("a", "hello")
    assert texts(call) == ["hello"]


def test_empty_transcript_is_discarded() -> None:
    """Noise without words is no turn, and is recorded as discarded."""
    call = SimulatedCall().live()
    op_id = call.input()
    call.speaks("a", "  ")
    assert call.answer(op_id) is None
    assert call.recorded("turn.discarded") == [{"item": "a", "why": "empty"}]
    assert call.all(OpenTurn) == []


def test_turn_that_the_provider_discards() -> None:
    """What the provider discards is recorded once and never given out."""
    call = SimulatedCall().live()
    call.feed(TurnStarted(item="a"), TurnDiscarded(item="a", why="cleared"), TurnDiscarded(item="a", why="cleared"))
    assert call.recorded("turn.discarded") == [{"item": "a", "why": "cleared"}]


def test_ninth_waiting_turn_is_discarded() -> None:
    """Eight turns wait for the handler; a ninth is discarded with an event."""
    call = SimulatedCall().live()
    for n in range(9):
        call.speaks(f"i{n}", f"turn {n}")
    assert call.recorded("turn.discarded") == [{"item": "i8", "why": "too_many"}]
    for _ in range(9):
        call.input()
    assert texts(call) == [f"turn {n}" for n in range(8)]


def test_turn_closes_when_the_next_is_asked_for_and_speech_is_over() -> None:
    """A turn's execution succeeds once the handler asks for the next and its speech was heard."""
    call = SimulatedCall().live()
    turn_id = call.taken()
    call.say("hi there")
    call.input()
    assert call.closed() == {}
    call.heard("r1", "hi there", call.spoken_command())
    assert call.closed() == {turn_id: "succeeded"}


def test_turn_is_cancelled_at_the_end() -> None:
    """A turn that the handler still works on is cancelled when the session ends."""
    call = SimulatedCall().live()
    turn_id = call.taken()
    call.feed(EndSession(reason="caller_hangup"))
    assert call.closed() == {turn_id: "cancelled"}


def test_turn_reports_what_was_heard_of_the_speech_it_interrupted() -> None:
    """A turn that interrupted a speech carries the words that the caller had heard."""
    call = SimulatedCall().live()
    call.taken()
    call.say("one two three four five six seven eight nine ten")
    command = call.spoken_command()
    call.feed(ReplyStarted(reply="r1", command=command), PlayoutStarted(reply="r1"))
    call.wait(1)
    call.feed(TurnStarted(item="b"), Interrupted(reply="r1", heard_ms=1000, method="provider"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted", text="one two three four five six seven"))
    op_id = call.input()
    call.speaks("b", "stop")
    assert call.answer(op_id).turn.heard == "one two three"


def test_typed_text_is_a_turn() -> None:
    """Typed text enters the conversation and is a turn at once."""
    call = SimulatedCall().live()
    op_id = call.input()
    call.feed(TextInput("typed"))
    (command,) = call.sent(AddTextCommand)
    assert (command.text, command.role) == ("typed", "user")
    assert call.answer(op_id).turn.text == "typed"
    call.feed(TurnCommitted(item=command.item, text="typed"))
    call.input()
    assert texts(call) == ["typed"]


def test_typed_text_on_model_floor_asks_the_model() -> None:
    """On the model's floor typed text is answered by one requested reply."""
    call = SimulatedCall(floor="model").live()
    call.feed(TextInput("typed"))
    assert len(call.sent(ReplyCommand)) == 1


def test_model_floor_turn_opens_at_commit_and_closes_after_the_reply() -> None:
    """On the model's floor the turn exists before its late transcript and closes after both."""
    call = SimulatedCall(floor="model").live()
    call.speaks("a")
    (opened,) = call.all(OpenTurn)
    call.heard("r1", "answer")
    assert call.closed() == {}
    call.feed(TurnTranscript(item="a", text="question"))
    assert call.closed() == {opened.turn_id: "succeeded"}


def test_a_turn_without_words_is_not_answered() -> None:
    """On the model's floor the answer that was requested to noise is cancelled when it begins; the next turn is answered."""
    call = SimulatedCall(media="turns", floor="model", turn_detection=None, on_error="sorry").live()
    call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text=" "))
    assert call.recorded("turn.discarded") == [{"item": "a", "why": "empty"}]
    (noise,) = call.sent(ReplyCommand)
    call.feed(ReplyStarted(reply="r1", command=noise.id))
    assert [command.reply for command in call.sent(CancelReplyCommand)] == ["r1"]
    call.feed(ReplyEnded(reply="r1", command=noise.id, status="cancelled"))
    call.speaks("b", "hello")
    assert len(call.sent(ReplyCommand)) == 2


def test_a_refused_answer_to_a_turn_without_words_is_no_failure() -> None:
    """Nothing is spoken about an answer that nobody waits for."""
    call = SimulatedCall(media="turns", floor="model", turn_detection=None, on_error="sorry").live()
    call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text=""))
    (noise,) = call.sent(ReplyCommand)
    call.feed(ProviderFault(code="overloaded", message="no", command=noise.id, fatal=False))
    assert not call.sent(SayCommand)


def test_an_answer_to_a_turn_without_words_is_not_requested() -> None:
    """It waited for another speech when the words turned out to be none."""
    call = SimulatedCall(media="turns", floor="model", turn_detection=None).live()
    call.say("one moment", interruptible=False)
    call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text=""))
    call.heard("r1", "one moment")
    assert not call.sent(ReplyCommand)


def test_limit_of_turns() -> None:
    """The turn after the last allowed one ends the session."""
    call = SimulatedCall(limits=Limits(turns=1)).live()
    call.taken()
    call.speaks("b", "more")
    assert call.reason == "limit_turns"


def test_input_after_the_end_is_refused() -> None:
    """A pending and a later `input` are rejected with the reason of the end."""
    call = SimulatedCall().live()
    waiting = call.input()
    call.feed(EndSession(reason="operator"))
    later = call.input()
    for op_id in (waiting, later):
        answer = call.answer(op_id)
        assert isinstance(answer, RejectOp)
        assert (answer.problem["code"], answer.problem["reason"]) == ("session_ended", "operator")


def test_a_text_typed_before_the_call_is_live_is_a_turn() -> None:
    """The caller's connection is open before the provider's session is: what it types meanwhile is not lost."""
    call = SimulatedCall(media="bridged")
    call.feed(OfferAccepted(), *(TextInput(f"text {number}") for number in range(9)))
    assert not call.sent(AddTextCommand)
    call.live()
    assert [command.text for command in call.sent(AddTextCommand)] == [f"text {number}" for number in range(8)]


def test_a_text_typed_before_a_call_that_never_is_live_is_dropped() -> None:
    """Nothing is kept beyond the end."""
    call = SimulatedCall(media="bridged")
    call.feed(OfferAccepted(), TextInput("hello"), EndSession(reason="operator"), TextInput("again"))
    assert not call.recorded("turn.committed")
