"""Execution policy: retries and backoff, delays, concurrency limits, order of the queue, progress."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agentfield import Agent, context
from agentfield.client import ControlPlaneClient
from agentfield.errors import InvalidInput, LimitExceeded, Unavailable
from agentfield.wire.frames import Cancel, Invoke, Progress, ResultAck
from agentfield.wire.node_declarations import FunctionSpec
from support.server.engine import Plane, RawNode, plane
from support.waiting import SECONDS, until

SCHEMA = {"type": "object"}


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


def node(concurrency: int = 100, **spec: Any) -> RawNode:
    """Return a node with the function `fn`, declared with `spec`, and the function `other`."""
    functions = (
        FunctionSpec(name="fn", input_schema=SCHEMA, **spec),
        FunctionSpec(name="other", input_schema=SCHEMA),
    )
    return RawNode(functions=functions, concurrency=concurrency)


def failed(invoke: Invoke, **more: Any) -> dict[str, Any]:
    """Return the fields of a failed result."""
    problem = {"code": "execution_failed", "detail": f"attempt {invoke.context.attempt}", "status": 502}
    return {"status": "failed", "problem": problem, **more}


async def test_retryable_failure_is_retried(cp: Plane) -> None:
    """Each failed attempt is recorded with its reason; the result of the last one is the execution's."""
    here = node(retries=3, backoff=0.01)
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        for attempt in (1, 2):
            invoke = await here.next(Invoke)
            assert invoke.context.attempt == attempt
            await here.answer(invoke, **failed(invoke, retry=True))
            assert (await here.next(ResultAck)).accepted
        await here.answer(await here.next(Invoke), "well")
        view = await cp.finished(execution_id)
    assert (view["status"], view["output"], view["attempt"], view["max_attempts"]) == ("succeeded", "well", 3, 4)
    events = await cp.events(view["run_id"])
    assert [event["type"] for event in events] == [
        "execution.created",
        *("execution.started", "execution.retrying") * 2,
        "execution.started",
        "execution.ended",
    ]
    first = events[2]["body"]
    assert (first["attempt"], first["problem"]["detail"]) == (1, "attempt 1")
    assert first["not_before"] >= events[1]["at"] + 0.005


async def test_last_failure_is_the_result(cp: Plane) -> None:
    """Without an attempt left, or without `retry` of the node, the failure is final."""
    here = node(retries=1, backoff=0)
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        for _ in range(2):
            invoke = await here.next(Invoke)
            await here.answer(invoke, **failed(invoke, retry=True))
        view = await cp.finished(execution_id)
        assert (view["status"], view["attempt"], view["problem"]["detail"]) == ("failed", 2, "attempt 2")
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        await here.answer(invoke, **failed(invoke))
        assert (await cp.finished(execution_id))["attempt"] == 1


async def test_unsigned_failure_is_not_retried(cp: Plane) -> None:
    """A failure without the node's signature is final."""
    here = node(retries=3, backoff=0)
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        await here.answer(invoke, **failed(invoke, retry=True, signature="AAAA"))
        view = await cp.finished(execution_id)
    assert (view["status"], view["problem"]["code"], view["attempt"]) == ("failed", "bad_proof", 1)


async def test_attempts_end_with_the_deadline(cp: Plane) -> None:
    """No attempt is queued beyond the deadline."""
    here = node(retries=5, backoff=60.0)
    async with here.linked(cp):
        _, body, _ = await cp.post("/execute/async/node.fn", {"timeout": 5})
        invoke = await here.next(Invoke)
        await here.answer(invoke, **failed(invoke, retry=True))
        assert (await cp.finished(body["id"]))["status"] == "failed"


