"""Nodes that die, fall silent and come back; control planes that are restarted: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from agentfield.wire.frames import FunctionSpec, Invoke, ResultAck, RunningAttempt
from engine_kit import SOON, RawNode, plane, until

RETRIED = (FunctionSpec(name="fn", input_schema={}, retries=1),)


def attempt_of(invoke: Invoke) -> RunningAttempt:
    """What a node says of an attempt when it links again."""
    context = invoke.context
    return RunningAttempt(execution_id=context.execution_id, attempt=context.attempt, epoch=invoke.epoch)


async def test_accepted_work_of_a_dead_node_is_called_lost(tmp_path: Path) -> None:
    """Without retries, accepted work fails as node_lost once the lease has ended, and says what to do."""
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


async def test_retried_work_of_a_dead_node_runs_elsewhere(tmp_path: Path) -> None:
    """With retries, accepted work goes to another instance as the next attempt; late words of the first do not count."""
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


async def test_the_second_loss_uses_up_the_retries(tmp_path: Path) -> None:
    """One retry is one more attempt, not more."""
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


async def test_work_that_was_not_entered_goes_elsewhere_at_once(tmp_path: Path) -> None:
    """A node that leaves before it accepted gives its work back, retries or not."""
    first, second = RawNode(), RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp, first.linked(cp):
        execution_id = await cp.start("node.fn")
        await first.next(Invoke)
        async with second.linked(cp):
            first.vanish()
            again = await second.next(Invoke)
            assert (again.context.execution_id, again.context.attempt) == (execution_id, 2)
            await second.answer(again, "done")
            assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_a_silent_node_is_given_up(tmp_path: Path) -> None:
    """Silence ends the link; unaccepted work stays until the lease has ended, since it may have been entered."""
    first, second = RawNode(mute=True), RawNode()
    async with plane(tmp_path / "a.db", ping=0.05, dead=0.2, lease=0.5) as cp, first.linked(cp):
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


async def test_a_node_that_answers_pings_stays(tmp_path: Path) -> None:
    """An idle node is not given up."""
    node = RawNode()
    async with plane(tmp_path / "a.db", ping=0.05, dead=0.2) as cp, node.linked(cp):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: loop.time() - began > 0.6)
        execution_id = await cp.start("node.fn")
        await node.answer(await node.next(Invoke), 1)
        assert (await cp.finished(execution_id))["status"] == "succeeded"


async def test_the_same_instance_takes_its_work_up_again(tmp_path: Path) -> None:
    """A node that links again within the lease keeps what it runs; its result counts."""
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


async def test_a_result_that_was_not_acknowledged_is_taken_later(tmp_path: Path) -> None:
    """A result that the node still has when it links again is stored then, or acknowledged if it was stored before."""
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


async def test_a_lost_invoke_is_sent_again_to_the_same_instance(tmp_path: Path) -> None:
    """What the node never saw is asked again, whole, under the same attempt when the instance replaces its link."""
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


async def test_an_instance_that_forgot_its_work_has_lost_it(tmp_path: Path) -> None:
    """Accepted work that a returning instance does not name is lost at once, not at the end of the lease."""
    node = RawNode()
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            await node.accept(await node.next(Invoke))
            await until_accepted(cp.store, execution_id)
            node.vanish()
        async with node.linked(cp):
            assert (await cp.finished(execution_id))["problem"]["code"] == "node_lost"


async def test_a_restarted_control_plane_goes_on(tmp_path: Path) -> None:
    """Queued work is dispatched and running work is reclaimed after a restart on the same file; deadlines still hold."""
    node = RawNode(concurrency=1)
    async with plane(tmp_path / "a.db", lease=60.0) as cp, node.linked(cp):
        running, queued = await cp.start("node.fn", n=0), await cp.start("node.fn", n=1)
        status, body, _ = await cp.post("/execute/async/node.fn", {"input": {}, "timeout": 0.3})
        assert status == 202
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        await until_accepted(cp.store, running)
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        late = await cp.engine.wait(body["id"], SOON)
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


async def test_a_node_that_does_not_return_after_a_restart_is_lost(tmp_path: Path) -> None:
    """Leases of before the restart end; accepted work fails, the rest waits for a node."""
    node = RawNode()
    async with plane(tmp_path / "a.db") as cp, node.linked(cp):
        accepted, unaccepted = await cp.start("node.fn", n=0), await cp.start("node.fn", n=1)
        await node.accept(await node.next(Invoke))
        await node.next(Invoke)
        await until_accepted(cp.store, accepted)
    async with plane(tmp_path / "a.db", lease=0.3) as cp:
        assert (await cp.engine.wait(accepted, SOON)).status == "failed"
        other = RawNode()
        async with other.linked(cp):
            invoke = await other.next(Invoke)
            assert (invoke.context.execution_id, invoke.context.attempt) == (unaccepted, 2)


async def test_a_burst_is_worked_off_without_loss(tmp_path: Path) -> None:
    """Many calls at once, little room, a node that dies in between: each is executed and closed once."""
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
                done = await asyncio.gather(*(cp.engine.wait(execution_id, SOON) for execution_id in ids))
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
        assert [row.status for row in done] == ["succeeded"] * 120
        assert [row.output for row in done] == list(range(120))
        for row in done:
            events = await cp.events(row.run_id)
            assert [event["type"] for event in events].count("execution.ended") == 1


async def test_linking_nodes_survive_a_busy_port(tmp_path: Path) -> None:
    """A connection that never says hello, or says nonsense, is refused and disturbs nobody."""
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
    """Wait until the store knows that a function was entered."""
    async with asyncio.timeout(SOON):
        while True:
            row = await store.get_execution(execution_id)  # type: ignore[attr-defined]
            if row.accepted:
                return
            await asyncio.sleep(0.005)
