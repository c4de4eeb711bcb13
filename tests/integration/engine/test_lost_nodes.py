"""Lost nodes and restarted control planes: no execution is lost, and none runs twice without permission."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield.wire.frames import Cancel, GiveBack, GivenBack, Invoke, LoopState, Refused, ResultAck, RunningAttempt
from agentfield.wire.node_declarations import FunctionSpec
from support.server.engine import RawNode, plane
from support.waiting import SECONDS, until

RETRIED = (FunctionSpec(name="fn", input_schema={}, retries=1),)


def attempt_of(invoke: Invoke) -> RunningAttempt:
    """Return the attempt as a node reports it when it links again."""
    context = invoke.context
    return RunningAttempt(execution_id=context.execution_id, attempt=context.attempt, epoch=invoke.epoch)


async def test_accepted_attempt_of_a_dead_node_fails(tmp_path: Path) -> None:
    """Without retries the attempt fails as `node_lost` when the lease ends, with a hint."""
    node = RawNode()
    async with plane(tmp_path / "a.db") as cp:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            await node.accept(await node.next(Invoke))
            await until_accepted(cp.store, execution_id)
            node.vanish()
        view = await cp.finished(execution_id)
    assert (view["status"], view["problem"]["code"]) == ("failed", "node_lost")
    assert "retries=1" in view["problem"]["hint"]


async def test_retryable_attempt_of_a_dead_node_runs_elsewhere(tmp_path: Path) -> None:
    """With retries the execution runs on another instance as the next attempt; late frames of the first are ignored."""
    first, second = RawNode(functions=RETRIED), RawNode(functions=RETRIED)
    async with plane(tmp_path / "a.db") as cp:
        async with first.linked(cp):
            execution_id = await cp.start("node.fn")
            invoke = await first.next(Invoke)
            await first.accept(invoke)
            await until_accepted(cp.store, execution_id)
            first.vanish()
        async with second.linked(cp):
            again = await second.next(Invoke)
            assert (again.context.execution_id, again.context.attempt) == (execution_id, 2)
            assert again.epoch > invoke.epoch
            async with first.linked(cp, results=(attempt_of(invoke),)):
                assert first.welcome is not None
                assert first.welcome.ack == (execution_id,)
                await first.send(first.result_of(invoke, "late"))
                assert not (await first.next(ResultAck)).accepted
                await second.answer(again, "second")
                view = await cp.finished(execution_id)
        events = await cp.events(view["run_id"])
        _, graph = await cp.get(f"/workflows/{view['run_id']}/dag")
    assert (view["output"], view["attempt"]) == ("second", 2)
    assert [e["body"]["attempt"] for e in events if e["type"] == "execution.started"] == [1, 2]
    [lost] = [e for e in events if e["type"] == "execution.retrying"]
    assert (lost["body"]["attempt"], lost["body"]["problem"]["code"]) == (1, "node_lost")
    [told] = graph["executions"][0]["history"]
    assert (told["type"], told["at"], told["body"]) == (lost["type"], lost["at"], lost["body"])


async def test_second_loss_exhausts_one_retry(tmp_path: Path) -> None:
    """One retry allows one more attempt."""
    node = RawNode(functions=RETRIED)
    async with plane(tmp_path / "a.db", lease=0.2) as cp:
        for expected in (1, 2):
            node = RawNode(functions=RETRIED)
            async with node.linked(cp):
                if expected == 1:
                    execution_id = await cp.start("node.fn")
                invoke = await node.next(Invoke)
                assert invoke.context.attempt == expected
                await node.accept(invoke)
                await until_accepted(cp.store, execution_id)
                node.vanish()
        view = await cp.finished(execution_id)
    assert view["problem"]["code"] == "node_lost"


async def test_attempt_that_was_not_accepted_is_requeued_at_once(tmp_path: Path) -> None:
    """A node that closes its link before it accepted returns the attempt, with or without retries."""
    first, second = RawNode(), RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp, first.linked(cp):
        execution_id = await cp.start("node.fn")
        await first.next(Invoke)
        async with second.linked(cp):
            await first.leave()
            again = await second.next(Invoke)
            assert (again.context.execution_id, again.context.attempt) == (execution_id, 2)
            await second.answer(again, "done")
            view = await cp.finished(execution_id)
        events = await cp.events(view["run_id"])
    assert view["status"] == "succeeded"
    [returned] = [event["body"] for event in events if event["type"] == "execution.returned"]
    assert (returned["attempt"], returned["instance_id"]) == (1, first.instance_id)


@pytest.mark.parametrize("retries", [0, 1])
async def test_attempt_whose_entry_is_unknown_counts_as_entered(tmp_path: Path, retries: int) -> None:
    """A broken link may have lost `accepted`: without retries the attempt is closed and never runs again."""
    functions = (FunctionSpec(name="fn", input_schema={}, retries=retries),)
    first, second = RawNode(functions=functions), RawNode(functions=functions)
    async with plane(tmp_path / "a.db", lease=0.3) as cp, first.linked(cp), second.linked(cp):
        execution_id = await cp.start("node.fn")
        await until(lambda: first.frames or second.frames)
        lost, other = (first, second) if first.frames else (second, first)
        await lost.next(Invoke)
        lost.vanish()
        if retries:
            again = await other.next(Invoke)
            assert (again.context.execution_id, again.context.attempt) == (execution_id, 2)
            await other.answer(again, "done")
        view = await cp.finished(execution_id)
        events = await cp.events(view["run_id"])
        assert not any(isinstance(frame, Invoke) for frame in other.frames)
    if retries:
        assert (view["status"], view["attempt"]) == ("succeeded", 2)
        [problem] = [e["body"]["problem"] for e in events if e["type"] == "execution.retrying"]
    else:
        problem = view["problem"]
        assert (view["status"], view["attempt"]) == ("failed", 1)
    assert (problem["code"], problem["entered"]) == ("node_lost", "unknown")


@pytest.mark.parametrize("version", [1, 2])
async def test_nodes_of_both_versions_are_served(tmp_path: Path, version: int) -> None:
    """A node of version 1, which refuses a challenge of another version, is served; only version 2 may close in order."""
    node = RawNode(protocol=version)
    async with plane(tmp_path / "a.db", lease=0.3) as cp:
        async with node.linked(cp):
            assert node.challenge is not None
            assert (node.challenge.protocol, node.challenge.protocols) == (1, (1, 2))
            execution_id = await cp.start("node.fn")
            await node.answer(await node.next(Invoke), "served")
            assert (await cp.finished(execution_id))["output"] == "served"
            unknown = await cp.start("node.fn")
            await node.next(Invoke)
            await node.leave()
            await until(lambda: not cp.hub.links())
        async with RawNode().linked(cp) as other:
            if version == 1:  # it may have entered the function before its `accepted` was on the wire
                assert (await cp.finished(unknown))["problem"]["entered"] == "unknown"
            else:
                await other.answer(await other.next(Invoke), "elsewhere")
                assert (await cp.finished(unknown))["output"] == "elsewhere"


async def test_a_version_that_nobody_speaks_is_refused(tmp_path: Path) -> None:
    """A hello of a version that was not offered is refused with both versions."""
    node = RawNode(protocol=3)
    async with (
        plane(tmp_path / "a.db") as cp,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{cp.url}/api/v1/nodes/link") as node.socket,
    ):
        refused = await node.greet()
    assert isinstance(refused, Refused)
    assert (refused.problem["code"], refused.retry) == ("protocol_mismatch", False)
    assert "version 3" in refused.problem["detail"]
    assert "1 and 2" in refused.problem["detail"]


async def test_entry_and_result_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accepted` is recorded with the result that follows it in another message, or by itself when something precedes that."""
    monkeypatch.setattr("agentfield_server.engine.entries._DELAY", 1000.0)
    node = RawNode(functions=RETRIED)
    async with plane(tmp_path / "a.db", lease=0.3) as cp, node.linked(cp):
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), 1)
        view = await cp.finished(execution_id)
        started, ended = (await cp.events(view["run_id"]))[1:]
        assert started["at"] == ended["at"] >= started["body"]["entered_at"]
        lost = await cp.start("node.fn")
        await node.accept(await node.next(Invoke))
        link = cp.hub.links()[0]
        await until(lambda: link.assigned[lost].accepted)
        node.vanish()
        async with RawNode(functions=RETRIED).linked(cp) as other:
            again = await other.next(Invoke)
            assert again.context.attempt == 2
            await other.answer(again, 1)
            events = await cp.events((await cp.finished(lost))["run_id"])
    kinds = [event["type"].removeprefix("execution.") for event in events]
    assert kinds == ["created", "started", "retrying", "started", "ended"]
    assert events[2]["body"]["problem"]["entered"] == "yes"


