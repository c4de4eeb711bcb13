"""Nodes that freeze, links that break inside a result, and frames that are late, repeated or from another node."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfield.wire.frames import Invoke, Result, ResultAck
from agentfield.wire.node_declarations import FunctionSpec
from support.faults.invariants import examine
from support.faults.load import WORK, effects_in
from support.faults.tcp_proxy import TcpProxy
from support.processes.programs import Program
from support.server.engine import Plane, RawNode, plane
from support.waiting import until

RETRIED = (FunctionSpec(name="fn", input_schema={}, retries=3),)


async def agent(cp: Plane, folder: Path, name: str, url: str | None = None) -> Program:
    """Start an agent and wait until it is linked."""
    env = {"AGENTFIELD_URL": url or cp.url, "AGENTFIELD_HOME": str(folder), "WORK_FOLDER": str(folder)}
    program = Program((sys.executable, str(WORK)), env=env, log=folder / f"{name}.log")
    before = len(cp.hub.links())
    await program.start()
    await until(lambda: len(cp.hub.links()) > before, f"{name} is linked: {program.output}")
    return program


async def test_a_frozen_node_comes_back_too_late(tmp_path: Path) -> None:
    """A node is frozen until its lease has ended: another instance does the work, and the late results are refused."""
    gate = tmp_path / "gate.closed"
    gate.touch()
    programs = []
    async with plane(tmp_path / "a.db", ping_interval=0.3, ping_timeout=1.5, lease=0.5) as cp:
        try:
            programs.append(frozen := await agent(cp, tmp_path, "frozen"))
            names = [await cp.start("work.held", number=number) for number in range(10)]
            await until(lambda: len(effects_in(tmp_path)) == 10)
            os.kill(frozen.pid, signal.SIGSTOP)
            await until(lambda: not cp.hub.links())
            programs.append(await agent(cp, tmp_path, "other"))
            await until(lambda: len(effects_in(tmp_path)) == 20)
            gate.unlink()
            views = [await cp.finished(name) for name in names]
            os.kill(frozen.pid, signal.SIGCONT)
            await until(lambda: len(cp.hub.links()) == 2)
            await cp.finished(await cp.start("work.once", number=1))
            await cp.finished(await cp.start("work.once", number=2))
        finally:
            for program in programs:
                await program.close()
        counts = examine(tmp_path / "a.db", "frozen node", acknowledged=names, effects=effects_in(tmp_path))
    assert [view["output"] for view in views] == [{"number": number, "attempt": 2} for number in range(10)]
    assert counts.redelivered == 10


class CuttingProxy(TcpProxy):
    """A proxy that cuts its connection after a number of bytes in one direction, once for each number."""

    def __init__(self, port: int, after: list[int]) -> None:
        super().__init__(port)
        self.after = after

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        carried = 0
        while data := await source.read(16_384):
            carried += len(data)
            if self.after and carried > self.after[0]:
                target.write(data[: len(data) // 2])
                await target.drain()
                self.after.pop(0)
                self.cut()
                return
            target.write(data)
        target.close()


async def test_a_link_that_breaks_inside_a_result(tmp_path: Path) -> None:
    """A result whose sending was cut is sent again and counts once; nothing runs twice."""
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        port = int(cp.url.rpartition(":")[2])
        async with CuttingProxy(port, [20_000, 100_000, 300_000, 590_000]) as line:
            program = await agent(cp, tmp_path, "agent", line.url)
            try:
                names = [await cp.start("work.large", size=600_000)]
                views = [await cp.finished(names[0])]
                assert not line.after
            finally:
                await program.close()
        counts = examine(tmp_path / "a.db", "link that breaks", acknowledged=names, effects=effects_in(tmp_path))
    assert [len(view["output"]) for view in views] == [600_000]
    assert (counts.effects, counts.redelivered) == (1, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_repeated_late_and_foreign_results_are_refused(tmp_path: Path, seed: int) -> None:
    """Only the first valid result counts; repeated and late ones, and those of other attempts or nodes, are refused."""
    chance = random.Random(seed)
    cancelled: set[str] = set()
    first: dict[str, object] = {}
    async with plane(tmp_path / "a.db", lease=60.0) as cp:
        node, stranger = RawNode(functions=RETRIED), RawNode(functions=RETRIED, node_id="stranger")
        async with node.linked(cp), stranger.linked(cp):
            names = [await cp.start("node.fn", n=n) for n in range(60)]
            for _ in names:
                invoke = await node.next(Invoke)
                name = invoke.context.execution_id
                if chance.random() < 0.2:
                    status, _, _ = await cp.post(f"/executions/{name}/cancel")
                    assert status == 200
                    cancelled.add(name)
                if chance.random() < 0.8:
                    for _ in range(chance.randint(1, 3)):
                        await node.accept(invoke)
                for frame in noise(chance, node, stranger, invoke):
                    await (stranger if frame.output == "foreign" else node).send(frame)
                results = [node.result_of(invoke, n) for n in range(chance.randint(1, 3))]
                for frame in results:
                    await node.send(frame)
                    await node.next(
                        ResultAck, execution_id=name, accepted=frame is results[0] and name not in cancelled
                    )
                first[name] = None if name in cancelled else 0
            late = [await cp.finished(name) for name in names]
        counts = examine(tmp_path / "a.db", f"storm of frames {seed}", acknowledged=names, cancelled=cancelled)
    assert {view["id"]: view["output"] for view in late} == first
    assert counts.states == {"succeeded": 60 - len(cancelled), "cancelled": len(cancelled)}


def noise(chance: random.Random, node: RawNode, stranger: RawNode, invoke: Invoke) -> Iterator[Result]:
    """Yield results that must be refused."""
    context = invoke.context
    wrong = [
        node.result_of(invoke, "epoch", epoch=invoke.epoch + 1),
        node.result_of(invoke, "attempt", attempt=context.attempt + 1),
        node.result_of(invoke, "unknown", execution_id="exe_unknown"),
        stranger.result_of(invoke, "foreign"),
    ]
    yield from chance.sample(wrong, chance.randint(0, len(wrong)))
