"""Audio over WebRTC through the local server: round trip, memory of a call, and latency after a stall.

The floor is an echo server as in aiortc's examples, on the same machine in the same run (`python -m benchmarks.media` serves it).
Both servers are separate processes with the same client, which sends a click every second and measures its round trip.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from fractions import Fraction

import aiohttp
import numpy as np
import psutil
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from agentfield_local.webrtc.ice import restrict_to_loopback
from benchmarks.rows import Row, percentile

ROUNDS, SECONDS, SESSIONS, BATCHES = 3, 8, 8, 10
_RATE, _SAMPLES = 48_000, 960
_LOUD = 3000


class Clicks(MediaStreamTrack):
    """Silence with a click every second: 20 ms of a rising tone."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[float] = []
        """Time at which each click was sent."""
        self._frames = 0
        self._begin = time.monotonic()
        at = np.arange(_SAMPLES) / _RATE
        self._click = (20_000 * np.sin(2 * np.pi * (500 + 25_000 * at) * at)).astype("<i2")

    async def recv(self) -> AudioFrame:
        """Return the next frame when it is due."""
        await asyncio.sleep(self._begin + self._frames * 0.02 - time.monotonic())
        loud = self._frames % 50 == 25
        pcm = self._click if loud else np.zeros(_SAMPLES, "<i2")
        frame = AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, self._frames * _SAMPLES, Fraction(1, _RATE)
        self._frames += 1
        if loud:
            self.sent.append(time.monotonic())
        return frame


class Caller:
    """A plain aiortc peer that detects its returning clicks."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.track = Clicks()
        self.back: list[float] = []
        self._quiet = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._up = asyncio.Event()
        self.peer.addTrack(self.track)
        self.peer.createDataChannel("oai-events")
        self.peer.on("track", lambda track: self._tasks.append(asyncio.create_task(self._detect_clicks(track))))
        self.peer.on("connectionstatechange", self._state)

    async def connect(self, http: aiohttp.ClientSession, url: str) -> None:
        """Place the call."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        body, headers = self.peer.localDescription.sdp, {"Content-Type": "application/sdp"}
        async with http.post(url, data=body, headers=headers) as response:
            answer = await response.text()
            response.raise_for_status()
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        async with asyncio.timeout(10):
            await self._up.wait()

    async def close(self) -> None:
        """Hang up."""
        await self.peer.close()
        await asyncio.gather(*self._tasks)

    def trips(self, since: float = 0.0) -> list[float]:
        """Return the round trips (ms) of the clicks sent after `since`."""
        found = []
        for sent in self.track.sent:
            back = next((at for at in self.back if sent < at < sent + 0.95), None)
            if back is not None and sent >= since:
                found.append(1000 * (back - sent))
        return found

    def _state(self) -> None:
        if self.peer.connectionState == "connected":
            self._up.set()

    async def _detect_clicks(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            now = time.monotonic()
            if not isinstance(frame, AudioFrame):
                continue
            channels = len(frame.layout.channels)
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0, ::channels].astype(np.int32)) > _LOUD)
            if loud.size and self._quiet > 5:
                self.back.append(now + float(loud[0]) / frame.sample_rate)
            self._quiet = 0 if loud.size else self._quiet + 1


def measure() -> list[Row]:
    """Run both servers and alternate between them."""
    restrict_to_loopback()
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    ours, stock = ("agentfield_local", "--engines", "echo", "--linger", "0"), ("benchmarks.media",)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        server, url = await stack.enter_async_context(_server(*ours))
        floor_server, floor_url = await stack.enter_async_context(_server(*stock))
        there, floor = [], []
        for _ in range(ROUNDS):
            there += await _trips(http, url)
            floor += await _trips(http, floor_url)
        stall, lost = await _stall(http, url, server)
        floor_stall, _ = await _stall(http, floor_url, floor_server)
    async with AsyncExitStack() as stack:  # new servers: memory freed by earlier calls would hide the memory of a call
        http = await stack.enter_async_context(aiohttp.ClientSession())
        server, url = await stack.enter_async_context(_server(*ours))
        floor_server, floor_url = await stack.enter_async_context(_server(*stock))
        memory = await _memory(http, url, server)
        floor_memory = await _memory(http, floor_url, floor_server)
        kept = await _batches(http, url, server)
        floor_kept = await _batches(http, floor_url, floor_server)
    sys.stderr.write(f"memory after each batch of {SESSIONS} calls, MB: {_curve(kept)}; stock: {_curve(floor_kept)}\n")
    base = percentile(floor, 50)
    return [
        Row(
            name="media: sound there and back, median",
            value=percentile(there, 50),
            unit="ms",
            floor=base,
            goal=0.9 * base,
        ),
        Row(name="media: memory of a call, of 8 at once", value=memory, unit="MB", floor=floor_memory, goal=2),
        Row(
            name="media: latency 2 s after a stall of 0.5 s, beyond normal",
            value=stall,
            unit="ms",
            floor=floor_stall,
            goal=40,
        ),
        Row(name="media: clicks lost after that", value=lost, unit=""),
        Row(
            name=f"media: memory kept of each batch of 8 calls, last {BATCHES // 2}",
            value=_slope(kept),
            unit="MB",
            floor=_slope(floor_kept),
        ),
    ]


