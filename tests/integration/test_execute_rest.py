"""Calls over REST on a real control plane: what comes back, what is refused, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import digest
from agentfield.wire.frames import (
    Accepted,
    Call,
    CallAccepted,
    CallResult,
    Cancel,
    FunctionSpec,
    Invoke,
    ResultAck,
    encode_frame,
)
from engine_kit import Plane, RawNode, plane, until


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def test_execute_waits_for_the_result(cp: Plane) -> None:
    """A synchronous call returns the output with its ids in the headers, and leaves a signed, numbered record."""
    node = RawNode()
    async with node.linked(cp):
        asking = asyncio.create_task(cp.execute("node.fn", a=1, b=None))
        invoke = await node.next(Invoke)
        assert invoke.function == "fn"
        assert invoke.input == {"a": 1, "b": None}
        await node.answer(invoke, {"sum": [1, None]})
        status, body, headers = await asking
        ack = await node.next(ResultAck)
    assert status == 200
    assert (body["status"], body["output"], body["node_id"]) == ("succeeded", {"sum": [1, None]}, "node")
    assert body["instance_id"] == node.instance_id
    assert headers["X-Execution-ID"] == body["id"] == invoke.context.execution_id
    assert headers["X-Run-ID"] == headers["X-Workflow-ID"] == body["run_id"]
    assert ack.accepted
    row = await cp.store.get_execution(body["id"])
    assert row is not None
    assert row.signer == node.key.did
    assert (row.input_digest, row.output_digest) == (digest({"a": 1, "b": None}), digest({"sum": [1, None]}))
    events = await cp.events(body["run_id"])
    assert [event["type"] for event in events] == ["execution.created", "execution.started", "execution.ended"]
    about = {"kind": "call", "target": body["target"], "node_id": "node", "instance_id": node.instance_id}
    assert events[1]["body"] == {"attempt": 1, **about}


async def test_execute_async_answers_before_the_work(cp: Plane) -> None:
    """202 comes after the commit and before the result; the execution can be looked up."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        _, view = await cp.get(f"/executions/{execution_id}")
        assert view["status"] == "running"
        await node.answer(await node.next(Invoke), "done")
        assert (await cp.finished(execution_id))["output"] == "done"


async def test_unknown_target_is_named_with_what_there_is(cp: Plane) -> None:
    """404 says what is known and what was probably meant."""
    async with RawNode().linked(cp):
        status, body, _ = await cp.execute("node.fm")
    assert (status, body["code"]) == (404, "unknown_target")
    assert "node.fn" in body["detail"]
    assert body["known"] == ["node.fn"]


