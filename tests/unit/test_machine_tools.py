"""Tools: the allowlist, results, pending answers, and the one request to go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfield.realtime.commands import AddText, Reply, SendToolResult
from agentfield.realtime.config import Limits
from agentfield.realtime.events import Interrupted, ReplyEnded, ReplyStarted, TurnStarted, TurnStopped
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import CancelTool, Refuse, ResolveCall, RunTool
from unit.machine_kit import Call


def finish(call: Call, call_id: str, value: Any = None, **fields: Any) -> None:
    call.feed(i.ToolFinished(call_id=call_id, value=value, execution_id=f"exe_of_{call_id}", **fields))


def results(call: Call) -> dict[str, Any]:
    return {command.call_id: json.loads(command.output) for command in call.sent(SendToolResult)}


def model_call(**fields: Any) -> Call:
    """A model-floor call in whose first reply tools are being called."""
    call = Call(floor="model", **fields).live()
    call.speaks("a", "question")
    call.feed(ReplyStarted(reply="r1"))
    return call


def test_tool_runs_and_the_model_goes_on() -> None:
    """A listed tool runs under its turn; its result goes in and one reply is asked for after the calling one ended."""
    call = model_call()
    call.tool("c1", arguments='{"order": 427}')
    (run,) = call.all(RunTool)
    assert (run.target, run.args, run.kind) == ("desk.look", {"order": 427}, "tool")
    assert run.turn_id == call.recorded("turn.committed")[0]["turn_id"]
    finish(call, "c1", {"state": "found"})
    assert results(call) == {"c1": {"state": "found"}}
    assert call.sent(Reply) == []
    call.feed(ReplyEnded(reply="r1", tools=1))
    (asked,) = call.sent(Reply)
    call.heard("r2", "it was found", asked.id)
    assert list(call.closed().values()) == ["succeeded"]
    assert call.recorded("tool.answered") == [{"call_id": "c1", "execution_id": "exe_of_c1", "pending": False}]


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("desk.secret", "{}", "not_listed"),
        ("desk.look", "{", "bad_arguments"),
        ("desk.look", "[1]", "bad_arguments"),
    ],
)
def test_refused_tools_never_run(name: str, arguments: str, why: str) -> None:
    """Unlisted names and arguments that are no object are refused to the model, audited, never run."""
    call = model_call()
    call.tool("c1", name, arguments)
    call.feed(ReplyEnded(reply="r1", tools=1))
    assert call.all(RunTool) == []
    assert results(call)["c1"]["error"]["code"] == why
    assert call.recorded("tool.refused") == [{"call_id": "c1", "name": name, "why": why}]
    assert len(call.sent(Reply)) == 1


def test_second_use_of_a_call_id() -> None:
    """A call id runs once; its second use is audited, and refused to the model once the first has its answer."""
    call = model_call()
    call.tool("c1")
    call.tool("c1")
    assert len(call.all(RunTool)) == 1
    assert results(call) == {}
    finish(call, "c1", 1)
    call.tool("c1")
    assert len(call.all(RunTool)) == 1
    assert [body["why"] for body in call.recorded("tool.refused")] == ["duplicate_call_id"] * 2
    assert len(call.sent(SendToolResult)) == 2


def test_parallel_results_are_gathered() -> None:
    """Two calls of one reply lead to one request, when both results are there."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "desk.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.wait(1)
    assert call.sent(Reply) == []
    finish(call, "c2", 2)
    assert results(call) == {"c1": 1, "c2": 2}
    assert len(call.sent(Reply)) == 1


def test_slow_parallel_call_is_pending_and_its_result_comes_later() -> None:
    """Two seconds after the first result the others are answered as pending; the real one enters later."""
    call = model_call()
    call.tool("c1")
    call.tool("c2", "desk.slow")
    call.feed(ReplyEnded(reply="r1", tools=2))
    finish(call, "c1", 1)
    call.wait(2.1)
    assert results(call) == {"c1": 1, "c2": {"status": "pending"}}
    (asked,) = call.sent(Reply)
    call.heard("r2", "still looking", asked.id)
    finish(call, "c2", {"slow": True})
    (late,) = call.sent(AddText)
    assert late.role == "system"
    assert '{"slow":true}' in late.text
    assert len(call.sent(Reply)) == 2
    assert len(call.sent(SendToolResult)) == 2


def test_a_human_is_not_waited_for_in_silence() -> None:
    """A single call without result is answered as pending after a while, so that the model can say so."""
    call = model_call()
    call.tool("c1", "desk.slow")
    call.feed(ReplyEnded(reply="r1", tools=1))
    call.wait(21)
    assert results(call) == {"c1": {"status": "pending"}}
    assert len(call.sent(Reply)) == 1


def test_failed_tool_is_told_to_the_model() -> None:
    """A tool that fails is answered with its error."""
    call = model_call()
    call.tool("c1")
    finish(call, "c1", problem={"code": "execution_failed", "detail": "no such order"})
    assert results(call) == {"c1": {"error": {"code": "execution_failed", "message": "no such order"}}}


def test_no_request_while_the_caller_speaks() -> None:
    """The model is asked to go on when the caller is silent."""
    call = model_call()
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", tools=1), TurnStarted(item="b"))
    finish(call, "c1", 1)
    assert call.sent(Reply) == []
    call.feed(TurnStopped(item="b"))
    call.wait(1.1)
    assert len(call.sent(Reply)) == 1