async def _trips(http: aiohttp.ClientSession, url: str) -> list[float]:
    async with _call(http, url) as caller:
        begin = time.monotonic() + 1
        await asyncio.sleep(SECONDS + 1)
        return caller.trips(begin)


async def _stall(http: aiohttp.ClientSession, url: str, server: psutil.Process) -> tuple[float, int]:
    """Suspend a server for half a second; return the added round trip 2 s later (ms), and the number of lost clicks."""
    async with _call(http, url) as caller:
        await asyncio.sleep(7)
        normal = percentile(caller.trips(), 50)
        server.suspend()
        await asyncio.sleep(0.5)
        server.resume()
        await asyncio.sleep(2)
        since = time.monotonic()
        await asyncio.sleep(7)
        after = caller.trips(since)
        sent = sum(since <= at < time.monotonic() - 1 for at in caller.track.sent)
    return percentile(after, 50) - normal, max(0, sent - len(after))


async def _memory(http: aiohttp.ClientSession, url: str, server: psutil.Process) -> float:
    async with _call(http, url):
        await asyncio.sleep(3)
        before = server.memory_info().rss
        async with AsyncExitStack() as stack:
            for _ in range(SESSIONS):
                await stack.enter_async_context(_call(http, url))
            await asyncio.sleep(3)
            return float(server.memory_info().rss - before) / 1e6 / SESSIONS


async def _batches(http: aiohttp.ClientSession, url: str, server: psutil.Process) -> list[float]:
    sizes = []
    for _ in range(BATCHES):
        async with AsyncExitStack() as stack:
            for _ in range(SESSIONS):
                await stack.enter_async_context(_call(http, url))
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        sizes.append(server.memory_info().rss / 1e6)
    return sizes


def _slope(sizes: list[float]) -> float:
    half = sizes[len(sizes) // 2 - 1 :]
    return (half[-1] - half[0]) / (len(half) - 1)


def _curve(sizes: list[float]) -> str:
    return " ".join(f"{size:.1f}" for size in sizes)


@asynccontextmanager
async def _call(http: aiohttp.ClientSession, url: str) -> AsyncIterator[Caller]:
    caller = Caller()
    try:
        await caller.connect(http, url)
        yield caller
    finally:
        await caller.close()


@asynccontextmanager
async def _server(module: str, *argv: str) -> AsyncIterator[tuple[psutil.Process, str]]:
    """Run a server that prints its address in a line of JSON."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        if running.stdout is None:
            raise RuntimeError("the server has no output")
        async with asyncio.timeout(30):
            ready = json.loads(await running.stdout.readline())
        yield psutil.Process(running.pid), f"{ready['url']}/v1/realtime/calls"
    finally:
        running.terminate()
        await running.wait()


async def _stock(request: web.Request) -> web.Response:
    """Answer an offer as in aiortc's examples: received audio is relayed back."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    relay = MediaRelay()
    request.app[_PEERS].add(peer)
    peer.on("track", lambda track: peer.addTrack(relay.subscribe(track)))

    async def changed() -> None:
        if peer.connectionState in {"failed", "closed"}:
            request.app[_PEERS].discard(peer)
            await peer.close()

    peer.on("connectionstatechange", changed)
    await peer.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    return web.Response(text=peer.localDescription.sdp)


_PEERS = web.AppKey("peers", set[RTCPeerConnection])


async def _serve_stock() -> None:
    restrict_to_loopback()
    app = web.Application()
    app[_PEERS] = set()
    app.router.add_post("/v1/realtime/calls", _stock)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_stock())