async def test_work_that_was_not_entered_is_given_back(tmp_path: Path) -> None:
    """A blocked instance gets no new work, and what it gives back runs elsewhere; what it has entered stays."""
    blocked, other = RawNode(), RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp, blocked.linked(cp), blocked.watching(cp) as tell:
        entered, returned, told = [await cp.start("node.fn", n=n) for n in range(3)]
        invokes = {name: await blocked.next(Invoke) for name in (entered, returned, told)}
        await blocked.accept(invokes[told])
        link = cp.hub.links()[0]
        await until(lambda: link.assigned[told].accepted)
        async with other.linked(cp):
            await tell(LoopState(blocked=2.5, function="shop.charge at agent.py:13"))
            await tell(GiveBack(number=1, entered=(attempt_of(invokes[entered]),)))
            again = await other.next(Invoke)
            assert again.context.execution_id == returned
            shown = [(node.blocked, node.blocked_by) for node in cp.hub.views()]
            assert shown == [(2.5, "shop.charge at agent.py:13"), (0.0, None)]
            await other.answer(again, "elsewhere")
            await blocked.next(GivenBack, number=1)
            fresh = await cp.start("node.fn", n=3)
            await other.answer(await other.next(Invoke), "new")
            assert (await cp.finished(fresh))["output"] == "new"
            await tell(GiveBack(number=1))  # repeated: it counts once
            await blocked.send(LoopState(blocked=0.0))
            for name in (entered, told):
                await blocked.answer(invokes[name], "here")
                assert (await cp.finished(name))["output"] == "here"
            view = await cp.finished(returned)
            events = await cp.events(view["run_id"])
            _, graph = await cp.get(f"/workflows/{view['run_id']}/dag")
            await until(lambda: link.takes_work)
            assert {node.blocked for node in cp.hub.views()} == {0.0}
    assert (view["output"], view["attempt"]) == ("elsewhere", 2)
    assert [event["body"]["attempt"] for event in events if event["type"] == "execution.returned"] == [1]
    [told] = graph["executions"][0]["history"]
    assert (told["type"], told["body"]["reason"]) == (
        "execution.returned",
        f"the event loop of the instance {link.instance_id} is blocked",
    )


