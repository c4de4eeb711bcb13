"""Executions through a control plane in its own process, compared with the cost of HTTP and SQLite alone in the same run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import apsw
import psutil

from benchmarks.processor import processor_seconds
from benchmarks.programs import ECHO, NODE, Running, ended, post_times, program, until_linked
from benchmarks.rows import Row, percentile

AT_ONCE = 64
GRAPH = 10_000


@dataclass(frozen=True, slots=True)
class _Scale:
    """Size of a measurement."""

    executions: int
    """Executions of a run under load."""
    single: int
    """Executions one at a time."""
    runs: int
    """Runs of which the median counts."""
    graph: int
    """Executions of the large workflow."""
    many: int
    """Executions over which the memory is watched."""
    commits: int
    """Commits without a group on the slow disk."""


FULL = _Scale(executions=3_000, single=500, runs=5, graph=GRAPH, many=100_000, commits=400)
QUICK = _Scale(executions=600, single=100, runs=3, graph=2_000, many=3_000, commits=100)


def report(emit: Callable[[Row], None], *, quick: bool) -> None:
    """Measure the floors and the control plane; hand over each row when it is measured.

    Args:
        emit: Takes the rows.
        quick: Whether fewer executions are measured, with a wider error.
    """
    scale = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), emit, scale))
        emit(_slow_disk(Path(folder), scale))


async def _measure(folder: Path, emit: Callable[[Row], None], scale: _Scale) -> None:
    async with (
        program(["-c", ECHO], folder) as echo,
        program(["-m", "agentfield_server"], folder, AGENTFIELD_PORT="0") as plane,
        program(["-c", NODE, plane.url], folder, ready=False),
    ):
        await until_linked(plane.url)
        sync = f"{plane.url}/api/v1/execute/bench.echo"
        for url in (f"{echo.url}/echo", sync):
            await post_times(AT_ONCE, 500, url)  # warm
        await _processor_time(folder, echo, plane, emit, scale)
        direct = percentile(await post_times(1, scale.single, f"{echo.url}/echo"), 50)
        alone = percentile(await post_times(1, scale.single, sync), 50)
        emit(
            Row(
                name="added to a direct HTTP call, one at a time, p50",
                value=alone - direct,
                unit="ms",
                floor=direct,
                goal=2.2,
            )
        )
        crowd = await post_times(AT_ONCE, scale.executions, sync)
        emit(Row(name=f"execute, {AT_ONCE} at once, p50", value=percentile(crowd, 50), unit="ms", goal=38))
        emit(Row(name=f"execute, {AT_ONCE} at once, p99", value=percentile(crowd, 99), unit="ms", goal=95))
        page = await _first_page(plane.url, scale.graph)
        emit(Row(name=f"first page of a workflow of {scale.graph} executions", value=page, unit="ms", goal=50))
        grown = await _memory(plane, scale.many)
        emit(Row(name=f"memory grown over {scale.many} executions", value=grown, unit="MB", goal=16))


async def _processor_time(
    folder: Path, echo: Running, plane: Running, emit: Callable[[Row], None], scale: _Scale
) -> None:
    """Measure floors and executions in turns, so that other load on the machine affects both."""
    floors, units, spent, walls, called = [], [], [], [], []
    for run in range(scale.runs):
        floors.append(await _cpu_of_posts(echo, scale.executions))
        units.append(_unit_floor(folder / f"unit{run}.db"))
        cpu, rate = await _async(plane, scale.executions)
        spent.append(cpu)
        walls.append(1000 / rate)
        called.append(await _calls(plane, scale.executions))
    floor = median(floors) + median(cpu for cpu, _ in units)
    wall = median(wall for _, wall in units)
    for name, value in (
        ("control-plane processor time of an async execution", median(spent)),
        ("the same of a call from inside an execution", median(called)),
    ):
        emit(Row(name=name, value=value, unit="ms", floor=floor, goal=3.5 * floor))
    emit(
        Row(
            name="time of a completed async execution under load",
            value=median(walls),
            unit="ms",
            floor=wall,
            goal=wall / 0.08,
        )
    )


# --- floors


def _unit_floor(path: Path, batch: int = 32, rounds: int = 60) -> tuple[float, float]:
    """Return the processor and wall time (ms) of one execution in SQLite: four statements, three events, two commits."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.execute("CREATE TABLE e (id TEXT PRIMARY KEY, run TEXT, status TEXT, input TEXT, output TEXT)")
    connection.execute("CREATE TABLE v (run TEXT, seq INTEGER, body BLOB, PRIMARY KEY (run, seq)) WITHOUT ROWID")
    text, event = "x" * 1000, b"x" * 400

    def run() -> None:
        for turn in range(rounds):
            names = [f"{turn}-{n}" for n in range(batch)]
            connection.execute("BEGIN IMMEDIATE")
            for name in names:
                connection.execute("INSERT INTO e VALUES (?, ?, 'running', ?, NULL)", (name, name, text))
                connection.execute("INSERT INTO v VALUES (?, 1, ?)", (name, event))
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            for name in names:
                connection.execute("UPDATE e SET status = 'entered' WHERE id = ?", (name,))
                connection.execute("INSERT INTO v VALUES (?, 2, ?)", (name, event))
                connection.execute("UPDATE e SET status = 'succeeded', output = ? WHERE id = ?", (text, name))
                connection.execute("INSERT INTO v VALUES (?, 3, ?)", (name, event))
            connection.execute("COMMIT")

    wall, cpu = time.perf_counter(), time.process_time()
    run()
    count = batch * rounds
    spent = (time.process_time() - cpu) * 1000 / count, (time.perf_counter() - wall) * 1000 / count
    connection.close()
    return spent


