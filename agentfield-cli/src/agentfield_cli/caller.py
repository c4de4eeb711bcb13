"""The terminal caller: one end of a WebRTC call that speaks recordings and records what it hears."""

from __future__ import annotations

import asyncio
import fractions
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Never

import aioice.ice
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler

from agentfield.errors import ProviderUnavailable
from agentfield_cli.audio import FRAME, RATE, Samples, is_loud

__all__ = ["Call", "place_call"]

_LEAD = 15
"""Frames of silence before the first word: what a codec and a voice detector need to settle."""

_CONNECT = 15.0
_CLOSE = 5.0
_CHANNEL = "oai-events"
_TIME_BASE = fractions.Fraction(1, RATE)


@dataclass(slots=True)
class _Utterance:
    frames: deque[Samples]
    sent: asyncio.Future[float]
    last_loud: float = 0.0


class _Microphone(MediaStreamTrack):
    """Sends a frame each 20 ms by the monotonic clock: speech when there is some, else silence."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._begun: float | None = None
        self._count = 0
        self._queue: deque[_Utterance] = deque()

    async def say(self, samples: Samples) -> float:
        """Send `samples` and return when their last loud frame was sent, in seconds of the monotonic clock."""
        padded = np.concatenate([samples, np.zeros(-samples.size % FRAME, np.int16)])
        silence = [np.zeros(FRAME, np.int16)] * _LEAD
        frames = deque([*silence, *padded.reshape(-1, FRAME)])
        utterance = _Utterance(frames, asyncio.get_running_loop().create_future())
        self._queue.append(utterance)
        return await utterance.sent

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        await asyncio.sleep(max(0.0, self._begun + self._count * FRAME / RATE - now))
        frame = AudioFrame.from_ndarray(self._next().reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * FRAME, _TIME_BASE
        self._count += 1
        return frame

    def _next(self) -> Samples:
        if not self._queue:
            return np.zeros(FRAME, np.int16)
        utterance = self._queue[0]
        samples = utterance.frames.popleft()
        if is_loud(samples):
            utterance.last_loud = time.monotonic()
        if not utterance.frames:
            self._queue.popleft()
            if not utterance.sent.done():
                utterance.sent.set_result(utterance.last_loud or time.monotonic())
        return samples


class _Ear:
    """Keeps what is heard and knows when it was loud."""

    def __init__(self) -> None:
        self._pieces: list[Samples] = []
        self._rest = np.zeros(0, np.int16)
        self._loud: list[float] = []
        self._news = asyncio.Event()

    async def listen(self, track: MediaStreamTrack) -> None:
        """Take everything until the track ends."""
        resampler = AudioResampler(format="s16", layout="mono", rate=RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if isinstance(frame, AudioFrame):
                for out in resampler.resample(frame):
                    self._take(out.to_ndarray().reshape(-1).astype(np.int16, copy=False))

    def _take(self, samples: Samples) -> None:
        self._pieces.append(samples)
        rest = np.concatenate([self._rest, samples])
        whole = rest.size // FRAME * FRAME
        for frame in rest[:whole].reshape(-1, FRAME):
            if is_loud(frame):
                self._loud.append(time.monotonic())
                self._news.set()
        self._rest = rest[whole:]

    @property
    def recording(self) -> Samples:
        """Everything heard so far."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    def first_loud(self, after: float) -> float | None:
        """Return when the first loud frame after `after` was heard."""
        return next((at for at in self._loud if at > after), None)

    async def sound(self, after: float) -> float:
        """Wait for the first loud frame after `after` and return when it was heard."""
        while (at := self.first_loud(after)) is None:
            self._news.clear()
            await self._news.wait()
        return at

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing loud was heard for so long."""
        begun = time.monotonic()
        while True:
            left = max(begun, self._loud[-1] if self._loud else 0.0) + seconds - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)


class Call:
    """A call that is up.

    Args:
        microphone: What the agent hears.
        ear: What the agent says.
        offer_to_answer: Seconds from sending the offer to having the answer.
    """

    def __init__(self, microphone: _Microphone, ear: _Ear, offer_to_answer: float) -> None:
        self._microphone = microphone
        self._ear = ear
        self.offer_to_answer = offer_to_answer

    async def speak(self, samples: Samples) -> float:
        """Speak 48 kHz mono samples after 0.3 s of silence, at the pace of speech.

        Returns:
            When the last 20 ms above -45 dBFS were sent, in seconds of the monotonic clock.
        """
        return await self._microphone.say(samples)

    async def hear(self, after: float) -> float:
        """Wait for the agent's voice.

        Args:
            after: A time of the monotonic clock; what was heard before does not count.

        Returns:
            When the first 20 ms above -45 dBFS were heard.
        """
        return await self._ear.sound(after)

    def heard_at(self, after: float) -> float | None:
        """Return when the agent's voice was first heard after `after`, None when it was not."""
        return self._ear.first_loud(after)

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing was heard for so many seconds."""
        await self._ear.quiet(seconds)

    @property
    def recording(self) -> Samples:
        """What was heard so far, 48 kHz mono."""
        return self._ear.recording


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
    microphone, ear = _Microphone(), _Ear()
    connected, listening = asyncio.Event(), list[asyncio.Task[None]]()
    connection.addTrack(microphone)
    connection.createDataChannel(_CHANNEL)
    connection.on("track", lambda track: listening.append(asyncio.create_task(ear.listen(track))))
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
