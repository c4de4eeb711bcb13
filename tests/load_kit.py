"""Work that is handed to a control plane without pause, whatever happens to it, and the receiver of its webhooks."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, Conflict
from faults_kit import ROOT, SECONDS, House, Program, eventually
from invariants_kit import Counts, Receipt, examine

__all__ = ["KILLS", "SETTLED", "WORK", "Load", "checked", "effects_in", "receiving", "worker"]

KILLS = int(os.environ.get("FAULT_KILLS", "3"))
"""How often a control plane is killed in one test; the full run has 50 (`nox -s faults`)."""
WORK = ROOT / "tests" / "faults" / "work_agent.py"
SENDERS = 8
PAUSE = 0.2
"""Seconds between two pieces of a sender, so that the work is done about as fast as it is handed in."""
SETTLED = 60.0 + 5 * KILLS
"""Seconds in which what is left is worked off."""
NOT_NOW = {"control_plane_unavailable", "store_full", "store_failed", "store_busy", "stopping", "node_not_connected"}
"""What a request may be refused with while something is broken; anything else is a finding."""

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Load:
    """Senders; what was not acknowledged is handed in again under its key."""

    url: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Execution ids by idempotency key."""
    cancelled: set[str] = field(default_factory=set)
    """Executions that were said to be cancelled."""
    refused: Counter[str] = field(default_factory=Counter)
    """How often a request was refused, by code."""
    over: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, sender: int) -> None:
        """Hand work in until `over`; every piece until it is acknowledged."""
        async with ControlPlaneClient(self.url) as client:
            number = 0
            while not self.over:
                await self._piece(client, f"{sender}-{number}", number)
                number += 1
                await asyncio.sleep(PAUSE)

    async def _piece(self, client: ControlPlaneClient, key: str, number: int) -> None:
        target = ("work.once", "work.again", "work.both", "work.held")[number % 4]

        async def submit() -> str:
            return (await client.execute_async(target, {"number": number}, idempotency_key=key)).id

        name = self.acknowledged[key] = await self.until_taken(submit)
        self._news.set()
        if target == "work.held":
            await self.until_taken(lambda: self._cancel(client, name))

    async def _cancel(self, client: ControlPlaneClient, name: str) -> None:
        try:
            await client.cancel_execution(name)
        except Conflict:  # an earlier request was done, though nobody was told
            if (await client.get_execution(name)).status != "cancelled":
                raise
        self.cancelled.add(name)

    async def until_taken(self, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        """Ask again until there is an answer; refusals are counted."""
        while True:
            try:
                return await ask()
            except AgentFieldError as error:
                if error.code not in NOT_NOW:
                    raise
                self.refused[error.code] += 1
                self._news.set()
                await asyncio.sleep(0.1)  # what is waited for happens in another process

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until enough was acknowledged, or refused."""
        async with asyncio.timeout(SECONDS):
            while not enough():
                self._news.clear()
                await self._news.wait()

    async def more(self, count: int) -> None:
        """Wait until so many further pieces were acknowledged."""
        goal = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= goal)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Hand work in for as long as the block runs, and a little longer: at its end all is well again."""
        async with asyncio.TaskGroup() as group:
            for sender in range(SENDERS):
                group.create_task(self.send(sender))
            yield
            await self.more(SENDERS)
            self.over = True


def worker(house: House) -> Program:
    """Return the agent that works, not yet started; what it would hold is held."""
    (house.folder / "gate.closed").touch()
    return house.agent(WORK, env={"WORK_FOLDER": str(house.folder)})


def effects_in(folder: Path) -> list[tuple[str, int]]:
    """Return execution and attempt of everything that was done."""
    file = folder / "effects"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(name, int(attempt)) for name, _, attempt in (line.partition(" ") for line in lines)]


async def checked(house: House, load: Load, what: str, receipts: Sequence[Receipt] = ()) -> Counts:
    """Wait until nothing is under way, look at every invariant, and print the counts."""

    async def settled() -> Counter[str]:
        return Counter(status for status in house.books().open_executions().values() if status != "waiting")

    await eventually(settled, lambda left: not left, seconds=SETTLED)
    counts = examine(
        house.home / "agentfield.db",
        f"{what}, requests refused {dict(load.refused)}",
        acknowledged=load.acknowledged.values(),
        cancelled=load.cancelled,
        effects=effects_in(house.folder),
        receipts=receipts,
    )
    assert "Traceback" not in house.plane.said, house.plane.said
    return counts


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[str, list[Receipt]]]:
    """Run a receiver of webhooks and give its address and what it got; of every tenth it says the first time that it failed."""
    got: list[Receipt] = []
    known: set[str] = set()

    async def take(request: web.Request) -> web.Response:
        receipt = Receipt(request.headers["X-AgentField-Delivery"], await request.read())
        again = receipt.delivery in known
        known.add(receipt.delivery)
        got.append(receipt)
        return web.Response(status=503 if not again and len(known) % 10 == 0 else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", got
    finally:
        await runner.cleanup()
