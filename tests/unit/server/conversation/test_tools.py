"""Tool calls: the allowlist, results, pending answers, and the follow-up request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfield.realtime.commands import AddTextCommand, ReplyCommand, ToolResultCommand
from agentfield.realtime.config import Limits
from agentfield.realtime.events import Interrupted, ReplyEnded, ReplyStarted, TurnStarted, TurnStopped
from agentfield_server.sessions.conversation.effects import CancelTool, RejectOp, ResolveCall, RunTool
from agentfield_server.sessions.conversation.inputs import EndSession, HandlerCall, ToolFinished
from support.server.machine import SimulatedCall


def finish(call: SimulatedCall, call_id: str, value: Any = None, **fields: Any) -> None:
    call.feed(ToolFinished(call_id=call_id, value=value, execution_id=f"exe_of_{call_id}", **fields))


def results(call: SimulatedCall) -> dict[str, Any]:
    return {command.call_id: json.loads(command.output) for command in call.sent(ToolResultCommand)}


def model_call(**fields: Any) -> SimulatedCall:
    """Return a call on the model's floor whose first reply is calling tools."""
    call = SimulatedCall(floor="model", **fields).live()
    call.speaks("a", "question")
    call.feed(ReplyStarted(reply="r1"))
    return call


def test_tool_runs_and_the_model_continues() -> None:
    """A listed tool runs under its turn; its result is sent, and one reply is requested after the calling one ended."""
    call = model_call()
    call.tool("c1", arguments='{"order": 427}')
    (run,) = call.all(RunTool)
    assert (run.target, run.args, run.kind) == ("shop.look", {"order": 427}, "tool")
    assert run.turn_id == call.recorded("turn.committed")[0]["turn_id"]
    finish(call, "c1", {"state": "found"})
    assert results(call) == {"c1": {"state": "found"}}
    assert call.sent(ReplyCommand) == []
    call.feed(ReplyEnded(reply="r1", tools=1))
    (asked,) = call.sent(ReplyCommand)
    call.heard("r2", "it was found", asked.id)
    assert list(call.closed().values()) == ["succeeded"]
    assert call.recorded("tool.answered") == [{"call_id": "c1", "execution_id": "exe_of_c1", "pending": False}]


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("shop.secret", "{}", "not_listed"),
        ("shop.look", "{", "bad_arguments"),
        ("shop.look", "[1]", "bad_arguments"),
    ],
)
def test_refused_tools_never_run(name: str, arguments: str, why: str) -> None:
    """Unlisted names and arguments that are no object are refused, recorded, and never run."""
    call = model_call()
    call.tool("c1", name, arguments)
    call.feed(ReplyEnded(reply="r1", tools=1))
    assert call.all(RunTool) == []
    assert results(call)["c1"]["error"]["code"] == why
    assert call.recorded("tool.refused") == [{"call_id": "c1", "name": name, "why": why}]
    assert len(call.sent(ReplyCommand)) == 1


def test_second_use_of_a_call_id_is_refused() -> None:
    """A call id runs once; its second use is recorded, and refused once the first has its answer."""
    call = model_call()
    call.tool("c1")
    call.tool("c1")
    assert len(call.all(RunTool)) == 1
    assert results(call) == {}
    finish(call, "c1", 1)
    call.tool("c1")
    assert len(call.all(RunTool)) == 1
    assert [body["why"] for body in call.recorded("tool.refused")] == ["duplicate_call_id"] * 2
    assert len(call.sent(ToolResultCommand)) == 2


