"""Programs that a benchmark runs beside itself, and the load on them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["BODY", "ECHO", "NODE", "Running", "ended", "post_times", "program", "until_linked"]

BODY = {"input": {"text": "x" * 1000}}
_STOP = 5.0
"""Seconds that a program has to end in order."""

# standard input ends with the process at its other end, whatever ends that
_END_WITH_PARENT = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
"""
NODE = """
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
ECHO = """
import sys
from aiohttp import web

async def echo(request):
    return web.json_response(await request.json())

app = web.Application()
app.router.add_post("/echo", echo)

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


class Running:
    """A server process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.pid = process.pid
        self.url = url


@asynccontextmanager
async def program(argv: Sequence[str], folder: Path, *, ready: bool = True, **env: str) -> AsyncIterator[Running]:
    """Run a Python program until the block ends; it also ends when this process does, however that happens.

    Args:
        argv: ``-c CODE`` or ``-m MODULE``, and arguments.
        folder: Its data folder.
        ready: Whether its first line is its address.
        env: Further variables of its environment.
    """
    kind, code, *rest = argv
    run = code if kind == "-c" else f"import runpy\nrunpy.run_module({code!r}, run_name='__main__', alter_sys=True)\n"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _END_WITH_PARENT + run,
        *rest,
        env={**os.environ, "AGENTFIELD_HOME": str(folder / "home"), **env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    if process.stdout is None:
        raise RuntimeError("a program without output")
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline() if ready else b""
        yield Running(process, line.decode().strip())
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def until_linked(url: str) -> None:
    """Wait until a node is linked."""

    async def linked() -> bool:
        async with http.get(f"{url}/api/v1/nodes") as response:
            return bool(await response.json())

    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while not await linked():  # noqa: ASYNC110 - the node is another process
            await asyncio.sleep(0.05)


async def ended(url: str) -> int:
    """Return how many executions a control plane has ended."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("agentfield_executions_total{"))


async def post_times(at_once: int, count: int, url: str) -> list[float]:
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
