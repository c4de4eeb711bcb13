"""The store alone: executions that are created and completed in commits of 32, without HTTP, link and event loop."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from agentfield.ids import new_id
from agentfield_server.store.records import Execution, NewExecution
from agentfield_server.store.sqlite.store import SqliteStore
from benchmarks.rows import Row

BATCH = 32
ROUNDS = 60
RUNS = 5
TEXT = "x" * 1000


def report(emit: Callable[[Row], None], *, quick: bool) -> None:
    """Measure the processor time of an execution in the store, the median of several runs."""
    with tempfile.TemporaryDirectory() as folder:
        spent = [asyncio.run(_run(Path(folder) / f"{n}.db")) for n in range(3 if quick else RUNS)]
    emit(
        Row(
            name=f"processor time of an execution in the store alone, {BATCH} to a commit",
            value=median(spent),
            unit="µs",
            goal=160,
        )
    )


async def _run(path: Path) -> float:
    store = SqliteStore(path, on_commit=lambda _: None, clock=time.time)
    await store.open()
    try:
        for _ in range(5):
            await _batch(store)
        before = time.process_time()
        for _ in range(ROUNDS):
            await _batch(store)
        return (time.process_time() - before) * 1e6 / ROUNDS / BATCH
    finally:
        await store.close()


async def _batch(store: SqliteStore) -> None:
    """Create executions in one commit, and complete them in another."""
    until = time.time() + 10
    news = [
        NewExecution(id=new_id("exe"), run_id=new_id("run"), kind="call", target="bench.echo", input={"text": TEXT})
        for _ in range(BATCH)
    ]
    created = await asyncio.gather(*(store.create_execution(new, lease_to="node_1", lease_until=until) for new in news))
    await asyncio.gather(*(_complete(store, execution) for execution, _ in created))


async def _complete(store: SqliteStore, execution: Execution) -> None:
    await store.complete_execution(
        execution.id,
        attempt=1,
        epoch=1,
        status="succeeded",
        output=TEXT,
        signer="did:key:z",
        statement="x" * 500,
        proof="x" * 300,
        entered=0.001,
        known=execution,
    )
