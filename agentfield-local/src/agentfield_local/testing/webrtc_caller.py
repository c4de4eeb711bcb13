"""WebRTC caller for tests of adapters: sends given audio in real time, and measures the audio that it receives."""

from __future__ import annotations

import asyncio
import fractions
import time
from contextlib import suppress
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler

__all__ = ["WebRtcCaller"]

_RATE = 48_000
_SAMPLES = 960
_NOISE_LEVEL = 1000
_MEASURE_RATE = 16_000
_CLOSE_SECONDS = 2.0


class WebRtcCaller:
    """A caller with an audio track in both directions, and the data channel of the Realtime protocol."""

    def __init__(self) -> None:
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._microphone = _Microphone()
        self._heard_ms = 0.0
        self._listening: asyncio.Task[None] | None = None
        self._connection.addTrack(self._microphone)
        self._connection.createDataChannel("oai-events")
        self._connection.on("track", self._on_track)

    async def offer(self) -> str:
        """Return an SDP offer."""
        await self._connection.setLocalDescription(await self._connection.createOffer())
        return str(self._connection.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        """Take the answer and wait for the connection, without a timeout of its own."""
        up = asyncio.Event()

        @self._connection.on("connectionstatechange")
        def changed() -> None:
            if self._connection.connectionState == "connected":
                up.set()

        await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await up.wait()

    def speak(self, data: bytes) -> None:
        """Queue 48 kHz s16le mono; the track sends silence while the queue is empty."""
        self._microphone.queued += data

    @property
    def heard_ms(self) -> float:
        """Milliseconds of received audio above the noise level."""
        return self._heard_ms

    async def close(self) -> None:
        """Hang up."""
        # aiortc may wait forever for the other end of a connection that is lost
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._listening = asyncio.create_task(self._listen(track), name="caller audio")

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = AudioResampler(format="s16", layout="mono", rate=_MEASURE_RATE)
        while True:
            try:
                frame: Any = await track.recv()
            except MediaStreamError:
                return
            for out in resampler.resample(frame):
                samples = out.to_ndarray()
                if np.abs(samples).max(initial=0) > _NOISE_LEVEL:
                    self._heard_ms += samples.size * 1000 / _MEASURE_RATE


class _Microphone(MediaStreamTrack):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.queued = bytearray()
        self._started_at: float | None = None
        self._sent = 0

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms frame when it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        if self._started_at is None:
            self._started_at = time.monotonic()
        await asyncio.sleep(max(0.0, self._started_at + self._sent / _RATE - time.monotonic()))
        piece = bytes(self.queued[: _SAMPLES * 2]).ljust(_SAMPLES * 2, b"\0")
        del self.queued[: _SAMPLES * 2]
        stereo = np.repeat(np.frombuffer(piece, "<i2"), 2).reshape(1, -1)
        frame = AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, self._sent, fractions.Fraction(1, _RATE)
        self._sent += _SAMPLES
        return frame
