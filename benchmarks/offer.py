"""Time that the control plane adds to an SDP offer: from request to answer, less the time of the provider."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from aiortc import RTCConfiguration, RTCPeerConnection

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Manifest, Registry, hookimpl
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, CallRef, ProviderSession, SdpAnswer
from agentfield.wire.rest import StartRequest
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_openai import plugin as openai_plugin
from agentfield_openai.webrtc_adapter import WebRtcAdapter, webrtc
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from benchmarks.rows import Row, percentile

WARM, ROUNDS = 5, 40
_inside: list[float] = []


class TimedAdapter:
    """An adapter that measures the time of the provider."""

    def __init__(self, adapter: WebRtcAdapter) -> None:
        self._adapter = adapter

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:
        """Create the call and record the time."""
        begin = time.perf_counter()
        try:
            return await self._adapter.negotiate(offer, config)
        finally:
            _inside.append(time.perf_counter() - begin)

    async def attach(self, ref: CallRef, config: SessionConfig) -> ProviderSession:
        """Attach to the call and record the time."""
        begin = time.perf_counter()
        try:
            return await self._adapter.attach(ref, config)
        finally:
            _inside.append(time.perf_counter() - begin)

    async def hang_up(self, ref: CallRef) -> None:
        """End the call and record the time."""
        await self._adapter.hang_up(ref)


@asynccontextmanager
async def timed(runtime: AdapterRuntime) -> AsyncIterator[TimedAdapter]:
    """Yield the adapter of the measured pair."""
    async with webrtc(runtime) as adapter:
        yield TimedAdapter(adapter)


@hookimpl
def agentfield_manifest() -> Manifest:
    """Return OpenAI's manifest with the timed adapter."""
    manifest = openai_plugin.agentfield_manifest()
    return replace(manifest, pairs=tuple(replace(pair, factory=f"{__name__}:timed") for pair in manifest.pairs))


def measure() -> list[Row]:
    """Exchange offers one at a time, each for its own session."""
    with tempfile.TemporaryDirectory() as folder:
        total, own = asyncio.run(_exchange(Path(folder)))
    floor = percentile([a - b for a, b in zip(total, own, strict=True)], 50)
    return [
        Row(
            name="offer in to answer out without the provider's time, p50",
            value=percentile(own, 50),
            unit="ms",
            floor=floor,
            goal=10,
        ),
        Row(name="offer in to answer out in all, p50", value=percentile(total, 50), unit="ms", floor=floor),
    ]


async def _exchange(folder: Path) -> tuple[list[float], list[float]]:
    app = Agent(node_id="bench")

    @app.session("voice", provider="openai", transport="webrtc")
    async def voice(session: object) -> None: ...

    total: list[float] = []
    own: list[float] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer(load_engines("synthetic"), load_brain("obedient")))
        environ = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-bench-0123456789"}
        registry = Registry.of([SimpleNamespace(agentfield_manifest=agentfield_manifest)])
        plane = await stack.enter_async_context(
            control_plane(Settings(home=folder, port=0), registry=registry, environ=environ)
        )
        app._url = plane.url  # noqa: SLF001 - the port is not known before
        await stack.enter_async_context(app)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url))
        for _ in range(WARM + ROUNDS):
            before = len(_inside)
            seconds = await _one(client)
            total.append(1000 * seconds)
            own.append(1000 * (seconds - sum(_inside[before:])))
    return total[WARM:], own[WARM:]


async def _one(client: ControlPlaneClient) -> float:
    started = await client.start_session(StartRequest(target="bench.voice"))
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        peer.addTransceiver("audio")
        peer.createDataChannel("oai-events")
        await peer.setLocalDescription(await peer.createOffer())
        begin = time.perf_counter()
        await client.offer(started.session_id, peer.localDescription.sdp, started.token)
        return time.perf_counter() - begin
    finally:
        await client.end_session(started.session_id)
        await peer.close()