async def test_absent_node_is_named(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose node is away for long is refused with 503 and what to do."""
    async with RawNode().linked(cp):
        pass
    await until(lambda: not cp.hub.links())
    monkeypatch.setattr(cp.hub._known, "_monotonic", lambda: 1e12)
    status, body, headers = await cp.execute("node.fn")
    assert (status, body["code"]) == (503, "node_not_connected")
    assert "af run" in body["hint"]
    assert headers["Retry-After"] == "2"


async def test_a_node_that_just_left_gets_its_work_when_it_is_back(cp: Plane) -> None:
    """Within ten seconds a call is queued, and dispatched when the node links again."""
    node = RawNode()
    async with node.linked(cp):
        pass
    await until(lambda: not cp.hub.links())
    execution_id = await cp.start("node.fn")
    assert (await cp.get(f"/executions/{execution_id}"))[1]["status"] == "queued"
    async with node.linked(cp):
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_a_failure_is_a_problem_document(cp: Plane) -> None:
    """What the reasoner raised comes back as the problem, with the execution it belongs to."""
    node = RawNode()
    async with node.linked(cp):
        asking = asyncio.create_task(cp.execute("node.fn"))
        problem = {"code": "invalid_input", "detail": "order_id: not a number", "status": 422, "field": "order_id"}
        await node.answer(await node.next(Invoke), status="failed", problem=problem)
        status, body, headers = await asking
    assert status == 422
    assert headers["Content-Type"].startswith("application/problem+json")
    assert (body["code"], body["field"], body["target"]) == ("invalid_input", "order_id", "node.fn")
    assert body["execution_id"] == headers["X-Execution-ID"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"input": {"a": 1}', "malformed_json"),
        ('{"input": {"a": NaN}}', "malformed_json"),
        ('{"input": {}, "input": {}}', "malformed_json"),
        ('{"input": ' + "[" * 40 + "]" * 40 + "}", "malformed_json"),
        ('{"input": [1]}', "invalid_input"),
        ('{"input": {}, "extra": 1}', "invalid_input"),
        ('{"input": {}, "timeout": -1}', "invalid_input"),
        ('{"input": {"n": 9007199254740993}}', "invalid_input"),
        ('{"input": {"s": "\\ud800"}}', "invalid_input"),
    ],
)
async def test_bad_bodies_are_refused(cp: Plane, body: str, code: str) -> None:
    """Nothing that is not strict JSON of the right shape becomes an execution."""
    async with RawNode().linked(cp):
        headers = {"Content-Type": "application/json"}
        async with cp.client.post("/api/v1/execute/node.fn", data=body, headers=headers) as response:
            assert response.status == 422
            assert (await response.json(content_type=None))["code"] == code
    assert await cp.store.open_executions() == []


async def test_large_inputs_are_refused(cp: Plane) -> None:
    """More than 1 MiB is refused, a little less goes through."""
    node = RawNode()
    async with node.linked(cp):
        status, body, _ = await cp.execute("node.fn", text="x" * (1024 * 1024))
        assert (status, body["code"]) == (413, "input_too_large")
        asking = asyncio.create_task(cp.execute("node.fn", text="x" * (1024 * 1024 - 100)))
        await node.answer(await node.next(Invoke), 1)
        assert (await asking)[0] == 200


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signature": "AAAA"}, "bad_signature"),
        ({"output_digest": digest("another")}, "digest_mismatch"),
        ({"input_digest": digest("another")}, "digest_mismatch"),
    ],
)
async def test_results_that_are_not_signed_are_refused(cp: Plane, changes: dict[str, str], code: str) -> None:
    """A result whose signature or digests do not hold becomes a failure without a signature."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), "output", **changes)
        view = await cp.finished(execution_id)
        assert (await node.next(ResultAck)).accepted
    assert (view["status"], view["problem"]["code"], view["output"]) == ("failed", code, None)
    row = await cp.store.get_execution(execution_id)
    assert row is not None
    assert row.signature is None


async def test_large_outputs_are_refused(cp: Plane) -> None:
    """An output beyond 1 MiB is a failure that says so, and the link goes on."""
    node = RawNode()
    async with node.linked(cp):
        first, second = await cp.start("node.fn"), await cp.start("node.fn")
        await node.answer(await node.next(Invoke), "x" * (1024 * 1024 + 1))
        assert (await cp.finished(first))["problem"]["code"] == "output_too_large"
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(second))["status"] == "succeeded"


