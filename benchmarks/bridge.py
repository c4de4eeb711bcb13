"""Calls whose audio the control plane carries: processor time, added latency of a frame, and speed of an interruption.

The floor is a bare relay on the same machine in the same run (`benchmarks.relay`); both connect to the same peer, which sends
every frame back at once (`benchmarks.echo`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import StartRequest
from benchmarks.echo import BARGE, FRAME, STAMP
from benchmarks.processor import processor_seconds
from benchmarks.rows import Row, percentile

SESSIONS, SECONDS, MANY, REPEATS = 8, 3.0, 60, 7
TICK = 0.02
_AGENT = """
import sys
from agentfield import Agent

app = Agent("bench", url=sys.argv[1])

@app.session("phone", provider="openai", transport="websocket")
async def phone(session): ...

app.run()
"""
Connect = Callable[[aiohttp.ClientSession, int], Awaitable[aiohttp.ClientWebSocketResponse]]


class Caller:
    """A caller that sends a frame every 20 ms and measures the round trip."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, frame: int = FRAME) -> None:
        self.socket = socket
        self.frame = frame
        self.times: list[float] = []
        """Milliseconds from sending a frame to receiving all of it."""
        self.cleared: list[float] = []
        """Milliseconds from the peer's `speech_started` to the clear."""
        self._spoke = self._clear = 0
        self._rest = bytearray()

    async def send(self, begin: float, frames: int, *, barge: int = 0) -> None:
        """Send frames in real time; every `barge`-th one interrupts."""
        loop = asyncio.get_running_loop()
        for number in range(frames):
            await asyncio.sleep(begin + number * TICK - loop.time())
            flag = BARGE if barge and number % barge == barge - 1 else 0
            stamp = STAMP.pack(time.monotonic_ns(), flag)
            await self.socket.send_bytes(stamp.ljust(self.frame, b"\0"))

    async def receive(self) -> None:
        """Receive frames until the connection is closed."""
        async for message in self.socket:
            now = time.monotonic_ns()
            if message.type is aiohttp.WSMsgType.BINARY:
                self._audio(message.data, now)
            else:
                await self._receive_text(json.loads(message.data), now)

    def _audio(self, data: bytes, now: int) -> None:
        if self.frame != FRAME:
            return
        self._rest += data
        while len(self._rest) >= FRAME:
            sent, _ = STAMP.unpack_from(self._rest)
            self.times.append((now - sent) / 1e6)
            del self._rest[:FRAME]

    async def _receive_text(self, frame: dict[str, object], now: int) -> None:
        match frame:
            case {"type": "mark", "name": name}:
                await self.socket.send_json({"type": "mark", "name": name})
            case {"type": "event", "event": {"type": "turn.started", "item": str(item)}}:
                self._spoke = int(item.partition("_")[2])
                self._note_interruption()
            case {"type": "clear"}:
                self._rest.clear()
                self._clear = now
                self._note_interruption()

    def _note_interruption(self) -> None:
        """Record an interruption once both frames arrived: the turn's start and the clear may come in either order."""
        if self._spoke and self._clear > self._spoke:
            self.cleared.append((self._clear - self._spoke) / 1e6)
            self._spoke = 0


def measure() -> list[Row]:
    """Measure the relay and the control plane with the same peer."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        peer_port, relay_port = _free_port(), _free_port()
        peer_url = f"http://127.0.0.1:{peer_port}"
        await stack.enter_async_context(_child("benchmarks.echo", str(peer_port), ready=f"{peer_url}/arrivals"))
        relay = await stack.enter_async_context(
            _child("benchmarks.relay", str(relay_port), peer_url, ready=f"http://127.0.0.1:{relay_port}/")
        )
        plane, client = await stack.enter_async_context(_control_plane(folder, peer_url))
        through = _sessions(client)

        async def straight(http: aiohttp.ClientSession, _: int) -> aiohttp.ClientWebSocketResponse:
            return await http.ws_connect(f"http://127.0.0.1:{relay_port}/media")

        runs: list[list[tuple[float, float]]] = [[], [], []]
        for _ in range(REPEATS):
            # interleaved, so that other load on the machine affects all of them equally
            runs[0].append(await _run(http, relay, straight))
            runs[1].append(await _run(http, plane, through))
            runs[2].append(await _run(http, plane, through, rate=16_000))
        floor, ours, converted = ([median(values) for values in zip(*each, strict=True)] for each in runs)
        floor_cut = await _interruptions(http, straight)
        our_cut = await _interruptions(http, through)
        stall = await _stall(http, plane, through, peer_url)
        late_floor, _ = await _crowd(http, relay, straight)
        late, busy = await _crowd(http, plane, through)
    return [
        Row(
            name="bridge: CPU of a session, equal formats",
            value=ours[0],
            unit="% of a core",
            floor=floor[0],
            goal=1.15 * floor[0],
        ),
        Row(
            name="bridge: CPU of a session, converted",
            value=converted[0],
            unit="% of a core",
            floor=floor[0],
            goal=1.5 * floor[0],
        ),
        Row(
            name="bridge: added to a frame each way, p50",
            value=(ours[1] - floor[1]) / 2,
            unit="ms",
            floor=floor[1] / 2,
            goal=2,
        ),
        Row(name="bridge: speech started to clear, p50", value=our_cut, unit="ms", floor=floor_cut, goal=5),
        Row(name="bridge: latency 2 s after a stall of 0.5 s, beyond normal", value=stall, unit="ms", goal=40),
        Row(
            name=f"bridge: {MANY} sessions on a core, frames later than 40 ms",
            value=late,
            unit="%",
            floor=late_floor,
            goal=2,
        ),
        Row(name=f"bridge: {MANY} sessions on a core, busy", value=busy, unit="% of a core"),
    ]


async def _run(
    http: aiohttp.ClientSession,
    process: psutil.Process,
    connect: Connect,
    *,
    rate: int = 24_000,
    sessions: int = SESSIONS,
) -> tuple[float, float]:
    """Return the processor time of a session (percent of a core) and the median round trip of a frame (ms)."""
    async with _calls(http, connect, rate, sessions) as callers:
        await _speak(callers, 1.0)
        before, begin = processor_seconds(process.pid), time.monotonic()
        for caller in callers:
            caller.times.clear()
        await _speak(callers, SECONDS)
        used, lasted = processor_seconds(process.pid) - before, time.monotonic() - begin
        times = [ms for caller in callers for ms in caller.times]
    return 100 * used / lasted / sessions, percentile(times, 50) if len(times) > 1 else 0.0


async def _interruptions(http: aiohttp.ClientSession, connect: Connect) -> float:
    async with _calls(http, connect, 24_000, 1) as callers:
        await _speak(callers, 20.0, barge=25)
        return percentile(callers[0].cleared, 50)


async def _stall(http: aiohttp.ClientSession, process: psutil.Process, connect: Connect, peer_url: str) -> float:
    """Suspend the process for half a second; return the added latency of the caller's frames 2 s later (ms), at the peer."""

    async def arrived() -> list[tuple[int, int]]:
        async with http.get(f"{peer_url}/arrivals") as response:
            return [(at, sent) for at, sent in await response.json()]

    async with _calls(http, connect, 24_000, 1) as callers:
        await _speak(callers, 1.0)
        await arrived()
        speaking = asyncio.create_task(_speak(callers, 6.5))
        await asyncio.sleep(2.0)
        normal = percentile([at - sent for at, sent in await arrived()], 50)
        process.suspend()
        await asyncio.sleep(0.5)
        process.resume()
        resumed = time.monotonic_ns()
        await speaking
        after = [at - sent for at, sent in await arrived() if at - resumed > 2e9]
    return (percentile(after, 50) - normal) / 1e6


