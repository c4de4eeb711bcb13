"""What a reasoner declares and a caller asks for: attempts and pauses, delays, limits, order of the queue, progress."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent, context
from agentfield.client import ControlPlaneClient
from agentfield.errors import InvalidInput, LimitExceeded, Unavailable
from agentfield.wire.frames import Cancel, FunctionSpec, Invoke, Progress, ResultAck
from engine_kit import SOON, Plane, RawNode, plane, until

SCHEMA = {"type": "object"}


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


def node(concurrency: int = 100, **spec: Any) -> RawNode:
    """Return a node with the functions `fn`, declared like this, and `other`."""
    functions = (
        FunctionSpec(name="fn", input_schema=SCHEMA, **spec),
        FunctionSpec(name="other", input_schema=SCHEMA),
    )
    return RawNode(functions=functions, concurrency=concurrency)


def failed(invoke: Invoke, **more: Any) -> dict[str, Any]:
    """Return what a node says of a failure."""
    problem = {"code": "execution_failed", "detail": f"attempt {invoke.context.attempt}", "status": 502}
    return {"status": "failed", "problem": problem, **more}


async def test_a_failure_that_may_pass_is_tried_again(cp: Plane) -> None:
    """Each attempt is recorded with the reason for the next one, and the last one's result is the execution's."""
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


async def test_the_last_failure_is_the_result(cp: Plane) -> None:
    """When no attempt is left, or the node does not ask for one, the failure stands."""
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


async def test_a_failure_that_nobody_signed_for_is_not_tried_again(cp: Plane) -> None:
    """What does not bear the node's signature decides nothing but that the attempt failed."""
    here = node(retries=3, backoff=0)
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        await here.answer(invoke, **failed(invoke, retry=True, signature="AAAA"))
        view = await cp.finished(execution_id)
    assert (view["status"], view["problem"]["code"], view["attempt"]) == ("failed", "bad_signature", 1)


async def test_attempts_end_with_the_deadline(cp: Plane) -> None:
    """A pause that would outlast the deadline is not begun."""
    here = node(retries=5, backoff=60.0)
    async with here.linked(cp):
        _, body, _ = await cp.post("/execute/async/node.fn", {"timeout": 5})
        invoke = await here.next(Invoke)
        await here.answer(invoke, **failed(invoke, retry=True))
        assert (await cp.finished(body["id"]))["status"] == "failed"


async def test_a_reasoner_says_after_what_it_runs_again(cp: Plane) -> None:
    """Classes with their subclasses and codes count; anything else fails at once."""
    desk, runs = Agent("desk", url=cp.url), list[str]()

    @desk.reasoner(retries=3, retry_on=(ConnectionError, "busy"), backoff=0.01)
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

    async with desk:
        for how, outcome in (("reset", "reset after 3"), ("busy", "busy after 2")):
            status, body, _ = await cp.execute("desk.lookup", how=how)
            assert (status, body.get("output")) == (200, outcome)
        status, body, _ = await cp.execute("desk.lookup", how="wrong")
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
def test_a_policy_that_cannot_be_is_refused(policy: dict[str, Any], field: str) -> None:
    """The declaration names the part that does not hold."""
    with pytest.raises(InvalidInput) as caught:
        Agent("desk").reasoner("lookup", **policy)(lambda: None)
    assert (caught.value.code, caught.value.data["field"]) == ("invalid_declaration", field)


async def test_a_delayed_call_starts_by_itself(cp: Plane) -> None:
    """It waits for its time in the store, does not hold up others, and nothing else has to happen for it to start."""
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


async def test_who_waits_asks_for_no_delay(cp: Plane) -> None:
    """A delay of a synchronous call is refused, with the route that takes it."""
    async with node().linked(cp):
        status, body, _ = await cp.post("/execute/node.fn", {"delay": 1})
    assert (status, body["field"], body["hint"]) == (422, "delay", "POST /api/v1/execute/async/node.fn")


async def test_a_target_with_a_limit_does_not_hold_up_the_others(cp: Plane) -> None:
    """No more runs of it are under way than it allows, on all instances together; other targets go on."""
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


async def test_room_is_shared_among_those_who_ask(cp: Plane) -> None:
    """One run with a long queue does not keep another one waiting for all of it; what is more urgent goes first."""
    here = node(concurrency=1)
    async with here.linked(cp):
        first = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        many = [await cp.start("node.other", n=n) for n in range(6)]
        _, run, _ = await cp.post("/execute/async/node.fn", {"input": {"n": "urgent"}, "priority": 5})
        _, view = await cp.get(f"/executions/{first}")
        agent = await cp.store.create_execution(_beside(view["run_id"]), room=None)
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