async def _cpu_of_posts(echo: Running, count: int) -> float:
    before = processor_seconds(echo.pid)
    await post_times(AT_ONCE, count, f"{echo.url}/echo")
    return (processor_seconds(echo.pid) - before) * 1000 / count


# --- the control plane


async def _async(plane: Running, count: int) -> tuple[float, float]:
    """Return the processor time of an execution (ms) and the completed executions per second."""
    url = f"{plane.url}/api/v1/execute/async/bench.echo"
    done = await ended(plane.url)
    before, begin = processor_seconds(plane.pid), time.perf_counter()
    await post_times(AT_ONCE, count, url)
    while await ended(plane.url) < done + count:  # noqa: ASYNC110 - another process, which must be polled
        await asyncio.sleep(0.02)
    return (processor_seconds(plane.pid) - before) * 1000 / count, count / (time.perf_counter() - begin)


async def _calls(plane: Running, count: int) -> float:
    """Return the processor time of a call that a node makes from inside an execution (ms)."""
    before = processor_seconds(plane.pid)
    await _fan(plane.url, count)
    return (processor_seconds(plane.pid) - before) * 1000 / count


async def _fan(url: str, count: int) -> str:
    """Run an execution that makes many calls; return the id of its run."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/api/v1/execute/bench.fan", json={"input": {"count": count}, "timeout": 600}) as made,
    ):
        return str((await made.json())["run_id"])


async def _first_page(url: str, count: int) -> float:
    """Return the median time of the first page of a large workflow (ms)."""
    run_id, times = await _fan(url, count), []
    async with aiohttp.ClientSession() as http:
        for _ in range(20):
            begin = time.perf_counter()
            async with http.get(f"{url}/api/v1/workflows/{run_id}/dag") as page:
                await page.read()
            times.append((time.perf_counter() - begin) * 1000)
    return percentile(times, 50)


async def _memory(plane: Running, count: int) -> float:
    """Return the memory growth of the control plane over many executions (MB), after the first tenth of them."""
    url = f"{plane.url}/api/v1/execute/async/bench.echo"
    process = psutil.Process(plane.pid)
    await post_times(AT_ONCE, count // 10, url)
    before = process.memory_info().rss
    await post_times(AT_ONCE, count - count // 10, url)
    return (process.memory_info().rss - before) / 1e6


# --- effect of group commit on a slow disk

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static void wait_(void) { struct timespec t = {0, 2000000}; nanosleep(&t, 0); }
int fsync(int fd) { static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, "fsync"); wait_(); return real(fd); }
int fdatasync(int fd) { static int (*real)(int); if (!real) real = dlsym(RTLD_NEXT, "fdatasync"); wait_(); return real(fd); }
"""
_COMMITS = """
import asyncio, sys, time
from agentfield.ids import new_id
from agentfield_server.store.records import NewExecution
from agentfield_server.store.sqlite.store import SqliteStore

async def main(path, batch, count):
    store = SqliteStore(path, on_commit=lambda _: None, clock=time.time, batch=batch)
    await store.open()
    begin = time.perf_counter()
    async def one():
        await store.create_execution(
            NewExecution(id=new_id("exe"), run_id=new_id("run"), kind="call", target="a.b", input={"text": "x" * 1000})
        )
    left = iter(range(count))
    async def sender():
        for _ in left:
            await one()
    await asyncio.gather(*(sender() for _ in range(64)))
    print(count / (time.perf_counter() - begin))
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def _slow_disk(folder: Path, scale: _Scale) -> Row:
    """Measure durable inserts, 64 at a time, with 2 ms added to each flush: grouped in one commit, and one commit each."""
    shim = folder / "slow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, "-x", "c", "-", "-ldl"], input=_SHIM.encode(), check=True)
    rates: dict[int, list[float]] = {256: [], 1: []}
    for _ in range(3):
        # interleaved, so that other load on the machine affects both equally
        for batch, count in ((256, 10 * scale.commits), (1, scale.commits)):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                argv = [sys.executable, "-c", _COMMITS, str(Path(place) / "slow.db"), str(batch), str(count)]
                done = subprocess.run(
                    argv, env={**os.environ, "LD_PRELOAD": str(shim)}, check=True, capture_output=True
                )
            rates[batch].append(float(done.stdout))
    return Row(
        name="ungrouped commits to grouped ones, 2 ms added to each flush",
        value=median(rates[1]) / median(rates[256]),
        unit="of the rate",
        goal=0.1,
    )