async def test_a_watched_instance_keeps_its_work_without_a_link(tmp_path: Path) -> None:
    """While the watchdog of an instance reports, the lease of its attempts does not end, also after its link broke."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=0.1) as cp, node.watching(cp) as tell:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            invoke = await node.next(Invoke)
            await node.accept(invoke)
            await until_accepted(cp.store, execution_id)
            node.vanish()
            await until(lambda: not cp.hub.links())
        began = time.monotonic()
        while time.monotonic() < began + 1:
            await tell(LoopState(blocked=5.0))
            await asyncio.sleep(0.05)
        async with node.linked(cp, running=(attempt_of(invoke),)):
            await node.send(node.result_of(invoke, "kept"))
            assert (await cp.finished(execution_id))["output"] == "kept"


async def test_silent_node_loses_its_link(tmp_path: Path) -> None:
    """Its unaccepted attempt stays until the lease ends and then counts as entered."""
    first, second = RawNode(mute=True, functions=RETRIED), RawNode(functions=RETRIED)
    async with plane(tmp_path / "a.db", ping_interval=0.05, ping_timeout=0.2, lease=0.5) as cp, first.linked(cp):
        execution_id = await cp.start("node.fn")
        await first.next(Invoke)
        await until(lambda: not cp.hub.links())
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert row.status == "running"
        async with second.linked(cp):
            again = await second.next(Invoke)
            assert again.context.attempt == 2
            await second.answer(again, 1)
            assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_idle_node_that_answers_pings_stays_linked(tmp_path: Path) -> None:
    """An idle node keeps its link."""
    node = RawNode()
    async with plane(tmp_path / "a.db", ping_interval=0.05, ping_timeout=0.2) as cp, node.linked(cp):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: loop.time() - began > 0.6)
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_returning_instance_keeps_its_attempts(tmp_path: Path) -> None:
    """An instance that links again within the lease keeps its attempts, and its results count."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            invoke = await node.next(Invoke)
            await node.accept(invoke)
            await until_accepted(cp.store, execution_id)
            node.vanish()
        stray = RunningAttempt(execution_id="exe_stray", attempt=1, epoch=1)
        async with node.linked(cp, running=(attempt_of(invoke), stray)):
            assert node.welcome is not None
            assert (node.welcome.keep, node.welcome.cancel) == ((execution_id,), ("exe_stray",))
            await node.send(node.result_of(invoke, "kept"))
            assert (await cp.finished(execution_id))["output"] == "kept"


