"""Executions over REST on a real control plane: results, refusals and records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import digest
from agentfield.wire.frames import Accepted, Call, CallAccepted, CallResult, Cancel, Invoke, ResultAck, encode_frame
from agentfield.wire.link_protocol import PROTOCOLS
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.engine.results import check_record
from agentfield_server.store.operations import CompleteExecution, Operation, Then
from support.server.engine import Plane, RawNode, plane
from support.waiting import until


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def test_execute_waits_for_the_result(cp: Plane) -> None:
    """A synchronous call returns the output, with its ids in the headers, and leaves a signed, numbered record."""
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
    assert check_record(row)
    events = await cp.events(body["run_id"])
    assert [event["type"] for event in events] == ["execution.created", "execution.started", "execution.ended"]
    about = {"kind": "call", "target": body["target"], "node_id": "node", "instance_id": node.instance_id}
    entered_at = events[1]["body"].pop("entered_at")
    assert events[0]["at"] <= entered_at <= events[1]["at"]
    assert events[1]["body"] == {"attempt": 1, **about}


async def test_execute_async_returns_before_the_result(cp: Plane) -> None:
    """202 is returned after the commit and before the result."""
    node = RawNode()
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        _, view = await cp.get(f"/executions/{execution_id}")
        assert view["status"] == "running"
        await node.answer(await node.next(Invoke), "done")
        assert (await cp.finished(execution_id))["output"] == "done"


async def test_missing_arguments_are_refused_before_dispatch(cp: Plane) -> None:
    """Nothing is recorded, and the node hears nothing."""
    schema = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}
    node = RawNode(functions=(FunctionSpec(name="fn", input_schema=schema),))
    async with node.linked(cp):
        status, body, _ = await cp.post("/execute/node.fn", {"input": {"a": 1}})
        assert (status, body["code"], body["field"]) == (422, "invalid_input", "b")
        assert body["detail"] == "The input of fn does not fit: b: is missing."
        assert body["hint"] == "it takes: a, b"
        asking = asyncio.create_task(cp.execute("node.fn", a=1, b=2))
        invoke = await node.next(Invoke)
        assert invoke.input == {"a": 1, "b": 2}
        await node.answer(invoke, None)
        await asking
    assert not [frame for frame in node.frames if isinstance(frame, Invoke)]


async def test_unknown_target_lists_the_known_ones(cp: Plane) -> None:
    """404 names the known targets and suggests a similar one."""
    async with RawNode().linked(cp):
        status, body, _ = await cp.execute("node.fm")
    assert (status, body["code"]) == (404, "unknown_target")
    assert "node.fn" in body["detail"]
    assert body["known"] == ["node.fn"]


async def test_target_of_an_absent_node_is_refused(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose node has been away for long is 503, with a hint."""
    async with RawNode().linked(cp):
        pass
    await until(lambda: not cp.hub.links())
    monkeypatch.setattr(cp.hub._registry, "_monotonic", lambda: 1e12)
    status, body, headers = await cp.execute("node.fn")
    assert (status, body["code"]) == (503, "node_not_connected")
    assert "af run" in body["hint"]
    assert headers["Retry-After"] == "2"


async def test_work_of_a_node_that_just_left_is_queued(cp: Plane) -> None:
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


async def test_failure_is_a_problem_document(cp: Plane) -> None:
    """The error of the reasoner is the problem, with its execution id."""
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


@pytest.mark.parametrize("given", [200, 204, 304, 101, 99_999, -1, True, "404", None, [404], {}, 401, 418])
async def test_the_status_of_a_nodes_problem_is_checked(cp: Plane, given: Any) -> None:
    """The answer and the record have an error status, and never 401, which is about the caller's own key."""
    node = RawNode()
    async with node.linked(cp):
        asking = asyncio.create_task(cp.execute("node.fn"))
        problem = {"code": "mine", "detail": "Not today.", "status": given}
        await node.answer(await node.next(Invoke), status="failed", problem=problem)
        status, body, _ = await asking
        view = await cp.finished(body["execution_id"])
    assert status == body["status"] == view["problem"]["status"] == (given if given == 418 else 502)
    assert (body["code"], body["detail"]) == ("mine", "Not today.")


