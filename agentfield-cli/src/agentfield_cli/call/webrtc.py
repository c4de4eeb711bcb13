"""Terminal caller over WebRTC: speaks recordings and records the agent's audio."""

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
from agentfield_cli.call.audio_io import AudioSink, AudioSource, TerminalCall
from agentfield_cli.call.recordings import FRAME, RATE, Samples

__all__ = ["TerminalCall", "place_webrtc_call"]

_CONNECT_TIMEOUT = 15.0
_CLOSE_TIMEOUT = 5.0
_CHANNEL = "oai-events"
_TIME_BASE = fractions.Fraction(1, RATE)


class _SpeechTrack(MediaStreamTrack):
    """Track that sends a frame every 20 ms of the monotonic clock: queued speech, otherwise silence."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._started: float | None = None
        self._count = 0
        self._source = AudioSource()

    async def say(self, samples: Samples) -> float:
        """Send `samples` and return the time at which their last loud frame was sent."""
        return await self._source.say(samples)

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._started is None:
            self._started = now
        await asyncio.sleep(max(0.0, self._started + self._count * FRAME / RATE - now))
        frame = AudioFrame.from_ndarray(self._source.frame().reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * FRAME, _TIME_BASE
        self._count += 1
        return frame


async def _listen(sink: AudioSink, track: MediaStreamTrack) -> None:
    """Record a track until it ends."""
    resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if isinstance(frame, AudioFrame):
            for out in resampler.resample(frame):
                sink.take(out.to_ndarray().reshape(-1).astype(np.int16, copy=False))


@asynccontextmanager
async def place_webrtc_call(
    exchange: Callable[[str], Awaitable[str]],
    *,
    loopback: bool,
    session_ended: Callable[[], Coroutine[object, object, Never]] | None = None,
) -> AsyncIterator[TerminalCall]:
    """Place a WebRTC call and hang up at the end of the block.

    Args:
        exchange: Takes the SDP offer and returns the SDP answer.
        loopback: Offer 127.0.0.1 too, so that a machine with only `lo` up can call itself.
        session_ended: Raises when the session has ended, which stops the wait for the media.

    Raises:
        ProviderUnavailable: The media did not connect (code `ice_failed`).
        SessionEnded: `session_ended` raised before the media connected.
    """
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    microphone, sink = _SpeechTrack(), AudioSink()
    connected, listening = asyncio.Event(), list[asyncio.Task[None]]()
    connection.addTrack(microphone)
    connection.createDataChannel(_CHANNEL)
    connection.on("track", lambda track: listening.append(asyncio.create_task(_listen(sink, track))))
    connection.on("connectionstatechange", lambda: _note_state(connection, connected))
    try:
        with _gather_loopback(loopback=loopback):
            await connection.setLocalDescription(await connection.createOffer())
        started = time.monotonic()
        answer = await exchange(connection.localDescription.sdp)
        took = time.monotonic() - started
        await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await _wait_for_media(connected, session_ended)
        yield TerminalCall(microphone, sink, took)
    finally:
        microphone.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await connection.close()
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


def _note_state(connection: RTCPeerConnection, connected: asyncio.Event) -> None:
    if connection.connectionState == "connected":
        connected.set()


async def _wait_for_media(
    connected: asyncio.Event, session_ended: Callable[[], Coroutine[object, object, Never]] | None
) -> None:
    waits: list[asyncio.Task[object]] = [asyncio.create_task(connected.wait())]
    if session_ended is not None:
        waits.append(asyncio.create_task(session_ended()))
    try:
        done, _ = await asyncio.wait(waits, timeout=_CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if connected.is_set():
        return
    for task in done:
        task.result()
    raise ProviderUnavailable(
        f"The call was answered, but no media path was found within {_CONNECT_TIMEOUT:g} s.",
        code="ice_failed",
        hint="allow UDP between this machine and the provider",
    )


@contextmanager
def _gather_loopback(*, loopback: bool) -> Iterator[None]:
    """Make aioice gather 127.0.0.1 too while the block runs; the library has no setting for it."""
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