async def test_unacknowledged_result_is_accepted_later(tmp_path: Path) -> None:
    """A result that the node still has is recorded after it links again, or acknowledged if it was recorded before."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            invoke = await node.next(Invoke)
            await node.accept(invoke)
            await until_accepted(cp.store, execution_id)
            node.vanish()
        async with node.linked(cp, results=(attempt_of(invoke),)):
            assert node.welcome is not None
            assert not node.welcome.ack
            await node.send(node.result_of(invoke, "later"))
            assert (await cp.finished(execution_id))["output"] == "later"
        async with node.linked(cp, results=(attempt_of(invoke),)):
            assert node.welcome is not None
            assert node.welcome.ack == (execution_id,)


async def test_lost_invocation_is_repeated_to_the_same_instance(tmp_path: Path) -> None:
    """When an instance replaces its link, the invocation is repeated whole, under the same attempt."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp, node.linked(cp):
        execution_id = await cp.start("node.fn", text="x" * 40_000)
        invoke = await node.next(Invoke)
        twin = RawNode(key=node.key, instance_id=node.instance_id)
        async with twin.linked(cp):
            again = await twin.next(Invoke)
            assert attempt_of(again) == attempt_of(invoke)
            assert again.input == invoke.input == {"text": "x" * 40_000}
            await until(lambda: node.socket is not None and node.socket.closed)
            assert len(cp.hub.links()) == 1
            await twin.answer(again, 1)
            assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_returning_instance_without_its_attempt_loses_it(tmp_path: Path) -> None:
    """An accepted attempt that a returning instance does not report is lost at once."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            await node.accept(await node.next(Invoke))
            await until_accepted(cp.store, execution_id)
            node.vanish()
        async with node.linked(cp):
            assert (await cp.finished(execution_id))["problem"]["code"] == "node_lost"


async def test_restarted_control_plane_resumes(tmp_path: Path) -> None:
    """Queued executions are dispatched and running ones are kept after a restart; deadlines still apply."""
    node = RawNode(concurrency=1)
    async with plane(tmp_path / "a.db", lease=60.0) as cp, node.linked(cp):
        running, queued = await cp.start("node.fn", n=0), await cp.start("node.fn", n=1)
        status, body, _ = await cp.post("/execute/async/node.fn", {"input": {}, "timeout": 0.3})
        assert status == 202
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        await until_accepted(cp.store, running)
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        late = await cp.engine.wait(body["id"], SECONDS)
        assert late.status == "timeout"
        async with node.linked(cp, running=(attempt_of(invoke),)):
            await node.send(node.result_of(invoke, "kept"))
            assert (await cp.finished(running))["output"] == "kept"
            second = await node.next(Invoke)
            assert second.context.execution_id == queued
            await node.answer(second, "after")
            view = await cp.finished(queued)
        await cp.events(view["run_id"])
    assert view["output"] == "after"


async def test_node_that_does_not_return_after_a_restart_is_lost(tmp_path: Path) -> None:
    """Leases from before the restart end: attempts that were sent fail, with what is known about their entry."""
    node = RawNode()
    async with plane(tmp_path / "a.db") as cp, node.linked(cp):
        accepted, unaccepted = await cp.start("node.fn", n=0), await cp.start("node.fn", n=1)
        await node.accept(await node.next(Invoke))
        await node.next(Invoke)
        await until_accepted(cp.store, accepted)
    async with plane(tmp_path / "a.db", lease=0.3) as cp:
        rows = [await cp.engine.wait(name, SECONDS) for name in (accepted, unaccepted)]
    assert [row.status for row in rows] == ["failed", "failed"]
    assert [(row.problem or {})["entered"] for row in rows] == ["yes", "unknown"]


async def test_burst_with_a_dying_node_loses_nothing(tmp_path: Path) -> None:
    """Each of many executions on few slots runs and is closed once."""
    async with plane(tmp_path / "a.db", lease=0.3) as cp:
        doomed = RawNode(functions=RETRIED, concurrency=20)
        steady = RawNode(functions=RETRIED, concurrency=20)

        async def work(node: RawNode, limit: int) -> None:
            for _ in range(limit):
                invoke = await node.next(Invoke)
                await node.answer(invoke, invoke.input["n"])

        async with steady.linked(cp):
            async with doomed.linked(cp):
                ids = await asyncio.gather(*(cp.start("node.fn", n=n) for n in range(120)))
                await work(doomed, 20)
                doomed.vanish()
            serving = asyncio.create_task(work(steady, 10_000))
            try:
                done = await asyncio.gather(*(cp.engine.wait(execution_id, SECONDS) for execution_id in ids))
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
        assert [row.status for row in done] == ["succeeded"] * 120
        assert [row.output for row in done] == list(range(120))
        for row in done:
            events = await cp.events(row.run_id)
            assert [event["type"] for event in events].count("execution.ended") == 1


async def test_invalid_connections_do_not_disturb_nodes(tmp_path: Path) -> None:
    """A connection that sends no hello, or no JSON, is refused."""
    node = RawNode()
    async with plane(tmp_path / "a.db") as cp, node.linked(cp):
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{cp.url}/api/v1/nodes/link") as socket:
            await socket.receive_str()
            await socket.send_str("nonsense")
            assert '"bad_frame"' in await socket.receive_str()
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(execution_id))["status"] == "succeeded"


async def until_accepted(store: object, execution_id: str) -> None:
    """Wait until the store has recorded that the function was entered."""
    async with asyncio.timeout(SECONDS):
        while True:
            row = await store.get_execution(execution_id)  # type: ignore[attr-defined]
            if row.accepted:
                return
            await asyncio.sleep(0.005)


async def test_slot_freed_while_leases_are_committed_is_used(tmp_path: Path) -> None:
    """Queued work takes a slot that was freed while the lease of other queued work was being committed."""
    node = RawNode(concurrency=2)
    async with plane(tmp_path / "a.db", lease=60.0) as cp, node.linked(cp):
        first, second, third, fourth = [await cp.start("node.fn", n=n) for n in range(4)]
        running = {(invoke := await node.next(Invoke)).context.execution_id: invoke for _ in range(2)}
        leasing, gate = asyncio.Event(), asyncio.Event()
        lease = cp.store.lease_execution

        async def held_back(*args: Any, **values: Any) -> Any:
            leasing.set()
            await gate.wait()
            return await lease(*args, **values)

        cp.store.lease_execution = held_back  # type: ignore[method-assign]
        await node.answer(running[first], 1)
        await leasing.wait()
        await node.answer(running[second], 1)
        await cp.finished(second)
        await cp.engine.cancel(third)
        gate.set()
        last = await node.next(Invoke)
        assert last.context.execution_id == fourth
        await node.answer(last, 1)
        assert (await cp.finished(fourth))["status"] == "succeeded"


async def test_concurrency_of_a_lost_instance_is_free(tmp_path: Path) -> None:
    """Queued work of a function with a limit starts elsewhere when the instance that used the limit is lost."""
    single = (FunctionSpec(name="fn", input_schema={}, concurrency=1),)
    doomed, steady = RawNode(functions=single), RawNode(functions=single)
    async with plane(tmp_path / "a.db", lease=0.3) as cp, doomed.linked(cp):
        lost = await cp.start("node.fn")
        await doomed.accept(await doomed.next(Invoke))
        await until_accepted(cp.store, lost)
        async with steady.linked(cp):
            waiting = await cp.start("node.fn")
            doomed.vanish()
            invoke = await steady.next(Invoke)
            assert invoke.context.execution_id == waiting
            await steady.answer(invoke, 1)
            assert (await cp.finished(waiting))["status"] == "succeeded"
            assert (await cp.finished(lost))["problem"]["code"] == "node_lost"


async def test_an_overdue_attempt_of_a_blocked_instance_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an attempt's own time the next one starts elsewhere without the blocked node, which is told to stop."""
    monkeypatch.setattr("agentfield_server.engine.leases._SLACK", 0.0)
    functions = (FunctionSpec(name="fn", input_schema={}, retries=1, timeout=0.2),)
    blocked, other = RawNode(functions=functions), RawNode(functions=functions)
    async with plane(tmp_path / "a.db") as cp, blocked.linked(cp), blocked.watching(cp) as tell:
        _, made, _ = await cp.post("/execute/async/node.fn", {"input": {}, "timeout": 60})
        invoke = await blocked.next(Invoke)
        await blocked.accept(invoke)
        async with other.linked(cp):
            await tell(LoopState(blocked=3.0))
            again = await other.next(Invoke)
            assert (again.context.execution_id, again.context.attempt) == (made["id"], 2)
            assert (await blocked.next(Cancel)).execution_id == made["id"]
            await blocked.send(blocked.result_of(invoke, "late"))
            assert not (await blocked.next(ResultAck)).accepted
            await other.answer(again, "second")
            view = await cp.finished(made["id"])
            events = await cp.events(view["run_id"])
    assert (view["output"], view["attempt"]) == ("second", 2)
    kinds = [event["type"].removeprefix("execution.") for event in events]
    assert kinds == ["created", "started", "retrying", "started", "ended"]