async def test_retry_on_classes_and_codes(cp: Plane) -> None:
    """Exception classes with their subclasses and error codes are retried; anything else fails at once."""
    shop, runs = Agent("shop", url=cp.url), list[str]()

    @shop.reasoner(retries=3, retry_on=(ConnectionError, "busy"), backoff=0.01)
    async def lookup(how: str) -> str:
        runs.append(how)
        match how, runs.count(how):
            case "reset", 1 | 2:
                raise ConnectionResetError("gone")
            case "busy", 1:
                raise LimitExceeded("not now", code="busy")
            case "wrong", _:
                raise ValueError("never")
        return f"{how} after {runs.count(how)}"

    async with shop:
        for how, outcome in (("reset", "reset after 3"), ("busy", "busy after 2")):
            status, body, _ = await cp.execute("shop.lookup", how=how)
            assert (status, body.get("output")) == (200, outcome)
        status, body, _ = await cp.execute("shop.lookup", how="wrong")
        assert (status, body["error"], runs.count("wrong")) == (502, "ValueError", 1)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"retry_on": ConnectionError}, "retries"),
        ({"retries": 1, "retry_on": (3,)}, "retry_on"),
        ({"retries": 1, "retry_on": KeyboardInterrupt}, "retry_on"),
        ({"backoff": -1.0}, "backoff"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_invalid_policy_is_refused(policy: dict[str, Any], field: str) -> None:
    """The error names the invalid field."""
    with pytest.raises(InvalidInput) as caught:
        Agent("shop").reasoner("lookup", **policy)(lambda: None)
    assert (caught.value.code, caught.value.data["field"]) == ("invalid_declaration", field)


async def test_delayed_call_starts_by_itself(cp: Plane) -> None:
    """A delayed call waits in the store, does not block other calls, and starts without another event."""
    here = node()
    async with here.linked(cp):
        _, later, _ = await cp.post("/execute/async/node.fn", {"delay": 0.5, "timeout": 5})
        assert (later["status"], later["deadline"]) == ("queued", pytest.approx(later["created_at"] + 5.5))
        now = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        assert invoke.context.execution_id == now
        await here.answer(invoke)
        invoke = await here.next(Invoke)
        assert invoke.context.execution_id == later["id"]
        await here.answer(invoke)
        view = await cp.finished(later["id"])
    assert view["started_at"] >= view["created_at"] + 0.5


async def test_synchronous_call_with_delay_is_refused(cp: Plane) -> None:
    """The refusal names the asynchronous route."""
    async with node().linked(cp):
        status, body, _ = await cp.post("/execute/node.fn", {"delay": 1})
    assert (status, body["field"], body["hint"]) == (422, "delay", "POST /api/v1/execute/async/node.fn")


async def test_concurrency_limit_of_a_target_does_not_block_others(cp: Plane) -> None:
    """The limit of a target applies to all instances together; other targets run meanwhile."""
    one = RawNode(
        functions=(
            FunctionSpec(name="fn", input_schema=SCHEMA, concurrency=2),
            FunctionSpec(name="other", input_schema=SCHEMA),
        ),
        concurrency=3,
    )
    two = RawNode(functions=one.functions, concurrency=3, key=one.key)
    async with one.linked(cp), two.linked(cp):
        calls = [await cp.start("node.fn") for _ in range(5)]
        other = await cp.start("node.other")
        await until(lambda: sum(isinstance(f, Invoke) for n in (one, two) for f in n.frames) == 3)
        given = [(n, f) for n in (one, two) for f in n.frames if isinstance(f, Invoke)]
        assert sorted(f.function for _, f in given) == ["fn", "fn", "other"]
        assert other in [f.context.execution_id for _, f in given]

        async def work(place: RawNode) -> None:
            while True:
                await place.answer(await place.next(Invoke))

        workers = [asyncio.create_task(work(place)) for place in (one, two)]
        try:
            ended = await asyncio.gather(*(cp.finished(call) for call in calls))
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    assert {view["status"] for view in ended} == {"succeeded"}
    spans = [edge for view in ended for edge in ((view["started_at"], 1), (view["ended_at"], -1))]
    running = most = 0
    for _, step in sorted(spans, key=lambda edge: (edge[0], edge[1])):
        running += step
        most = max(most, running)
    assert most <= 2


async def test_slots_are_shared_fairly(cp: Plane) -> None:
    """A run with a long queue does not starve another one; higher priority goes first."""
    here = node(concurrency=1)
    async with here.linked(cp):
        first = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        many = [await cp.start("node.other", n=n) for n in range(6)]
        _, run, _ = await cp.post("/execute/async/node.fn", {"input": {"n": "urgent"}, "priority": 5})
        _, view = await cp.get(f"/executions/{first}")
        agent = await cp.store.create_execution(_beside(view["run_id"]), max_queued=None)
        order = list[str]()
        for _ in range(8):
            await here.answer(invoke)
            invoke = await here.next(Invoke)
            order.append(invoke.context.execution_id)
        await here.answer(invoke)
        await cp.finished(order[-1])
    assert order[0] == run["id"]
    assert order.index(agent[0].id) <= 2, "a newcomer of another share waits for one of the long queue at most"
    assert [one for one in order if one in many] == many


def _beside(run_id: str) -> Any:
    from agentfield.ids import new_id
    from agentfield_server.store.records import NewExecution

    return NewExecution(id=new_id("exe"), run_id=run_id, kind="call", target="node.fn", input={}, share="somebody else")


async def test_full_queue_is_refused(tmp_path: Path) -> None:
    """Beyond the limit the answer is 429 with Retry-After and nothing is stored; queued work still runs."""
    here = node(concurrency=1)
    async with plane(tmp_path / "a.db", max_queued=3) as cp, here.linked(cp):
        calls = [await cp.start("node.fn") for _ in range(4)]
        status, body, headers = await cp.post("/execute/async/node.fn", {})
        assert (status, body["code"], headers["Retry-After"]) == (429, "queue_full", "2")
        assert "AGENTFIELD_MAX_QUEUED" in body["hint"]
        for _ in calls:
            await here.answer(await here.next(Invoke))
        assert {(await cp.finished(call))["status"] for call in calls} == {"succeeded"}
        assert (await cp.post("/execute/async/node.fn", {}))[0] == 202


async def test_wait_parameter_waits_for_the_end(cp: Plane) -> None:
    """`wait` delays the answer until the execution ended, or returns its current state after the timeout."""
    here = node()
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        asking = asyncio.create_task(cp.get(f"/executions/{execution_id}?wait=30"))
        _, early = await cp.get(f"/executions/{execution_id}?wait=0.05")
        assert early["status"] == "running"
        assert not asking.done()
        await here.answer(await here.next(Invoke), 7)
        assert (await asyncio.wait_for(asking, SECONDS))[1]["output"] == 7
        for wrong in ("61", "-1", "soon"):
            assert (await cp.get(f"/executions/{execution_id}?wait={wrong}"))[0] == 422


async def test_status_of_many_executions(cp: Plane) -> None:
    """One request returns many states in the given order, without inputs; unknown ids are listed."""
    here = node()
    async with here.linked(cp):
        ids = [await cp.start("node.fn", n=n) for n in range(3)]
        await here.answer(await here.next(Invoke))
        await cp.finished(ids[0])
        status, body, _ = await cp.post("/executions/status", {"ids": [*ids[::-1], "exe_nobody", ids[0]]})
    assert status == 200
    assert [one["id"] for one in body["executions"]] == ids[::-1]
    assert [one["status"] for one in body["executions"]] == ["running", "running", "succeeded"]
    assert all(one["input"] is None for one in body["executions"])
    assert body["unknown"] == ["exe_nobody"]
    for wrong in ([], ["exe_x"] * 501):
        assert (await cp.post("/executions/status", {"ids": wrong}))[0] == 422


async def test_cancelling_an_execution_or_a_whole_run(cp: Plane) -> None:
    """Without `tree`, children stay; cancelling the run stops every open execution."""
    shop, begun, stopped = Agent("shop", url=cp.url), asyncio.Semaphore(0), list[str]()

    @shop.reasoner()
    async def slow(name: str) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(name)
            raise

    @shop.reasoner()
    async def parent() -> None:
        begun.release()
        await shop.call("shop.slow", name="child")

    async with shop, ControlPlaneClient(cp.url) as client:
        root = await cp.start("shop.parent")
        for _ in range(2):
            await asyncio.wait_for(begun.acquire(), SECONDS)
        await client.cancel_execution(root, tree=False)
        view = await cp.finished(root)
        assert (view["status"], stopped) == ("cancelled", [])
        assert await client.cancel_run(view["run_id"]) == 1
        await until(lambda: stopped == ["child"])
        assert await client.cancel_run(view["run_id"]) == 0
    status, body, _ = await cp.post("/workflows/run_nobody/cancel", {})
    assert (status, body["code"]) == (404, "unknown_run")


async def test_late_result_of_a_cancelled_attempt_is_refused(cp: Plane) -> None:
    """This includes a result that asks for a retry."""
    here = node(retries=3, backoff=0)
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        await here.accept(invoke)
        await cp.post(f"/executions/{execution_id}/cancel", {"reason": "changed my mind"})
        assert (await here.next(Cancel)).execution_id == execution_id
        await here.answer(invoke, **failed(invoke, retry=True))
        assert not (await here.next(ResultAck)).accepted
        view = await cp.finished(execution_id)
    assert (view["status"], view["attempt"], view["problem"]["reason"]) == ("cancelled", 1, "changed my mind")


async def test_progress_is_shown_and_recorded(cp: Plane) -> None:
    """The newest progress is visible while the attempt runs, from a coroutine or a thread."""
    shop, go = Agent("shop", url=cp.url), threading.Event()

    @shop.reasoner()
    def count() -> str:
        context.update(done=1, of=3)
        for done in (2, 3):
            context.update(done=done, of=3)
        assert go.wait(SECONDS)
        context.update(done="all")
        return "counted"

    async with shop:
        execution_id = await cp.start("shop.count")

        async def so_far() -> Any:
            _, view = await cp.get(f"/executions/{execution_id}")
            return (view["progress"] or {}).get("done")

        async def shown(done: Any) -> None:
            async with asyncio.timeout(SECONDS):
                while await so_far() != done:  # noqa: ASYNC110 - polled over HTTP, as a client does
                    await asyncio.sleep(0.01)

        await shown(3)
        go.set()
        view = await cp.finished(execution_id)
    assert (view["status"], view["progress"]) == ("succeeded", {"done": "all"})
    told = [event["body"]["progress"] for event in await cp.events(view["run_id"]) if "progress" in event["type"]]
    assert told == [{"done": 1, "of": 3}, {"done": 3, "of": 3}, {"done": "all"}], "the newest word of each second"


async def test_progress_of_another_nodes_attempt_is_dropped(cp: Plane) -> None:
    """Only the node that has the attempt may report progress."""
    here, stranger = node(), RawNode(node_id="stranger")
    async with here.linked(cp), stranger.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        told = Progress(execution_id=execution_id, attempt=1, epoch=invoke.epoch, value={"done": 1})
        await stranger.send(told)
        await here.send(replace(told, attempt=9))
        await here.answer(invoke)
        assert (await cp.finished(execution_id))["progress"] is None


def test_progress_outside_of_a_run_is_refused() -> None:
    """The error code is `no_run`."""
    with pytest.raises(Unavailable) as caught:
        context.update(done=1)
    assert caught.value.code == "no_run"