async def test_a_result_counts_once(cp: Plane) -> None:
    """A repeated result is acknowledged and changes nothing; another one for a closed attempt is not used."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.answer(invoke, "first")
        assert (await node.next(ResultAck)).accepted
        await node.send(node.result_of(invoke, "first"))
        assert (await node.next(ResultAck)).accepted
        await node.send(node.result_of(invoke, "second"))
        assert not (await node.next(ResultAck)).accepted
        view = await cp.finished(execution_id)
    assert view["output"] == "first"
    assert [event["type"] for event in await cp.events(view["run_id"])].count("execution.ended") == 1


async def test_a_quick_function_says_all_in_one_message(cp: Plane) -> None:
    """Entry and result in one message are recorded together; what is not believed of it is a failure that was entered."""
    node = RawNode()
    async with node.linked(cp):
        kinds = []
        for changes in ({}, {"signature": "A" * 86}, {"status": "failed", "problem": {"detail": "no"}}):
            execution_id = await cp.start("node.fn")
            invoke = await node.next(Invoke)
            await node.answer_at_once(invoke, 1, **changes)
            done = await cp.finished(execution_id)
            events = await cp.events(done["run_id"])
            kinds.append((done["status"], [event["type"] for event in events][1:], done["started_at"] is not None))
    recorded = ["execution.started", "execution.ended"]
    assert kinds == [("succeeded", recorded, True), ("failed", recorded, True), ("failed", recorded, True)]


async def test_a_quick_function_shows_how_long_it_ran(cp: Plane) -> None:
    """The node says how long; a node that says more than there was since the call is not believed."""
    node = RawNode()
    async with node.linked(cp):
        for took, since in ((0.0, "ended_at"), (1e9, "created_at")):
            execution_id = await cp.start("node.fn")
            await node.answer_at_once(await node.next(Invoke), 1, took=took)
            done = await cp.finished(execution_id)
            assert done["started_at"] == done[since]


async def test_a_frame_that_cannot_be_settled_harms_no_other(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours at one frame ends the link, what else was read is worked off, and the node comes back with both."""
    node, accept = RawNode(), cp.store.accept_execution
    async with node.linked(cp):
        first, second = await cp.start("node.fn"), await cp.start("node.fn")
        invokes = [await node.next(Invoke), await node.next(Invoke)]

        async def fail(execution_id: str, **about: Any) -> bool:
            if execution_id == first:
                raise RuntimeError("a defect")
            return await accept(execution_id, **about)

        monkeypatch.setattr(cp.store, "accept_execution", fail)
        assert node.socket is not None
        await node.socket.send_str("\n".join(encode_frame(node.acceptance(invoke)) for invoke in invokes))
        await until(lambda: not cp.hub.links())
    assert [row.accepted for row in await cp.store.get_executions([first, second])].count(True) == 1


