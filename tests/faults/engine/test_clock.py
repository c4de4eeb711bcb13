"""The control plane's clock jumps forward and back while work is running."""

from __future__ import annotations

import random
import time
from pathlib import Path

from agentfield.wire.frames import Invoke
from agentfield.wire.node_declarations import FunctionSpec
from support.faults.invariants import examine
from support.server.engine import RawNode, plane
from support.waiting import until_async

HOUR = 3600.0
RETRIED = (FunctionSpec(name="fn", input_schema={}, retries=1),)


async def test_clock_jumps_do_not_expire_leases_of_linked_nodes(tmp_path: Path) -> None:
    """Leases do not depend on the wall clock: linked nodes keep their work, and each execution runs once."""
    chance = random.Random(1)
    shift = [0.0]
    names = []
    async with plane(tmp_path / "a.db", lease=0.5, now=lambda: time.time() + shift[0]) as cp:
        async with RawNode(functions=RETRIED, concurrency=5).linked(cp) as node:
            for _ in range(20):
                names += [await cp.start("node.fn") for _ in range(5)]
                for _ in range(5):
                    invoke = await node.next(Invoke)
                    await node.accept(invoke)
                    shift[0] += chance.choice((-1, 1)) * chance.uniform(0, 2 * HOUR)
                    await node.send(node.result_of(invoke, "done"))
            views = [await cp.finished(name) for name in names]
        examine(tmp_path / "a.db", "clock jumps", acknowledged=names)
    assert {(view["status"], view["attempt"]) for view in views} == {("succeeded", 1)}


async def test_a_jump_past_a_deadline_and_back(tmp_path: Path) -> None:
    """A jump past a deadline times the work out once; after the jump back a late result is refused and idempotency keys still match."""
    shift = [0.0]
    async with plane(tmp_path / "a.db", lease=60.0, now=lambda: time.time() + shift[0]) as cp:
        async with RawNode(functions=RETRIED).linked(cp) as node:
            body = {"input": {}, "timeout": HOUR}
            _, made, _ = await cp.post("/execute/async/node.fn", body, Idempotency_Key="one")
            late = await node.next(Invoke)
            await node.accept(late)
            shift[0] = 2 * HOUR
            assert (await cp.finished(made["id"]))["status"] == "timeout"
            shift[0] = -2 * HOUR
            await node.send(node.result_of(late, "late"))
            _, again, _ = await cp.post("/execute/async/node.fn", body, Idempotency_Key="one")
            assert (again["id"], again["status"]) == (made["id"], "timeout")
            _, delayed, _ = await cp.post("/execute/async/node.fn", {"input": {}, "delay": HOUR})
            shift[0] = 0.0
            invoke = await until_async(lambda: node.next(Invoke))
            assert invoke.context.execution_id == delayed["id"]
            await node.answer(invoke, "in time")
            assert (await cp.finished(delayed["id"]))["output"] == "in time"
        counts = examine(tmp_path / "a.db", "clock past a deadline", acknowledged=[made["id"], delayed["id"]])
    assert counts.states == {"timeout": 1, "succeeded": 1}