async def test_a_full_queue_is_said_so(tmp_path: Path) -> None:
    """Beyond the limit 429 says when to come back, and nothing of the refused call is left; what waits is still run."""
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


async def test_an_answer_waits_for_the_end(cp: Plane) -> None:
    """`wait` holds the answer back until the execution ended, and gives it as it is when that takes too long."""
    here = node()
    async with here.linked(cp):
        execution_id = await cp.start("node.fn")
        asking = asyncio.create_task(cp.get(f"/executions/{execution_id}?wait=30"))
        _, early = await cp.get(f"/executions/{execution_id}?wait=0.05")
        assert early["status"] == "running"
        assert not asking.done()
        await here.answer(await here.next(Invoke), 7)
        assert (await asyncio.wait_for(asking, SOON))[1]["output"] == 7
        for wrong in ("61", "-1", "soon"):
            assert (await cp.get(f"/executions/{execution_id}?wait={wrong}"))[0] == 422


async def test_many_are_looked_at_at_once(cp: Plane) -> None:
    """One request tells where many stand, in the order asked for, without their inputs; unknown ids are named."""
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


async def test_one_or_all_of_a_run_is_cancelled(cp: Plane) -> None:
    """Cancelling one leaves what it called alone when asked to; cancelling the run stops everything that is open."""
    desk, begun, stopped = Agent("desk", url=cp.url), asyncio.Semaphore(0), list[str]()

    @desk.reasoner()
    async def slow(name: str) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(name)
            raise

    @desk.reasoner()
    async def parent() -> None:
        begun.release()
        await desk.call("desk.slow", name="child")

    async with desk, ControlPlaneClient(cp.url) as client:
        root = await cp.start("desk.parent")
        for _ in range(2):
            await asyncio.wait_for(begun.acquire(), SOON)
        await client.cancel_execution(root, tree=False)
        view = await cp.finished(root)
        assert (view["status"], stopped) == ("cancelled", [])
        assert await client.cancel_run(view["run_id"]) == 1
        await until(lambda: stopped == ["child"])
        assert await client.cancel_run(view["run_id"]) == 0
    status, body, _ = await cp.post("/workflows/run_nobody/cancel", {})
    assert (status, body["code"]) == (404, "unknown_run")


async def test_a_cancelled_attempt_stays_cancelled(cp: Plane) -> None:
    """A result that comes after the cancellation is refused, also one that asks for another attempt."""
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


async def test_a_run_tells_how_far_it_has_come(cp: Plane) -> None:
    """The newest word shows in the view while the run goes on, from a coroutine or a thread, and is recorded."""
    desk, go = Agent("desk", url=cp.url), threading.Event()

    @desk.reasoner()
    def count() -> str:
        context.update(done=1, of=3)
        for done in (2, 3):
            context.update(done=done, of=3)
        assert go.wait(SOON)
        context.update(done="all")
        return "counted"

    async with desk:
        execution_id = await cp.start("desk.count")

        async def so_far() -> Any:
            _, view = await cp.get(f"/executions/{execution_id}")
            return (view["progress"] or {}).get("done")

        async def shown(done: Any) -> None:
            async with asyncio.timeout(SOON):
                while await so_far() != done:  # noqa: ASYNC110 - as whoever looks at it from outside does
                    await asyncio.sleep(0.01)

        await shown(3)
        go.set()
        view = await cp.finished(execution_id)
    assert (view["status"], view["progress"]) == ("succeeded", {"done": "all"})
    told = [event["body"]["progress"] for event in await cp.events(view["run_id"]) if "progress" in event["type"]]
    assert told == [{"done": 1, "of": 3}, {"done": 3, "of": 3}, {"done": "all"}], "the newest word of each second"


async def test_progress_of_somebody_elses_run_is_dropped(cp: Plane) -> None:
    """Only who holds an attempt may tell of it."""
    here, stranger = node(), RawNode(node_id="stranger")
    async with here.linked(cp), stranger.linked(cp):
        execution_id = await cp.start("node.fn")
        invoke = await here.next(Invoke)
        told = Progress(execution_id=execution_id, attempt=1, epoch=invoke.epoch, value={"done": 1})
        await stranger.send(told)
        await here.send(told.model_copy(update={"attempt": 9}))
        await here.answer(invoke)
        assert (await cp.finished(execution_id))["progress"] is None


def test_there_is_nothing_to_tell_of_outside_of_a_run() -> None:
    """Progress outside of a run, or too much of it, is an error of who tells it."""
    with pytest.raises(Unavailable) as caught:
        context.update(done=1)
    assert caught.value.code == "no_run"