def test_parallel_results_are_gathered() -> None:
    """Two calls of one reply lead to one request, when both results have arrived."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "shop.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.wait(1)
    assert call.sent(ReplyCommand) == []
    finish(call, "c2", 2)
    assert results(call) == {"c1": 1, "c2": 2}
    assert len(call.sent(ReplyCommand)) == 1


def test_slow_parallel_call_is_pending_and_its_result_comes_later() -> None:
    """Two seconds after the first result the other calls are answered as pending; their results follow later."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "shop.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.wait(2.1)
    assert results(call) == {"c1": 1, "c2": {"status": "pending"}}
    (asked,) = call.sent(ReplyCommand)
    call.heard("r2", "still looking", asked.id)
    finish(call, "c2", {"slow": True})
    (late,) = call.sent(AddTextCommand)
    assert late.role == "system"
    assert '{"slow":true}' in late.text
    assert len(call.sent(ReplyCommand)) == 2
    assert len(call.sent(ToolResultCommand)) == 2


def test_a_result_that_the_next_reply_does_not_know_is_spoken_about() -> None:
    """A result that is sent after a reply was requested and before it began is followed by another reply."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "shop.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.wait(2.1)
    (asked,) = call.sent(ReplyCommand)
    call.wait(0.1)
    finish(call, "c2", {"slow": True})
    call.heard("r2", "still looking", asked.id)
    (_, again) = call.sent(ReplyCommand)
    call.heard("r3", "it was found", again.id)
    assert list(call.closed().values()) == ["succeeded"]


def test_a_result_that_comes_with_the_request_is_spoken_about() -> None:
    """A result that arrives in the moment in which a reply is requested, but is sent after it, is followed by another reply."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "shop.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.now += 2.1  # a busy machine looks late: the wait is over, and the result is there
    finish(call, "c2", {"slow": True})
    (asked,) = call.sent(ReplyCommand)
    call.heard("r2", "still looking", asked.id)
    (_, again) = call.sent(ReplyCommand)
    call.heard("r3", "it was found", again.id)
    assert list(call.closed().values()) == ["succeeded"]


def test_slow_single_call_is_answered_as_pending() -> None:
    """A single call without a result is answered as pending after a while, so that the model can speak."""
    call = model_call()
    call.tool("c1", "shop.slow")
    call.feed(ReplyEnded(reply="r1", tools=1))
    call.wait(21)
    assert results(call) == {"c1": {"status": "pending"}}
    assert len(call.sent(ReplyCommand)) == 1


def test_error_of_a_tool_is_sent_to_the_model() -> None:
    """A tool that fails is answered with its error."""
    call = model_call()
    call.tool("c1")
    finish(call, "c1", problem={"code": "execution_failed", "detail": "no such order"})
    assert results(call) == {"c1": {"error": {"code": "execution_failed", "message": "no such order"}}}


def test_no_request_while_the_caller_speaks() -> None:
    """The model is asked to continue when the caller is silent."""
    call = model_call()
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", tools=1), TurnStarted(item="b"))
    finish(call, "c1", 1)
    assert call.sent(ReplyCommand) == []
    call.feed(TurnStopped(item="b"))
    call.wait(1.1)
    assert len(call.sent(ReplyCommand)) == 1


def test_request_is_dropped_when_the_model_spoke() -> None:
    """A reply that the model began by itself after the result makes the request unnecessary."""
    call = model_call()
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", tools=1), TurnStarted(item="b"))
    finish(call, "c1", 1)
    call.speaks("b", "and?")
    call.heard("r2", "here it is")
    call.wait(10)
    assert call.sent(ReplyCommand) == []


def test_interrupted_reply_keeps_or_cancels_its_calls() -> None:
    """A call of an interrupted reply continues unless its tool says `cancel`; either way it is answered."""
    call = model_call()
    call.tool("c1", "shop.look")
    call.tool("c2", "shop.stop")
    call.feed(Interrupted(reply="r1"), ReplyEnded(reply="r1", status="cancelled", why="interrupted"))
    assert [effect.call_id for effect in call.all(CancelTool)] == ["c2"]
    finish(call, "c2", problem={"code": "execution_cancelled", "detail": "cancelled"})
    finish(call, "c1", 1)
    assert results(call)["c1"] == 1
    assert results(call)["c2"]["error"]["code"] == "interrupted"
    assert len(call.sent(ToolResultCommand)) == 2