@pytest.mark.parametrize(
    ("given", "header"),
    [(0, "0"), (3, "3"), (2.5, "2"), (86_400, "86400")]
    + [(bad, None) for bad in ("soon", "3", None, True, -1, 86_401, 1e300, [3], {})],
)
async def test_retry_after_of_a_nodes_problem_is_checked(cp: Plane, given: Any, header: str | None) -> None:
    """The header has a number from 0 to 86400, or is absent; the problem arrives in any case."""
    node = RawNode()
    async with node.linked(cp):
        asking = asyncio.create_task(cp.execute("node.fn"))
        problem = {"code": "busy", "detail": "Later.", "status": 429, "retry_after": given}
        await node.answer(await node.next(Invoke), status="failed", problem=problem)
        status, body, headers = await asking
    assert (status, body["code"], headers.get("Retry-After")) == (429, "busy", header)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"timeout": true}', "invalid_input"),
        ('{"timeout": false}', "invalid_input"),
        ('{"priority": true}', "invalid_input"),
        ('{"delay": false}', "invalid_input"),
        ('{"input": {"a": 1}', "malformed_json"),
        ('{"input": {"a": NaN}}', "unrepresentable"),
        ('{"input": {}, "input": {}}', "malformed_json"),
        ('{"input": ' + "[" * 40 + "]" * 40 + "}", "unrepresentable"),
        ('{"input": [1]}', "invalid_input"),
        ('{"input": {}, "extra": 1}', "invalid_input"),
        ('{"input": {}, "timeout": -1}', "invalid_input"),
        ('{"input": {"n": 9007199254740993}}', "unrepresentable"),
        ('{"input": {"s": "\\ud800"}}', "unrepresentable"),
    ],
)
async def test_invalid_bodies_are_refused(cp: Plane, body: str, code: str) -> None:
    """A body that is not strict JSON of the right shape creates no execution."""
    async with RawNode().linked(cp):
        headers = {"Content-Type": "application/json"}
        async with cp.client.post("/api/v1/execute/node.fn", data=body, headers=headers) as response:
            assert response.status == 422
            assert (await response.json(content_type=None))["code"] == code
    assert await cp.store.open_executions() == []


async def test_large_inputs_are_refused(cp: Plane) -> None:
    """More than 1 MiB is refused; a little less is accepted."""
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
async def test_result_with_wrong_signature_or_digest_is_a_failure(
    cp: Plane, changes: dict[str, str], code: str
) -> None:
    """Such a result of a node of protocol 1 is recorded as a failure without a signature."""
    node = RawNode(protocol=1)
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), "output", **changes)
        view = await cp.finished(execution_id)
        assert (await node.next(ResultAck)).accepted
    assert (view["status"], view["problem"]["code"], view["output"]) == ("failed", code, None)
    row = await cp.store.get_execution(execution_id)
    assert row is not None
    assert (row.signature, row.signer) == (None, None)


async def test_large_outputs_are_refused(cp: Plane) -> None:
    """An output beyond 1 MiB is a failure with the reason; the link stays."""
    node = RawNode()
    async with node.linked(cp):
        first, second = await cp.start("node.fn"), await cp.start("node.fn")
        await node.answer(await node.next(Invoke), "x" * (1024 * 1024 + 1))
        assert (await cp.finished(first))["problem"]["code"] == "output_too_large"
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(second))["status"] == "succeeded"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_result_counts_once(cp: Plane, protocol: int) -> None:
    """A repeated result is acknowledged and changes nothing; a different one for a closed attempt is not used."""
    node = RawNode(protocol=protocol)
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


