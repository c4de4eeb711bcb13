"""Answers of the model that fail: the turn fails with the reason at once, a short wait stays within the turn, `on_error` is spoken."""

from __future__ import annotations

from typing import Any

import pytest

from agentfield.realtime.commands import ReplyCommand, SayCommand
from agentfield.realtime.events import ProviderFault, ReplyEnded, ReplyStarted
from agentfield_server.sessions.conversation.effects import CloseTurn
from support.server.machine import SimulatedCall


def turns_call(**fields: Any) -> SimulatedCall:
    """Return a call of recorded turns on the model's floor, whose first turn is being answered."""
    call = SimulatedCall(media="turns", floor="model", turn_detection=None, on_error="Sorry.", **fields).live()
    call.speaks("a", "question")
    return call


def refuse(call: SimulatedCall, code: str = "rate_limit_exceeded", **fields: Any) -> None:
    call.feed(ProviderFault(code=code, message="Slow down.", command=call.spoken_command(), **fields))


def problem(call: SimulatedCall) -> Any:
    (closed,) = call.all(CloseTurn)
    assert closed.status == "failed"
    return closed.problem


def test_a_refused_answer_fails_its_turn_and_on_error_is_spoken() -> None:
    """A refusal that is final for this command ends the turn without any wait; the session goes on."""
    call = turns_call()
    refuse(call, "invalid_request")
    assert [sent.text for sent in call.sent(SayCommand)] == ["Sorry."]
    call.heard("r1", "Sorry.", call.spoken_command())
    found = problem(call)
    assert (found["code"], found["provider_code"]) == ("provider_error", "invalid_request")
    assert "Slow down." in found["detail"]
    call.speaks("b", "again")
    call.heard("r2", "Here you are.", call.spoken_command())
    assert list(call.closed().values()) == ["failed", "succeeded"]
    assert call.reason is None


def test_a_short_retry_after_is_waited_for_once() -> None:
    """The answer is asked for again when the provider's time is over, and then succeeds within the same turn."""
    call = turns_call()
    refuse(call, retry=True, retry_after=3.0)
    call.wait(2.9)
    assert len(call.sent(ReplyCommand)) == 1
    call.wait(0.2)
    assert len(call.sent(ReplyCommand)) == 2
    call.heard("r1", "Here you are.", call.spoken_command())
    assert list(call.closed().values()) == ["succeeded"]
    assert call.sent(SayCommand) == []


def test_a_second_refusal_after_the_wait_fails_the_turn() -> None:
    """The provider's time is waited for once."""
    call = turns_call()
    refuse(call, retry=True, retry_after=1.0)
    call.wait(1.1)
    refuse(call, retry=True, retry_after=1.0)
    assert len(call.sent(ReplyCommand)) == 2
    assert [sent.text for sent in call.sent(SayCommand)] == ["Sorry."]


def test_a_long_retry_after_fails_the_turn_with_it() -> None:
    """A longer time is in the error, so that the caller's side can wait itself."""
    call = turns_call()
    refuse(call, retry=True, retry_after=30.0)
    call.heard("r1", "Sorry.", call.spoken_command())
    assert len(call.sent(ReplyCommand)) == 1
    assert problem(call)["retry_after"] == 30.0


def test_a_temporary_refusal_is_tried_a_few_times() -> None:
    """A refusal without a time (an HTML page of a proxy, 502) is tried again for about two seconds, then the turn fails."""
    call = turns_call()
    for _ in range(5):
        refuse(call, "provider_unavailable", retry=True)
        call.wait(0.6)
    assert len(call.sent(ReplyCommand)) == 5
    call.heard("r1", "Sorry.", call.spoken_command())
    assert problem(call)["provider_code"] == "provider_unavailable"
    assert call.reason is None


@pytest.mark.parametrize("media", ["direct", "bridged", "turns"])
def test_an_answer_that_fails_while_it_is_generated_fails_its_turn(media: str) -> None:
    """An answer that the provider gave up is a failed turn, on every medium."""
    call = SimulatedCall(media=media, floor="model", on_error="Sorry.").live()
    call.speaks("a", "question")
    asked = call.sent(ReplyCommand)
    command = asked[0].id if asked else None
    call.feed(ReplyStarted(reply="r1", command=command))
    call.feed(ReplyEnded(reply="r1", command=command, status="failed", why="server_error"))
    call.heard("r2", "Sorry.", call.spoken_command())
    assert problem(call)["provider_code"] == "server_error"


def test_an_answer_that_never_begins_fails_its_turn() -> None:
    """A requested answer that the provider neither begins nor refuses fails its turn after the wait."""
    call = turns_call()
    call.wait(16)
    call.heard("r1", "Sorry.", call.spoken_command())
    assert problem(call)["provider_code"] == "provider_timeout"


def test_the_handler_learns_of_a_failed_answer_itself() -> None:
    """On the handler's floor `reply` resolves with the failure, and the turn is the handler's."""
    call = SimulatedCall(on_error="Sorry.").live()
    call.taken()
    op_id = call.reply()
    refuse(call, retry=True, retry_after=30.0)
    assert call.answer(op_id).spoken.failed == "rate_limit_exceeded"
    call.input()
    assert list(call.closed().values()) == ["succeeded"]
    assert call.sent(SayCommand) == []
