"""A continuous load of executions that survives failures of the control plane, and a webhook receiver."""

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
from support.faults.installation import Installation
from support.faults.invariants import Counts, Receipt, examine
from support.paths import ROOT
from support.processes.programs import Program
from support.waiting import SECONDS, until_async

__all__ = ["KILLS", "SETTLED", "WORK", "Load", "checked", "effects_in", "receiving", "worker"]

KILLS = int(os.environ.get("FAULT_KILLS", "3"))
"""How often one test kills the control plane; `nox -s faults` sets 50."""
WORK = ROOT / "tests" / "faults" / "programs" / "work_agent.py"
SENDERS = 8
PAUSE = 0.2
"""Seconds between two submissions of a sender; work ends about as fast as it is submitted."""
SETTLED = 60.0 + 5 * KILLS
"""Seconds that the remaining work may take."""
NOT_NOW = {"control_plane_unavailable", "store_full", "store_failed", "store_busy", "stopping", "node_not_connected"}
"""Errors that a request may get while something is broken; any other fails the test."""

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Load:
    """Concurrent senders; a submission that was not acknowledged is repeated under its idempotency key."""

    url: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Execution ids by idempotency key."""
    cancelled: set[str] = field(default_factory=set)
    """Executions whose cancellation was acknowledged."""
    refused: Counter[str] = field(default_factory=Counter)
    """Refused requests by error code."""
    over: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, sender: int) -> None:
        """Submit work until `over`, each piece until it is acknowledged."""
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

        name = self.acknowledged[key] = await self.until_accepted(submit)
        self._news.set()
        if target == "work.held":
            await self.until_accepted(lambda: self._cancel(client, name))

    async def _cancel(self, client: ControlPlaneClient, name: str) -> None:
        try:
            await client.cancel_execution(name)
        except Conflict:  # an earlier request was executed without its answer arriving
            if (await client.get_execution(name)).status != "cancelled":
                raise
        self.cancelled.add(name)

    async def until_accepted(self, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        """Repeat a request until it succeeds; count the refusals."""
        while True:
            try:
                return await ask()
            except AgentFieldError as error:
                if error.code not in NOT_NOW:
                    raise
                self.refused[error.code] += 1
                self._news.set()
                await asyncio.sleep(0.1)  # the other process gives no signal

    async def until(self, enough: Callable[[], bool]) -> None:
        """Wait until enough requests were acknowledged or refused."""
        async with asyncio.timeout(SECONDS):
            while not enough():
                self._news.clear()
                await self._news.wait()

    async def more(self, count: int) -> None:
        """Wait until `count` further pieces were acknowledged."""
        goal = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= goal)

    @asynccontextmanager
    async def submitting(self) -> AsyncIterator[None]:
        """Submit work during the block, then until each sender was served again."""
        async with asyncio.TaskGroup() as group:
            for sender in range(SENDERS):
                group.create_task(self.send(sender))
            yield
            await self.more(SENDERS)
            self.over = True


def worker(installation: Installation) -> Program:
    """Return the worker agent, not yet started, with its gate closed."""
    (installation.folder / "gate.closed").touch()
    return installation.agent(WORK, env={"WORK_FOLDER": str(installation.folder)})


def effects_in(folder: Path) -> list[tuple[str, int]]:
    """Return execution and attempt of each recorded side effect."""
    file = folder / "effects"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(name, int(attempt)) for name, _, attempt in (line.partition(" ") for line in lines)]


async def checked(installation: Installation, load: Load, what: str, receipts: Sequence[Receipt] = ()) -> Counts:
    """Wait until no execution runs, check every invariant and print the counts."""

    async def settled() -> Counter[str]:
        return Counter(status for status in installation.stored().open_executions().values() if status != "waiting")

    await until_async(settled, lambda left: not left, seconds=SETTLED)
    await until_async(
        lambda: asyncio.to_thread(installation.stored().waiting_for_credentials),
        lambda count: count == 0,
        seconds=SETTLED,
    )
    counts = examine(
        installation.home / "agentfield.db",
        f"{what}, requests refused {dict(load.refused)}",
        acknowledged=load.acknowledged.values(),
        cancelled=load.cancelled,
        effects=effects_in(installation.folder),
        receipts=receipts,
    )
    assert "Traceback" not in installation.plane.output, installation.plane.output
    return counts


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[str, list[Receipt]]]:
    """Run a webhook receiver; yield its address and its requests. It answers the first try of every tenth delivery with 503."""
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
