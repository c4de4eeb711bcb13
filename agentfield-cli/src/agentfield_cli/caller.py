"""The terminal caller over WebRTC: one end of a call that speaks recordings and records what it hears."""

from __future__ import annotations

import asyncio
import fractions
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Never

import aioice.ice
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler

from agentfield.errors import ProviderUnavailable
from agentfield_cli.audio import FRAME, RATE, Samples
from agentfield_cli.hearing import Call, Ear, Mouth

__all__ = ["Call", "place_call"]

_CONNECT = 15.0
_CLOSE = 5.0
_CHANNEL = "oai-events"
_TIME_BASE = fractions.Fraction(1, RATE)


class _Microphone(MediaStreamTrack):
    """Sends a frame each 20 ms by the monotonic clock: speech when there is some, else silence."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._begun: float | None = None
        self._count = 0
        self._mouth = Mouth()

    async def say(self, samples: Samples) -> float:
        """Send `samples` and return when their last loud frame was sent, in seconds of the monotonic clock."""
        return await self._mouth.say(samples)

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        await asyncio.sleep(max(0.0, self._begun + self._count * FRAME / RATE - now))
        frame = AudioFrame.from_ndarray(self._mouth.frame().reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * FRAME, _TIME_BASE
        self._count += 1
        return frame


async def _listen(ear: Ear, track: MediaStreamTrack) -> None:
    """Take everything until the track ends."""
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if isinstance(frame, AudioFrame):
            for out in resampler.resample(frame):
                ear.take(out.to_ndarray().reshape(-1).astype(np.int16, copy=False))


@asynccontextmanager
async def place_call(
    exchange: Callable[[str], Awaitable[str]],
    *,
    loopback: bool,
    over: Callable[[], Coroutine[object, object, Never]] | None = None,
) -> AsyncIterator[Call]:
    """Make a WebRTC call and hang up at the end of the block.

    Args:
        exchange: Takes the SDP offer and returns the answer.
        loopback: Offer 127.0.0.1 too, so that a machine with only `lo` up can call itself.
        over: Raises when the call is over at the other end, so that its media is not waited for in vain.

    Raises:
        ProviderUnavailable: The media did not connect (code `ice_failed`).
        SessionEnded: What `over` raised before the media connected.
    """
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    microphone, ear = _Microphone(), Ear()
    connected, listening = asyncio.Event(), list[asyncio.Task[None]]()
    connection.addTrack(microphone)
    connection.createDataChannel(_CHANNEL)
    connection.on("track", lambda track: listening.append(asyncio.create_task(_listen(ear, track))))
    connection.on("connectionstatechange", lambda: _note_state(connection, connected))
    try:
        with _own_addresses(loopback=loopback):
            await connection.setLocalDescription(await connection.createOffer())
        begun = time.monotonic()
        answer = await exchange(connection.localDescription.sdp)
        took = time.monotonic() - begun
        await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await _until(connected, over)
        yield Call(microphone, ear, took)
    finally:
        microphone.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await connection.close()
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


def _note_state(connection: RTCPeerConnection, connected: asyncio.Event) -> None:
    if connection.connectionState == "connected":
        connected.set()


async def _until(connected: asyncio.Event, over: Callable[[], Coroutine[object, object, Never]] | None) -> None:
    waits: list[asyncio.Task[object]] = [asyncio.create_task(connected.wait())]
    if over is not None:
        waits.append(asyncio.create_task(over()))
    try:
        done, _ = await asyncio.wait(waits, timeout=_CONNECT, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if connected.is_set():
        return
    for task in done:
        task.result()
    raise ProviderUnavailable(
        f"The call was answered, but no media path was found within {_CONNECT:g} s.",
        code="ice_failed",
        hint="allow UDP between this machine and the provider",
    )


@contextmanager
def _own_addresses(*, loopback: bool) -> Iterator[None]:
    """Let the ICE library gather 127.0.0.1 too while the block runs; it has no setting for it."""
    if not loopback:
        yield
        return
    original = aioice.ice.get_host_addresses

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return (["127.0.0.1"] if use_ipv4 else []) + original(use_ipv4=use_ipv4, use_ipv6=use_ipv6)

    aioice.ice.get_host_addresses = addresses
    try:
        yield
    finally:
        aioice.ice.get_host_addresses = original
