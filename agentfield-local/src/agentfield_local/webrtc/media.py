"""Media of a WebRTC caller: the paced track that it hears, and an echo that replaces the speech engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from agentfield_local.audio.pcm import WEBRTC_RATE
from agentfield_local.audio.resampler import Resampler
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer

__all__ = ["AudioEcho", "PacedTrack"]

_FRAME_SAMPLES = 960
_FRAME_BYTES = _FRAME_SAMPLES * 2
"""Bytes of one 20 ms frame of 48 kHz s16le mono."""
_MAX_LATE_SECONDS = 0.2
_ECHO_ID = "echo"
_MAX_ECHO_MS = 40


class PacedTrack(MediaStreamTrack):
    """Real-time track of 20 ms stereo frames on the monotonic clock, both channels at full level.

    Args:
        pull: Returns this many bytes of 48 kHz s16le mono to play now, silence if there is nothing to play.
    """

    kind = "audio"

    def __init__(self, pull: Callable[[int], bytes]) -> None:
        super().__init__()
        self._pull = pull
        self._started_at: float | None = None
        self._samples = 0

    async def recv(self) -> AudioFrame:
        """Return the next frame when it is due; after a stall, shift the schedule instead of catching up."""
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._started_at is None:
            self._started_at = now
        late = now - self._started_at - self._samples / WEBRTC_RATE
        if late > _MAX_LATE_SECONDS:
            self._started_at += late
        elif late < 0:
            await asyncio.sleep(-late)
        mono = np.frombuffer(self._pull(_FRAME_BYTES), "<i2")
        frame = AudioFrame.from_ndarray(np.repeat(mono, 2).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = WEBRTC_RATE
        frame.pts = self._samples
        frame.time_base = Fraction(1, WEBRTC_RATE)
        self._samples += _FRAME_SAMPLES
        return frame


class AudioEcho:
    """Replaces the speech engines: queues the caller's audio as its own reply, to measure the media path.

    Args:
        output_buffer: Buffer that is played to the caller.
    """

    def __init__(self, output_buffer: OutputAudioBuffer) -> None:
        self._output_buffer = output_buffer
        self._resampler = Resampler(SPEECH_RATE, WEBRTC_RATE)

    def feed(self, pcm: bytes) -> None:
        """Queue 16 kHz s16le mono for playback; after a stall, drop the backlog so that the delay does not grow."""
        if self._output_buffer.buffered_ms > _MAX_ECHO_MS:
            self._output_buffer.clear(lambda response_id: response_id == _ECHO_ID)
        self._output_buffer.push(_ECHO_ID, _ECHO_ID, self._resampler.feed(pcm))
