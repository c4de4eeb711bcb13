"""Executions through a control plane in its own process, compared with the cost of HTTP and SQLite alone in the same run."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import apsw
import psutil

from benchmarks.processor import processor_seconds
from benchmarks.rows import Row, percentile

AT_ONCE = 64
EXECUTIONS = 5_000
SINGLE = 500
GRAPH = 10_000
MANY = 100_000
BODY = {"input": {"text": "x" * 1000}}

_NODE = """
import sys
from agentfield import Agent

app = Agent("bench", url=sys.argv[1], concurrency=1000)

@app.reasoner()
async def echo(text: str) -> str:
    return text

@app.reasoner()
async def fan(count: int) -> int:
    import asyncio
    room = asyncio.Semaphore(200)
    async def one(n):
        async with room:
            await app.call("bench.echo", text=str(n))
    await asyncio.gather(*(one(n) for n in range(count)))
    return count

app.run()
"""
_ECHO = """
import sys
from aiohttp import web

async def echo(request):
    return web.json_response(await request.json())

app = web.Application()
app.router.add_post("/echo", echo)

async def ready(app):
    pass

async def main():
    import asyncio
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()

import asyncio
asyncio.run(main())
"""


def measure() -> list[Row]:
    """Measure the floors, then the control plane."""
    with tempfile.TemporaryDirectory() as folder:
        unit_cpu, unit_wall = _unit_floor(Path(folder))
        return asyncio.run(_measure(Path(folder), unit_cpu, unit_wall))


async def _measure(folder: Path, unit_cpu: float, unit_wall: float) -> list[Row]:
    async with _program([sys.executable, "-c", _ECHO], folder) as echo:
        post_cpu = await _cpu_of_posts(echo.pid, f"{echo.url}/echo")
        direct = percentile(await _times(1, SINGLE, f"{echo.url}/echo"), 50)
    async with (
        _program([sys.executable, "-m", "agentfield_server"], folder, AGENTFIELD_PORT="0") as plane,
        _program([sys.executable, "-c", _NODE, plane.url], folder, ready=False),
    ):
        await _linked(plane.url)
        sync = f"{plane.url}/api/v1/execute/bench.echo"
        await _times(AT_ONCE, 500, sync)  # warm
        alone = percentile(await _times(1, SINGLE, sync), 50)
        crowd = await _times(AT_ONCE, EXECUTIONS, sync)
        cpu, rate = await _async(plane, EXECUTIONS)
        page = await _first_page(plane.url)
        grown = await _memory(plane, MANY)
    return [
        Row(
            name="control-plane processor time of an async execution",
            value=cpu,
            unit="ms",
            floor=post_cpu + unit_cpu,
            goal=2.5 * (post_cpu + unit_cpu),
        ),
        Row(
            name="time of a completed async execution under load",
            value=1000 / rate,
            unit="ms",
            floor=unit_wall,
            goal=5 * unit_wall,
        ),
        Row(
            name="added to a direct HTTP call, one at a time, p50",
            value=alone - direct,
            unit="ms",
            floor=direct,
            goal=1,
        ),
        Row(name=f"execute, {AT_ONCE} at once, p50", value=percentile(crowd, 50), unit="ms", goal=10),
        Row(name=f"execute, {AT_ONCE} at once, p99", value=percentile(crowd, 99), unit="ms", goal=35),
        Row(name=f"first page of a workflow of {GRAPH} executions", value=page, unit="ms", goal=50),
        Row(name=f"memory grown over {MANY} executions", value=grown, unit="MB", goal=16),
        _slow_disk(folder),
    ]


# --- floors


def _unit_floor(folder: Path, batch: int = 32, rounds: int = 150) -> tuple[float, float]:
    """Return the processor and wall time (ms) of one execution in SQLite: four statements, three events, two commits."""
    connection = apsw.Connection(str(folder / "unit.db"))
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


async def _cpu_of_posts(pid: int, url: str) -> float:
    await _times(AT_ONCE, 500, url)
    before = processor_seconds(pid)
    await _times(AT_ONCE, EXECUTIONS, url)
    return (processor_seconds(pid) - before) * 1000 / EXECUTIONS


# --- the control plane


async def _async(plane: _Running, count: int) -> tuple[float, float]:
    """Return the processor time of an execution (ms) and the completed executions per second."""
    url = f"{plane.url}/api/v1/execute/async/bench.echo"
    done = await _ended(plane.url)
    before, begin = processor_seconds(plane.pid), time.perf_counter()
    await _times(AT_ONCE, count, url)
    while await _ended(plane.url) < done + count:  # noqa: ASYNC110 - another process, which must be polled
        await asyncio.sleep(0.02)
    return (processor_seconds(plane.pid) - before) * 1000 / count, count / (time.perf_counter() - begin)


async def _first_page(url: str) -> float:
    """Return the median time of the first page of a large workflow (ms)."""
    async with aiohttp.ClientSession() as http:
        async with http.post(
            f"{url}/api/v1/execute/bench.fan", json={"input": {"count": GRAPH}, "timeout": 600}
        ) as made:
            run_id = (await made.json())["run_id"]
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            async with http.get(f"{url}/api/v1/workflows/{run_id}/dag") as page:
                await page.read()
            times.append((time.perf_counter() - begin) * 1000)
    return percentile(times, 50)


async def _memory(plane: _Running, count: int) -> float:
    """Return the memory growth of the control plane over many executions (MB), after the first tenth of them."""
    url = f"{plane.url}/api/v1/execute/async/bench.echo"
    process = psutil.Process(plane.pid)
    await _times(AT_ONCE, count // 10, url)
    before = process.memory_info().rss
    await _times(AT_ONCE, count - count // 10, url)
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


def _slow_disk(folder: Path) -> Row:
    """Measure durable inserts, 64 at a time, with 2 ms added to each flush: grouped in one commit, and one commit each."""
    import subprocess

    shim = folder / "slow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, "-x", "c", "-", "-ldl"], input=_SHIM.encode(), check=True)
    rates: dict[int, list[float]] = {256: [], 1: []}
    for _ in range(3):
        # interleaved, so that other load on the machine affects both equally
        for batch, count in ((256, 4000), (1, 400)):
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


# --- programs and load


class _Running:
    """A server process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.pid = process.pid
        self.url = url