async def test_cancel_wins_over_a_later_result(cp: Plane) -> None:
    """The node is told to stop, its late result is not used; what had ended otherwise cannot be cancelled."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        waiting = asyncio.create_task(cp.engine.wait(execution_id, 10))
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        status, body, _ = await cp.post(f"/executions/{execution_id}/cancel")
        assert (status, body["status"]) == (200, "cancelled")
        assert (await node.next(Cancel)).execution_id == execution_id
        await node.send(node.result_of(invoke, "late"))
        assert not (await node.next(ResultAck)).accepted
        assert (await waiting).status == "cancelled"
        status, body, _ = await cp.post(f"/executions/{execution_id}/cancel")
        assert status == 200
        done = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), 1)
        await cp.finished(done)
        status, body, _ = await cp.post(f"/executions/{done}/cancel")
    assert (status, body["code"]) == (409, "already_ended")


async def test_deadline_ends_an_execution(cp: Plane) -> None:
    """When the time is up the caller gets 504 and the node is told to stop."""
    node = RawNode()
    async with node.linked(cp):
        asking = asyncio.create_task(cp.post("/execute/node.fn", {"input": {}, "timeout": 0.2}))
        invoke = await node.next(Invoke)
        assert invoke.context.deadline is not None
        await node.accept(invoke)
        status, body, _ = await asking
        assert (await node.next(Cancel)).reason == "timeout"
    assert (status, body["code"]) == (504, "execution_timeout")
    assert (await cp.get(f"/executions/{body['execution_id']}"))[1]["status"] == "timeout"


async def test_idempotency_key_makes_one_execution(cp: Plane) -> None:
    """The same key and body is the same execution, also while it runs; another body is refused."""
    node = RawNode()
    async with node.linked(cp):
        body = {"input": {"n": 1}}
        asking = [asyncio.create_task(cp.post("/execute/node.fn", body, Idempotency_Key="key-1")) for _ in range(3)]
        await node.answer(await node.next(Invoke), "once")
        answers = await asyncio.gather(*asking)
        assert {answer[0] for answer in answers} == {200}
        assert len({answer[1]["id"] for answer in answers}) == 1
        status, problem, _ = await cp.post("/execute/node.fn", {"input": {"n": 2}}, Idempotency_Key="key-1")
        assert (status, problem["code"]) == (422, "idempotency_mismatch")
        assert not [frame for frame in node.frames if isinstance(frame, Invoke)]


async def test_nested_calls_have_the_right_parents(cp: Plane) -> None:
    """A call from inside a reasoner is its child, in the same run, with the same actor, on whoever owns the target."""
    outer, inner = RawNode("outer"), RawNode("inner")
    async with outer.linked(cp), inner.linked(cp):
        asking = asyncio.create_task(cp.post("/execute/outer.fn", {"input": {}}, X_Actor_ID="alice"))
        invoke = await outer.next(Invoke)
        await outer.accept(invoke)
        call = Call(op_id="op_1", target="inner.fn", input={"x": 1}, parent_id=invoke.context.execution_id)
        await outer.send(call)
        await outer.send(call)
        child = await inner.next(Invoke)
        assert child.context.run_id == invoke.context.run_id
        assert (child.context.parent_id, child.context.actor_id) == (invoke.context.execution_id, "alice")
        await inner.answer(child, {"y": None})
        result = await outer.next(CallResult)
        assert (result.output, result.problem) == ({"y": None}, None)
        assert (await outer.next(CallAccepted)).execution_id == child.context.execution_id
        await outer.answer(invoke, "done")
        _, body, _ = await asking
        await outer.next(CallResult)
        assert not [frame for frame in inner.frames if isinstance(frame, Invoke)]
    _, dag = await cp.get(f"/workflows/{body['run_id']}/dag")
    assert [(row["target"], row["parent_id"]) for row in dag["executions"]] == [
        ("outer.fn", None),
        ("inner.fn", body["id"]),
    ]
    _, page = await cp.get(f"/workflows/{body['run_id']}/dag?limit=1")
    _, rest = await cp.get(f"/workflows/{body['run_id']}/dag?limit=1&after={page['next']}")
    assert [row["target"] for row in rest["executions"]] == ["inner.fn"]


async def test_calls_under_foreign_parents_are_refused(cp: Plane) -> None:
    """A node can call only under what it holds; without a parent the call starts a run of its own."""
    victim, thief = RawNode("victim"), RawNode("thief")
    async with victim.linked(cp), thief.linked(cp):
        execution_id = await cp.start("victim.fn")
        await victim.next(Invoke)
        for op, parent in (("op_a", execution_id), ("op_b", "exe_nowhere")):
            await thief.send(Call(op_id=op, target="thief.fn", input={}, parent_id=parent))
            refused = await thief.next(CallResult, op_id=op)
            assert refused.problem["code"] == "foreign_parent"
        await thief.send(Call(op_id="op_c", target="thief.fn", input={}, session_id="ses_x"))
        assert (await thief.next(CallResult)).problem["code"] == "foreign_parent"
        await thief.send(Call(op_id="op_d", target="nobody.fn", input={}))
        assert (await thief.next(CallResult)).problem["code"] == "unknown_target"
        await thief.send(Call(op_id="op_e", target="thief.fn", input={}))
        invoke = await thief.next(Invoke)
        assert invoke.context.parent_id is None
        await thief.answer(invoke, status="failed", problem={"code": "execution_failed", "detail": "boom"})
        failed = await thief.next(CallResult)
        assert (failed.problem["detail"], failed.problem["target"]) == ("boom", "thief.fn")


async def test_cancelling_a_parent_cancels_its_calls(cp: Plane) -> None:
    """What a cancelled execution had called is cancelled as well, also when it still waits."""
    node = RawNode()
    async with node.linked(cp):
        parent = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        await node.send(Call(op_id="op_1", target="node.fn", input={}, parent_id=parent))
        child = await node.next(Invoke)
        await cp.post(f"/executions/{parent}/cancel")
        await node.next(Cancel, execution_id=child.context.execution_id)
        assert (await cp.finished(child.context.execution_id))["status"] == "cancelled"


async def test_placement_headers_are_verified(cp: Plane) -> None:
    """A call may be attached to an existing execution; headers that contradict it are refused."""
    node = RawNode()
    async with node.linked(cp):
        parent = await cp.start("node.fn")
        run_id = (await cp.get(f"/executions/{parent}"))[1]["run_id"]
        status, body, _ = await cp.post("/execute/async/node.fn", None, X_Parent_Execution_ID=parent)
        assert (status, body["parent_id"], body["run_id"]) == (202, parent, run_id)
        status, body, _ = await cp.post("/execute/async/node.fn", None, X_Run_ID=run_id)
        assert (status, body["parent_id"], body["run_id"]) == (202, None, run_id)
        for headers in (
            {"X_Parent_Execution_ID": "exe_nowhere"},
            {"X_Run_ID": "run_nowhere"},
            {"X_Session_ID": "ses_nowhere"},
            {"X_Parent_Execution_ID": parent, "X_Session_ID": "ses_nowhere"},
            {"X_Parent_Execution_ID": parent, "X_Run_ID": "run_nowhere"},
            {"X_Run_ID": run_id, "X_Workflow_ID": "run_nowhere"},
        ):
            status, body, _ = await cp.post("/execute/async/node.fn", None, **headers)
            assert (status, body["code"]) == (422, "foreign_parent"), headers


async def test_what_does_not_exist_is_not_found(cp: Plane) -> None:
    """Unknown executions and runs are 404, a bad page is 422."""
    assert (await cp.get("/executions/exe_nowhere"))[1]["code"] == "unknown_execution"
    assert (await cp.get("/workflows/run_nowhere/dag"))[1]["code"] == "unknown_run"
    assert (await cp.get("/workflows/run_nowhere/dag?limit=0"))[1]["code"] == "invalid_input"
    status, body, _ = await cp.post("/executions/exe_nowhere/cancel")
    assert (status, body["code"]) == (404, "unknown_execution")


async def test_instances_share_the_work_and_room_is_respected(cp: Plane) -> None:
    """Two instances of a node take turns; what finds no room waits, in order, and goes where room appears."""
    one, two = RawNode(concurrency=1), RawNode(concurrency=1)
    async with one.linked(cp), two.linked(cp):
        ids = [await cp.start("node.fn", n=n) for n in range(4)]
        first, second = await one.next(Invoke), await two.next(Invoke)
        assert {first.input["n"], second.input["n"]} == {0, 1}
        states = [(await cp.get(f"/executions/{execution_id}"))[1]["status"] for execution_id in ids]
        assert states == ["running", "running", "queued", "queued"]
        await one.answer(first, 1)
        third = await one.next(Invoke)
        assert third.input["n"] == 2
        await one.answer(third, 1)
        fourth = await one.next(Invoke)
        assert fourth.input["n"] == 3
        await one.answer(fourth, 1)
        await two.answer(second, 1)
        for execution_id in ids:
            assert (await cp.finished(execution_id))["status"] == "succeeded"
        _, views = await cp.get("/nodes")
        assert {view["instance_id"] for view in views} == {one.instance_id, two.instance_id}
        await until(lambda: {link.running for link in cp.hub.links()} == {0})


async def test_a_caller_that_waits_for_its_own_call_takes_no_room(cp: Plane) -> None:
    """With room for one, a reasoner that calls its own node does not block itself."""
    node = RawNode(concurrency=1)
    async with node.linked(cp):
        parent = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        await node.send(Call(op_id="op_1", target="node.fn", input={}, parent_id=parent))
        await node.answer(await node.next(Invoke), "inner")
        assert (await node.next(CallResult)).output == "inner"
        await node.send(node.result_of(invoke, "outer"))
        assert (await cp.finished(parent))["output"] == "outer"


async def test_declared_timeout_and_retries_are_used(cp: Plane) -> None:
    """What the declaration says holds where the caller says nothing."""
    spec = FunctionSpec(name="fn", input_schema={}, timeout=30.0, retries=2)
    node = RawNode(functions=(spec,))
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert row.deadline is not None
        assert (row.max_attempts, round(row.deadline - row.created_at)) == (3, 30)


async def test_accepting_what_was_given_up_is_answered_with_cancel(cp: Plane) -> None:
    """A node that enters something nobody wants any more is told to stop."""
    node = RawNode()
    async with node.linked(cp):
        await node.send(Accepted(execution_id="exe_gone", attempt=1, epoch=1))
        assert (await node.next(Cancel)).execution_id == "exe_gone"
