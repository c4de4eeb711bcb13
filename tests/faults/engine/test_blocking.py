"""User code that blocks a node's event loop, and links that lose everything right after a function was entered."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentfield_server.nodes import LinkedNode
from support.faults.invariants import examine
from support.faults.load import effects_in
from support.faults.tcp_proxy import TcpProxy
from support.paths import ROOT
from support.processes.programs import Program
from support.server.engine import Plane, plane
from support.waiting import until

BLOCKING = ROOT / "tests" / "faults" / "programs" / "blocking_agent.py"
PING_TIMEOUT = 6.0


class Shop:
    """Instances of the blocking agent; the gate is closed until `open`."""

    def __init__(self, cp: Plane, folder: Path) -> None:
        self.cp = cp
        self.folder = folder
        self.programs: dict[str, Program] = {}
        """By instance id."""
        self.gate = folder / "gate.closed"
        self.gate.touch()

    async def start(self, url: str | None = None) -> Program:
        """Start an instance and wait until it is linked."""
        env = {
            "AGENTFIELD_URL": url or self.cp.url,
            "AGENTFIELD_HOME": str(self.folder),
            "WORK_FOLDER": str(self.folder),
        }
        number, before = len(self.programs), {link.instance_id for link in self.cp.hub.links()}
        program = Program((sys.executable, str(BLOCKING)), env=env, log=self.folder / f"{number}.log")
        self.programs[f"starting {number}"] = program
        await program.start()
        links = await until(lambda: [link for link in self.cp.hub.links() if link.instance_id not in before])
        self.programs[links[0].instance_id] = self.programs.pop(f"starting {number}")
        return program

    async def holder(self, execution_id: str) -> LinkedNode:
        """Wait until an execution was entered, and return the instance that runs it."""
        await until(lambda: execution_id in [name for name, _ in effects_in(self.folder)], "it was entered")
        return next(link for link in self.cp.hub.links() if execution_id in link.assigned)


@asynccontextmanager
async def shop(folder: Path, *, instances: int) -> AsyncIterator[Shop]:
    """Run a control plane and instances of the agent."""
    async with plane(folder / "a.db", lease=0.5) as cp:
        running = Shop(cp, folder)
        try:
            for _ in range(instances):
                await running.start()
            yield running
        finally:
            running.gate.unlink(missing_ok=True)
            for program in running.programs.values():
                await program.close()


async def test_a_function_that_blocks_before_its_first_await_is_entered_once(tmp_path: Path) -> None:
    """One of three instances is blocked for longer than a silent link lives: it keeps its work, and the others work on."""
    async with shop(tmp_path, instances=3) as running:
        cp = running.cp
        charge = await cp.start("shop.charge", order="A")
        link = await running.holder(charge)
        await until(lambda: link.loop_blocked > PING_TIMEOUT + 2, "it is reported as blocked for longer")
        assert not link.takes_work
        names = [await cp.start("shop.quick", order=str(number)) for number in range(6)]
        assert [(await cp.finished(name))["output"] for name in names] == list("012345")
        assert (link.ended, len(cp.hub.links())) == (None, 3)
        running.gate.unlink()
        view = await cp.finished(charge)
        await until(lambda: link.takes_work, "it gets work again")
        events = await cp.events(view["run_id"])
        program = running.programs[link.instance_id]
        assert view["output"] == f"charged A in {program.pid}"
        assert (view["status"], view["attempt"]) == ("succeeded", 1)
        assert [e["type"].removeprefix("execution.") for e in events] == ["created", "started", "ended"]
        await until(lambda: "turns again" in program.output, "the node says for how long")
        assert f"shop.charge {charge} blocks the event loop of shop" in program.output
        assert "time.sleep(0.05)" in program.output
        examine(tmp_path / "a.db", "blocked", acknowledged=[charge, *names], effects=effects_in(tmp_path))


async def test_a_blocked_node_gives_back_what_it_has_not_entered(tmp_path: Path) -> None:
    """A call that was sent to a blocked instance runs on another one, and is never started by the first."""
    async with shop(tmp_path, instances=1) as running:
        cp = running.cp
        charge = await cp.start("shop.charge", order="A")
        blocked = await running.holder(charge)
        names = [await cp.start("shop.quick", order=str(number)) for number in range(5)]
        assert set(names) <= blocked.assigned.keys()
        await running.start()
        views = [await cp.finished(name) for name in names]
        assert [(view["output"], view["attempt"]) for view in views] == [(str(n), 2) for n in range(5)]
        running.gate.unlink()
        assert (await cp.finished(charge))["status"] == "succeeded"
        await until(lambda: blocked.takes_work)
        again = [await cp.start("shop.quick", order=str(number)) for number in range(10)]
        assert {(await cp.finished(name))["status"] for name in again} == {"succeeded"}
        effects = effects_in(tmp_path)
        assert sorted(effects) == sorted([(charge, 1), *((name, 2) for name in names), *((name, 1) for name in again)])
        events = await cp.events(views[0]["run_id"])
        kinds = [e["type"].removeprefix("execution.") for e in events]
        assert kinds == ["created", "returned", "started", "ended"]
        examine(tmp_path / "a.db", "given back", acknowledged=[charge, *names, *again], effects=effects)


async def test_a_deadline_is_kept_without_the_blocked_node(tmp_path: Path) -> None:
    """At its deadline an attempt is closed while its node is still blocked; its later result is not used."""
    async with shop(tmp_path, instances=1) as running:
        cp = running.cp
        _, made, _ = await cp.post("/execute/async/shop.charge", {"input": {"order": "A"}, "timeout": 2})
        link = await running.holder(made["id"])
        view = await cp.finished(made["id"])
        assert (view["status"], view["problem"]["code"]) == ("timeout", "execution_timeout")
        assert running.gate.exists()
        running.gate.unlink()
        await until(lambda: link.takes_work and not link.assigned)
        assert (await cp.finished(await cp.start("shop.quick", order="next")))["output"] == "next"
        assert (await cp.finished(made["id"]))["status"] == "timeout"
        examine(tmp_path / "a.db", "deadline", acknowledged=[made["id"]], effects=effects_in(tmp_path))


class SwallowingProxy(TcpProxy):
    """A proxy that swallows all that the node says from its first invocation on, and keeps its connections open."""

    swallows = False

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        from_node = target.get_extra_info("peername")[1] == self.port
        try:
            while data := await source.read(65_536):
                if b'"type":"invoke"' in data:
                    self.swallows = True
                if not (self.swallows and from_node):
                    target.write(data)
                    await target.drain()
        except ConnectionError:
            pass


async def test_a_link_that_loses_everything_right_after_entry(tmp_path: Path) -> None:
    """A function whose `accepted` was lost is closed as `node_lost` with an unknown entry, and never entered again."""
    async with shop(tmp_path, instances=0) as running:
        cp = running.cp
        async with SwallowingProxy(int(cp.url.rpartition(":")[2])) as line:
            await running.start(line.url)
            charge = await cp.start("shop.charge", order="A")
            await running.holder(charge)
            await running.start()
            await running.start()
            view = await cp.finished(charge)
        assert (view["status"], view["attempt"]) == ("failed", 1)
        assert (view["problem"]["code"], view["problem"]["entered"]) == ("node_lost", "unknown")
        assert "may safely run twice" in view["problem"]["hint"]
        assert (await cp.finished(await cp.start("shop.quick", order="next")))["output"] == "next"
        assert [name for name, _ in effects_in(tmp_path)].count(charge) == 1
        events = await cp.events(view["run_id"])
        assert [e["type"].removeprefix("execution.") for e in events] == ["created", "ended"]
        examine(tmp_path / "a.db", "swallowed", acknowledged=[charge], effects=effects_in(tmp_path))


async def test_a_killed_node_that_was_blocked_has_entered_once(tmp_path: Path) -> None:
    """The kill of a blocked node is known at once: its entry was on the wire before the function ran."""
    async with shop(tmp_path, instances=3) as running:
        cp = running.cp
        charge = await cp.start("shop.charge", order="A")
        link = await running.holder(charge)
        await until(lambda: link.assigned[charge].accepted)
        os.kill(running.programs[link.instance_id].pid, signal.SIGKILL)
        view = await cp.finished(charge)
        events = await cp.events(view["run_id"])
    assert (view["status"], view["problem"]["code"], view["problem"]["entered"]) == ("failed", "node_lost", "yes")
    assert [e["type"].removeprefix("execution.") for e in events] == ["created", "started", "ended"]
    assert effects_in(tmp_path) == [(charge, 1)]