def test_handler_floor_offers_tools_only_inside_reply() -> None:
    """On the handler's floor a tool runs inside `reply` and is refused outside of it."""
    call = SimulatedCall().live()
    call.tool("c0", reply="nobody")
    assert call.recorded("tool.refused")[0]["why"] == "not_offered"
    call.taken()
    op_id = call.reply(tools=("shop.look",))
    (asked,) = call.sent(ReplyCommand)
    call.feed(ReplyStarted(reply="r1", command=asked.id))
    call.tool("c1")
    call.tool("c2", "shop.slow")
    assert [run.call_id for run in call.all(RunTool)] == ["c1"]
    call.feed(ReplyEnded(reply="r1", command=asked.id, tools=2))
    finish(call, "c1", 1)
    assert call.answer(op_id) is None
    again = call.sent(ReplyCommand)[-1]
    assert again.tools == ("shop.look",)
    call.heard("r2", "found it", again.id)
    answer = call.answer(op_id)
    assert answer.spoken.generated == "found it"
    assert [called["target"] for called in answer.tool_calls] == ["shop.look"]


def test_reply_with_tools_resolves_when_a_newer_turn_waits() -> None:
    """A newer turn makes the follow-up unnecessary: `reply` resolves so that the handler can take the turn."""
    call = SimulatedCall().live()
    call.taken()
    op_id = call.reply()
    (asked,) = call.sent(ReplyCommand)
    call.feed(ReplyStarted(reply="r1", command=asked.id))
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", command=asked.id, text="let me see", tools=1))
    call.speaks("b", "never mind")
    assert call.answer(op_id) is None
    finish(call, "c1", 1)
    assert call.answer(op_id).spoken.generated == "let me see"
    assert len(call.sent(ReplyCommand)) == 1


def test_limit_of_tool_calls() -> None:
    """The call after the last allowed one is refused and ends the session."""
    call = model_call(limits=Limits(tool_calls=1))
    call.tool("c1")
    call.tool("c2")
    assert len(call.all(RunTool)) == 1
    assert results(call)["c2"]["error"]["code"] == "limit"
    assert call.reason == "limit_tools"


def test_call_of_the_handler() -> None:
    """A call of the handler runs under the open turn and resolves with output or problem, also just after the end."""
    call = SimulatedCall().live()
    turn_id = call.taken()
    good, bad = call.op(), call.op()
    for op_id in (good, bad):
        call.feed(HandlerCall(op_id=op_id, epoch=call.epoch, target="shop.look", args={"x": 1}, timeout=5))
    assert [(run.turn_id, run.kind, run.timeout) for run in call.all(RunTool)] == [(turn_id, "call", 5)] * 2
    finish(call, good, {"y": 2})
    call.feed(EndSession(reason="caller_hangup"))
    finish(call, bad, problem={"code": "execution_failed"})
    assert call.answer(good) == ResolveCall(good, {"y": 2}, f"exe_of_{good}")
    assert isinstance(call.answer(bad), RejectOp)
    call.wait(30)
    late = call.op()
    call.feed(HandlerCall(op_id=late, epoch=call.epoch, target="shop.look"))
    assert call.all(RunTool)[-1].call_id == late
    call.wait(31)
    assert isinstance(call.answer(late), RejectOp)
    never = call.op()
    call.feed(HandlerCall(op_id=never, epoch=call.epoch, target="shop.look"))
    assert call.answer(never).problem["code"] == "session_ended"


def test_filler_is_spoken_while_the_call_runs() -> None:
    """`filler=` is spoken if the call takes longer than a moment, and not otherwise."""
    call = SimulatedCall().live()
    call.taken()
    call.feed(HandlerCall(op_id="x", epoch=call.epoch, target="shop.look", filler="One moment."))
    call.feed(HandlerCall(op_id="y", epoch=call.epoch, target="shop.look", filler="Not needed."))
    finish(call, "y", 1)
    assert call.recorded("speech.started") == []
    call.wait(1)
    assert [body["asked"] for body in call.recorded("speech.started")] == ["One moment."]