@asynccontextmanager
async def _program(argv: Sequence[str], folder: Path, *, ready: bool = True, **env: str) -> AsyncIterator[_Running]:
    process = await asyncio.create_subprocess_exec(
        *argv,
        env={**os.environ, "AGENTFIELD_HOME": str(folder / "home"), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    if process.stdout is None:
        raise RuntimeError("a program without output")
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline() if ready else b""
        yield _Running(process, line.decode().strip())
    finally:
        process.terminate()
        await process.wait()


async def _linked(url: str) -> None:
    async def linked() -> bool:
        async with http.get(f"{url}/api/v1/nodes") as response:
            return bool(await response.json())

    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while not await linked():  # noqa: ASYNC110 - the node is another process
            await asyncio.sleep(0.05)


async def _ended(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("agentfield_executions_total{"))


async def _times(at_once: int, count: int, url: str) -> list[float]:
    """Send `count` POST requests, `at_once` at a time, and return their times (ms)."""
    times: list[float] = []
    left = iter(range(count))

    async def send() -> None:
        for _ in left:
            begin = time.perf_counter()
            async with http.post(url, json=BODY) as response:
                body: Any = await response.read()
                if response.status >= 300:
                    raise RuntimeError(f"HTTP {response.status}: {body[:300]!r}")
            times.append((time.perf_counter() - begin) * 1000)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as http:
        senders: list[Callable[[], Awaitable[None]]] = [send] * at_once
        await asyncio.gather(*(sender() for sender in senders))
    return times
