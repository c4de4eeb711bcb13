"""A stock client on the caller's data channel: it asks for answers and answers tool calls by itself, and nothing is spoken twice."""

from __future__ import annotations

from typing import Any

import pytest

from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, ReplyCommand, ToolResultCommand
from agentfield.realtime.events import (
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    ToolTampered,
    TurnCommitted,
)
from agentfield_server.sessions.conversation.inputs import TextInput, ToolFinished
from support.server.machine import SimulatedCall

ACTIVE = "conversation_already_has_active_response"


def busy(call: SimulatedCall) -> ProviderFault:
    return ProviderFault(code=ACTIVE, message="busy", retry=True, command=call.spoken_command())


def replies(call: SimulatedCall) -> list[str | None]:
    """Return the outcomes of the replies: the code of a failure, `stale`, or None."""
    ended = call.recorded("speech.ended")
    return ["stale" if each["stale"] else each["failed"] for each in ended if each["asked"] is None]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("cancels", [False, True])
def test_a_typed_message_is_answered_once(cancels: bool, late: bool) -> None:
    """A page that types a text and asks for its answer gets one answer, also when it cancels that one."""
    call = SimulatedCall(floor="model").live()
    call.feed(TurnCommitted(item="typed", text="Where is my order?"))
    if late:
        call.wait(1)
    call.feed(ReplyStarted(reply="page"))
    if late:
        call.feed(busy(call))
    if cancels:
        call.feed(ReplyEnded(reply="page", status="cancelled", why="asked"))
    else:
        call.heard("page", "In the post.")
    call.wait(30)
    assert len(call.sent(ReplyCommand)) == late
    assert replies(call) == ["stale", None]
    assert len(call.closed()) == 1


def test_a_request_that_comes_after_the_pages_answer_is_stopped() -> None:
    """Our request may reach the provider when the page's answer is over already: what it begins is stopped at once."""
    call = SimulatedCall(floor="model").live()
    call.feed(TurnCommitted(item="typed", text="Where is my order?"))
    call.wait(1)
    command = call.spoken_command()
    call.feed(ReplyStarted(reply="page"), ReplyEnded(reply="page", status="cancelled", why="asked"))
    call.feed(ReplyStarted(reply="ours", command=command))
    assert [sent.reply for sent in call.sent(CancelReplyCommand)] == ["ours"]
    call.feed(ReplyEnded(reply="ours", command=command, status="cancelled", why="asked"))
    call.wait(30)
    assert len(call.sent(ReplyCommand)) == 1


def test_a_text_whose_client_does_not_ask_is_answered() -> None:
    """A client that only adds a text gets an answer after a moment."""
    call = SimulatedCall(floor="model").live()
    call.feed(TurnCommitted(item="typed", text="Where is my order?"))
    assert call.sent(ReplyCommand) == []
    call.wait(0.6)
    assert len(call.sent(ReplyCommand)) == 1


def test_a_request_without_an_outcome_is_forgotten() -> None:
    """A provider that neither refuses nor begins the unnecessary request delays nothing, and no warning is recorded."""
    call = SimulatedCall(floor="model").live()
    call.feed(TurnCommitted(item="typed", text="Where is my order?"))
    call.wait(1)
    call.heard("page", "In the post.")
    call.wait(30)
    assert replies(call)[-1] == "stale"
    assert call.recorded("warning") == []


def test_a_text_that_the_provider_does_not_have_yet_is_answered() -> None:
    """A reply that began before the provider had the typed text does not answer it: the request is sent again."""
    call = SimulatedCall(floor="model").live()
    call.feed(TextInput("Where is my order?"))
    (typed,) = call.sent(AddTextCommand)
    call.feed(ReplyStarted(reply="r1"), busy(call))
    call.feed(TurnCommitted(item=typed.item, text=typed.text))
    call.heard("r1", "Hello there.")
    call.wait(30)
    assert len(call.sent(ReplyCommand)) == 2


def called(**fields: Any) -> SimulatedCall:
    """Return a call whose model has called a tool; the tool runs."""
    call = SimulatedCall(floor="model", **fields).live()
    call.speaks("a", "question")
    call.feed(ReplyStarted(reply="r1"))
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", tools=1))
    return call


@pytest.mark.parametrize("finished_first", [False, True])
def test_the_answer_to_a_foreign_tool_result_is_stopped(finished_first: bool) -> None:
    """A client that answers a tool call gets no reply about it; the model continues with the tool's own result."""
    call = called()
    if finished_first:
        call.feed(ToolFinished(call_id="c1", value="found", execution_id="exe_c1"))
    call.feed(ToolTampered(call_id="c1"), ReplyStarted(reply="page"))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="page")]
    if finished_first:
        call.feed(busy(call))
    call.feed(ReplyEnded(reply="page", status="cancelled", why="asked"))
    if not finished_first:
        call.feed(ToolFinished(call_id="c1", value="found", execution_id="exe_c1"))
    call.wait(1)
    assert [sent.output for sent in call.sent(ToolResultCommand)] == ['"found"']
    call.heard("r2", "it was found", call.spoken_command())
    call.wait(10)
    assert list(call.closed().values()) == ["succeeded"]
    assert [each["code"] for each in call.recorded("warning")] == ["tampered_output", "unasked_reply"]
    assert [each["generated"] for each in call.recorded("speech.ended")] == ["", "it was found"]


def test_a_new_turn_is_answered_after_a_foreign_tool_result() -> None:
    """Only replies about the foreign result are stopped, not the model's answer to what the caller says next."""
    call = called()
    call.feed(ToolTampered(call_id="c1"))
    call.speaks("b", "never mind")
    call.heard("r2", "all right")
    assert call.sent(CancelReplyCommand) == []


def test_warnings_of_a_session_are_bounded() -> None:
    """A provider that reports problems without an end does not fill the log."""
    call = called()
    for number in range(600):
        call.feed(ToolTampered(call_id=f"c{number}"))
    found = [each["code"] for each in call.recorded("warning")]
    assert (len(found), found[-1]) == (500, "too_many_warnings")