async def test_entry_and_result_in_one_message(cp: Plane) -> None:
    """Both are recorded together; an invalid result is a failure of an entered attempt."""
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


async def test_reported_duration_is_recorded(cp: Plane) -> None:
    """The duration that the node reports sets the start time, but never before the creation."""
    node = RawNode()
    async with node.linked(cp):
        for took, since in ((0.0, "ended_at"), (1e9, "created_at")):
            execution_id = await cp.start("node.fn")
            await node.answer_at_once(await node.next(Invoke), 1, took=took)
            done = await cp.finished(execution_id)
            assert done["started_at"] == done[since]


async def test_failing_frame_does_not_affect_others(cp: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An internal error at one frame ends the link; the other frames that were read are still handled."""
    node, post = RawNode(), cp.store.post
    async with node.linked(cp):
        first, second = await cp.start("node.fn"), await cp.start("node.fn")
        invokes = [await node.next(Invoke), await node.next(Invoke)]

        def fail(operation: Operation[Any], then: Then[Any]) -> None:
            if isinstance(operation, CompleteExecution) and operation.execution_id == first:
                raise RuntimeError("a defect")
            post(operation, then)

        monkeypatch.setattr(cp.store, "post", fail)
        assert node.socket is not None
        await node.socket.send_str("\n".join(encode_frame(node.result_of(invoke)) for invoke in invokes))
        await until(lambda: not cp.hub.links())
    assert [row.status for row in await cp.store.get_executions([first, second])].count("succeeded") == 1


async def test_cancel_wins_over_a_later_result(cp: Plane) -> None:
    """The node is told to stop and its late result is not used; an execution that ended otherwise cannot be cancelled."""
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
    """At the deadline the caller gets 504 and the node a `cancel`."""
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
    """The same key and body return the same execution, also while it runs; another body is refused."""
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
    """A call from inside a reasoner is its child, in the same run, with the same actor, on any node."""
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
    """A node can call only under executions assigned to it; without a parent the call starts a run."""
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
    """The calls of a cancelled execution are cancelled, queued ones included."""
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


async def test_parent_headers_are_verified(cp: Plane) -> None:
    """A call may be attached to an existing execution; contradicting headers are refused."""
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


async def test_unknown_ids_are_not_found(cp: Plane) -> None:
    """Unknown executions and runs are 404, an invalid page is 422."""
    assert (await cp.get("/executions/exe_nowhere"))[1]["code"] == "unknown_execution"
    assert (await cp.get("/workflows/run_nowhere/dag"))[1]["code"] == "unknown_run"
    assert (await cp.get("/workflows/run_nowhere/dag?limit=0"))[1]["code"] == "invalid_input"
    status, body, _ = await cp.post("/executions/exe_nowhere/cancel")
    assert (status, body["code"]) == (404, "unknown_execution")


async def test_instances_take_turns_within_their_concurrency(cp: Plane) -> None:
    """Two instances of a node take turns; the rest is queued and runs in order as slots become free."""
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


async def test_reasoner_that_waits_for_its_own_call_uses_no_slot(cp: Plane) -> None:
    """With one slot, a reasoner that calls its own node does not block itself."""
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
    """The declaration applies where the caller sets nothing."""
    spec = FunctionSpec(name="fn", input_schema={}, timeout=30.0, retries=2)
    node = RawNode(functions=(spec,))
    async with node.linked(cp):
        execution_id = await cp.start("node.fn")
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert row.deadline is not None
        assert (row.max_attempts, round(row.deadline - row.created_at)) == (3, 30)


async def test_accepted_frame_of_a_closed_execution_is_cancelled(cp: Plane) -> None:
    """A node that accepts an execution that is not open gets a `cancel`."""
    node = RawNode()
    async with node.linked(cp):
        await node.send(Accepted(execution_id="exe_gone", attempt=1, epoch=1))
        assert (await node.next(Cancel)).execution_id == "exe_gone"