async def _crowd(http: aiohttp.ClientSession, process: psutil.Process, connect: Connect) -> tuple[float, float]:
    """Run many sessions on one core; return the percentage of late frames and the load of the core (percent)."""
    cores = sorted(os.sched_getaffinity(0))
    process.cpu_affinity(cores[:1])
    try:
        async with _calls(http, connect, 24_000, MANY) as callers:
            await _speak(callers, 2.0)
            before, begin = processor_seconds(process.pid), time.monotonic()
            for caller in callers:
                caller.times.clear()
            await _speak(callers, SECONDS)
            busy = 100 * (processor_seconds(process.pid) - before) / (time.monotonic() - begin)
            times = [ms for caller in callers for ms in caller.times]
    finally:
        process.cpu_affinity(cores)
    return 100 * sum(ms > 40 for ms in times) / max(1, len(times)), busy


@asynccontextmanager
async def _calls(http: aiohttp.ClientSession, connect: Connect, rate: int, count: int) -> AsyncIterator[list[Caller]]:
    callers = [Caller(await connect(http, rate), frame=rate * 2 // 50) for _ in range(count)]
    readers = [asyncio.create_task(caller.receive()) for caller in callers]
    try:
        yield callers
    finally:
        for caller in callers:
            if not caller.socket.closed:
                await caller.socket.send_json({"type": "hangup"})
                await caller.socket.close()
        await asyncio.gather(*readers, return_exceptions=True)


async def _speak(callers: list[Caller], seconds: float, *, barge: int = 0) -> None:
    begin = asyncio.get_running_loop().time() + 0.05
    frames = round(seconds / TICK)
    spread = TICK / len(callers)
    await asyncio.gather(*(caller.send(begin + n * spread, frames, barge=barge) for n, caller in enumerate(callers)))
    await asyncio.sleep(0.1)


def _sessions(client: ControlPlaneClient) -> Connect:
    async def connect(http: aiohttp.ClientSession, rate: int) -> aiohttp.ClientWebSocketResponse:
        session = await client.start_session(StartRequest(target="bench.phone"))
        headers = {"Authorization": f"Bearer {session.token}"}
        params = {"format": "pcm16", "rate": str(rate)}
        return await http.ws_connect(session.media_url or "", headers=headers, params=params)

    return connect


@asynccontextmanager
async def _control_plane(folder: Path, peer_url: str) -> AsyncIterator[tuple[psutil.Process, ControlPlaneClient]]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    program = folder / "agent.py"
    program.write_text(_AGENT)
    env = {"OPENAI_BASE_URL": f"{peer_url}/v1", "OPENAI_API_KEY": "sk-bench-0123456789", "AGENTFIELD_HOME": str(folder)}
    async with (
        _child("agentfield_server", ready=f"{url}/readyz", AGENTFIELD_PORT=str(port), **env) as plane,
        _process(sys.executable, str(program), url, **env),
        ControlPlaneClient(url) as client,
    ):
        async with asyncio.timeout(20):
            while not any(node.connected for node in await client.nodes()):  # noqa: ASYNC110 - another process, which has no event for it
                await asyncio.sleep(0.1)
        yield plane, client


@asynccontextmanager
async def _child(module: str, *argv: str, ready: str, **env: str) -> AsyncIterator[psutil.Process]:
    async with _process(sys.executable, "-m", module, *argv, **env) as process, aiohttp.ClientSession() as http:
        async with asyncio.timeout(30):
            while not await _answers(http, ready):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.1)
        yield process


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url):
            return True
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def _process(*argv: str, **env: str) -> AsyncIterator[psutil.Process]:
    running = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, **env}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(running.pid)
    finally:
        running.send_signal(signal.SIGTERM)
        await running.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