def test_request_is_dropped_when_the_model_spoke() -> None:
    """A reply that the model began by itself after the result makes the request needless."""
    call = model_call()
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", tools=1), TurnStarted(item="b"))
    finish(call, "c1", 1)
    call.speaks("b", "and?")
    call.heard("r2", "here it is")
    call.wait(10)
    assert call.sent(Reply) == []


def test_interrupted_reply_keeps_or_cancels_its_calls() -> None:
    """A call of an interrupted reply goes on, unless its tool says cancel; either way it is answered."""
    call = model_call()
    call.tool("c1", "desk.look")
    call.tool("c2", "desk.stop")
    call.feed(Interrupted(reply="r1"), ReplyEnded(reply="r1", status="cancelled", why="interrupted"))
    assert [effect.call_id for effect in call.all(CancelTool)] == ["c2"]
    finish(call, "c2", problem={"code": "execution_cancelled", "detail": "cancelled"})
    finish(call, "c1", 1)
    assert results(call)["c1"] == 1
    assert results(call)["c2"]["error"]["code"] == "interrupted"
    assert len(call.sent(SendToolResult)) == 2


def test_handler_floor_offers_tools_only_inside_reply() -> None:
    """On the handler floor a tool runs inside `reply` and is refused outside of it."""
    call = Call().live()
    call.tool("c0", reply="nobody")
    assert call.recorded("tool.refused")[0]["why"] == "not_offered"
    call.taken()
    op_id = call.reply(tools=("desk.look",))
    (asked,) = call.sent(Reply)
    call.feed(ReplyStarted(reply="r1", command=asked.id))
    call.tool("c1")
    call.tool("c2", "desk.slow")
    assert [run.call_id for run in call.all(RunTool)] == ["c1"]
    call.feed(ReplyEnded(reply="r1", command=asked.id, tools=2))
    finish(call, "c1", 1)
    assert call.answer(op_id) is None
    again = call.sent(Reply)[-1]
    assert again.tools == ("desk.look",)
    call.heard("r2", "found it", again.id)
    answer = call.answer(op_id)
    assert answer.spoken.generated == "found it"
    assert [called["target"] for called in answer.tool_calls] == ["desk.look"]


def test_reply_with_tools_resolves_when_a_newer_turn_waits() -> None:
    """A newer turn makes the follow-up needless: `reply` resolves so that the handler can take it."""
    call = Call().live()
    call.taken()
    op_id = call.reply()
    (asked,) = call.sent(Reply)
    call.feed(ReplyStarted(reply="r1", command=asked.id))
    call.tool("c1")
    call.feed(ReplyEnded(reply="r1", command=asked.id, text="let me see", tools=1))
    call.speaks("b", "never mind")
    assert call.answer(op_id) is None
    finish(call, "c1", 1)
    assert call.answer(op_id).spoken.generated == "let me see"
    assert len(call.sent(Reply)) == 1


def test_limit_of_tool_calls() -> None:
    """The call after the last allowed one is refused and ends the session."""
    call = model_call(limits=Limits(tool_calls=1))
    call.tool("c1")
    call.tool("c2")
    assert len(call.all(RunTool)) == 1
    assert results(call)["c2"]["error"]["code"] == "limit"
    assert call.reason == "limit_tools"


def test_handler_call() -> None:
    """A handler's call runs under the open turn and resolves with output or problem, also just after the end."""
    call = Call().live()
    turn_id = call.taken()
    good, bad = call.op(), call.op()
    for op_id in (good, bad):
        call.feed(i.HandlerCall(op_id=op_id, epoch=call.epoch, target="desk.look", args={"x": 1}, timeout=5))
    assert [(run.turn_id, run.kind, run.timeout) for run in call.all(RunTool)] == [(turn_id, "call", 5)] * 2
    finish(call, good, {"y": 2})
    call.feed(i.EndSession(reason="caller_hangup"))
    finish(call, bad, problem={"code": "execution_failed"})
    assert call.answer(good) == ResolveCall(good, {"y": 2}, f"exe_of_{good}")
    assert isinstance(call.answer(bad), Refuse)
    call.wait(30)
    late = call.op()
    call.feed(i.HandlerCall(op_id=late, epoch=call.epoch, target="desk.look"))
    assert call.all(RunTool)[-1].call_id == late
    call.wait(31)
    assert isinstance(call.answer(late), Refuse)
    never = call.op()
    call.feed(i.HandlerCall(op_id=never, epoch=call.epoch, target="desk.look"))
    assert call.answer(never).problem["code"] == "session_ended"


def test_filler_is_spoken_while_the_call_runs() -> None:
    """`filler=` is spoken when the call takes longer than a moment; a quick call needs none."""
    call = Call().live()
    call.taken()
    call.feed(i.HandlerCall(op_id="x", epoch=call.epoch, target="desk.look", filler="One moment."))
    call.feed(i.HandlerCall(op_id="y", epoch=call.epoch, target="desk.look", filler="Not needed."))
    finish(call, "y", 1)
    assert call.recorded("speech.started") == []
    call.wait(1)
    assert [body["asked"] for body in call.recorded("speech.started")] == ["One moment."]
