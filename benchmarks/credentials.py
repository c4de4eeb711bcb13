"""Credentials: the drain of a backlog with hash and signature alone as the floor, and calls with issuing on and off in one run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from agentfield.identity import (
    NodeKey,
    canonical,
    commitment,
    new_salt,
    proof_text,
    result_leaf,
    result_statement,
    sign_results,
)
from agentfield.ids import new_id
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.store.records import NewExecution
from agentfield_server.store.sqlite.store import SqliteStore
from benchmarks.engine import AT_ONCE
from benchmarks.processor import processor_seconds
from benchmarks.programs import NODE, Running, post_times, program, until_linked
from benchmarks.rows import Row

BACKLOG = 3_000
BURST = 10.0
"""Seconds of a burst of calls."""
_BATCH = 32


def measure() -> list[Row]:
    """Measure the drain of a backlog, then calls with and without credentials."""
    with tempfile.TemporaryDirectory() as folder:
        return [*asyncio.run(_drain(Path(folder))), *asyncio.run(_on_and_off(Path(folder)))]


async def _drain(folder: Path) -> list[Row]:
    key, node = NodeKey.generate(), NodeKey.generate()
    store = SqliteStore(folder / "a.db", on_commit=lambda _: None, clock=time.time)
    await store.open()
    try:
        for _ in range(BACKLOG // _BATCH):
            await asyncio.gather(*(_ended(store, key, node) for _ in range(_BATCH)))
        issuer = Issuer(store, key, await OwnLog.open(store, key, clock=time.time), clock=time.time)
        count = len(await store.ended_without_credential(limit=BACKLOG))
        begin = time.process_time()
        await issuer.catch_up()
        drained = (time.process_time() - begin) * 1e6 / count
        floor = await _floor(store, key, count)
    finally:
        await store.close()
    return [
        Row(
            name=f"processor time of a credential, {count} waiting",
            value=drained,
            unit="µs",
            floor=floor,
            goal=floor / 0.7,
        )
    ]


async def _ended(store: SqliteStore, key: NodeKey, node: NodeKey) -> None:
    """Store an execution that a node has ended, with its proof."""
    new = NewExecution(
        id=new_id("exe"), run_id=new_id("run"), kind="call", target="shop.echo", input={"text": "x" * 1000}
    )
    salt = new_salt()
    await store.create_execution(new, lease_to="node_1", lease_until=time.time() + 60)
    statement = result_statement(
        audience=key.did,
        node_id="shop",
        instance_id="node_1",
        execution_id=new.id,
        attempt=1,
        epoch=1,
        target=new.target,
        run_id=new.run_id,
        parent_id=None,
        session_id=None,
        status="succeeded",
        retry=False,
        input=commitment(new.input_salt, canonical(new.input)),
        body="output",
        outcome=commitment(salt, canonical(new.input)),
    )
    (proof,) = sign_results(node, audience=key.did, leaves=[result_leaf(statement)])
    await store.complete_execution(
        new.id,
        attempt=1,
        status="succeeded",
        output=new.input,
        signer=node.did,
        statement=statement.decode(),
        proof=proof_text(proof.document()),
        entered=0.01,
    )


async def _floor(store: SqliteStore, key: NodeKey, count: int) -> float:
    """Return the processor time (µs) of hashing and signing the same credentials: canonical JSON, two SHA-256, one signature."""
    documents = [
        json.loads(document)
        for (document,) in await store._read("SELECT document FROM credentials ORDER BY pos")  # noqa: SLF001 - of this run only
    ]
    proofs = [document.pop("proof") for document in documents]
    for proof in proofs:
        del proof["proofValue"]
    begin = time.process_time()
    for document, proof in zip(documents, proofs, strict=True):
        key.sign(hashlib.sha256(canonical(proof)).digest() + hashlib.sha256(canonical(document)).digest())
    return (time.process_time() - begin) * 1e6 / count


# --- calls with issuing on and off

_OFF = """
import asyncio, runpy
from agentfield_server.proof.issuing import Issuer
from agentfield_server.store.sqlite.operations import proofs

async def idle(self):
    await asyncio.Event().wait()

Issuer._issue_for_ever = idle
proofs.enqueue = lambda transaction, rows: None
runpy.run_module("agentfield_server", run_name="__main__")
"""
_PROGRAMS = {"on": ("-m", "agentfield_server"), "off": ("-c", _OFF)}


async def _on_and_off(folder: Path) -> list[Row]:
    """Measure bursts of calls with issuing on and off, interleaved, by the control plane's processor time of a call.

    On a machine whose processors are busy anyway the throughput of a control plane is the inverse of that time.
    """
    burst: dict[str, list[float]] = {"on": [], "off": []}
    sustained: dict[str, list[float]] = {"on": [], "off": []}
    oldest = 0.0
    for turn in range(2):
        for name, argv in _PROGRAMS.items():
            home = folder / f"{name}-{turn}"
            async with (
                program(argv, home, AGENTFIELD_PORT="0") as plane,
                program(["-c", NODE, plane.url], home, ready=False),
            ):
                await until_linked(plane.url)
                await post_times(AT_ONCE, 500, f"{plane.url}/api/v1/execute/bench.echo")
                first, rest, age = await _burst(plane, home / "home" / "agentfield.db")
            burst[name].append(first)
            sustained[name].append(rest)
            oldest = max(oldest, age)
    on, off = min(burst["on"]), min(burst["off"])
    whole, without = min(sustained["on"]), min(sustained["off"])
    return [
        Row(name=f"processor time of a call in a burst of {BURST:g} s", value=on, unit="ms", floor=off, goal=off / 0.9),
        Row(name="the same with its credential", value=whole, unit="ms", floor=without, goal=without / 0.7),
        Row(name="oldest missing credential in the burst", value=oldest, unit="s", goal=5.0),
    ]


async def _burst(plane: Running, file: Path) -> tuple[float, float, float]:
    """Return the processor time (ms) of a call in a burst, with what follows it, and the age of the oldest missing credential (s)."""
    url = f"{plane.url}/api/v1/execute/bench.echo"
    before, end, calls, oldest = processor_seconds(plane.pid), time.monotonic() + BURST, 0, 0.0
    while time.monotonic() < end:
        calls += len(await post_times(AT_ONCE, 256, url))
        oldest = max(oldest, _age(file))
    first = processor_seconds(plane.pid) - before
    while _age(file):
        await asyncio.sleep(0.05)
        oldest = max(oldest, _age(file))
    return first * 1000 / calls, (processor_seconds(plane.pid) - before) * 1000 / calls, oldest


def _age(file: Path) -> float:
    """Return how long ago the execution ended that waits longest for its credential, 0 if none waits."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
        ((at,),) = store.execute("SELECT MIN(at) FROM credential_queue").fetchall()
    return 0.0 if at is None else time.time() - at
