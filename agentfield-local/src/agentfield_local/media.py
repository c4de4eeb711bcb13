"""Audio in motion: persistent resamplers, the codecs of the WebSocket, and the track that a WebRTC caller hears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame
from av.filter import Graph

from agentfield_local.pcm import alaw_decode, alaw_encode, ulaw_decode, ulaw_encode
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.webrtc.playout import PLAYOUT_RATE

__all__ = ["FRAME_BYTES", "Decoder", "Encoder", "PacedTrack", "Resampler"]

_FRAME_SAMPLES = 960
FRAME_BYTES = _FRAME_SAMPLES * 2
"""Bytes of one 20 ms frame of 48 kHz s16le mono."""
_MAX_SLIP = 0.2


class Resampler:
    """Changes the rate of one stream of s16le mono; keeps state, so one a stream.

    Args:
        source_rate: Samples per second of what is fed as bytes.
        target_rate: Samples per second of what comes out.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._source_rate = source_rate
        self._same = source_rate == target_rate
        self._target_rate = target_rate
        self._stream: _Stream | None = None

    def feed(self, pcm: bytes) -> bytes:
        """Return what is ready after this piece."""
        if self._same or not pcm:
            return pcm
        frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._source_rate
        return self.feed_frame(frame)

    def feed_frame(self, frame: AudioFrame) -> bytes:
        """Return what is ready after a decoded frame of any layout."""
        frame.pts = None
        if self._stream is not None and self._stream.fits(frame):
            return self._stream.feed(frame)
        before = self.drain()
        self._stream = _Stream(frame, self._target_rate)
        return before + self._stream.feed(frame)

    def flush(self) -> bytes:
        """Return what was still inside; the stream is over."""
        return b"" if self._same else self.drain()

    def drain(self) -> bytes:
        """Return what frames left inside; the stream is over, and what comes next begins another."""
        stream, self._stream = self._stream, None
        return b"" if stream is None else stream.end()


class _Stream:
    """Frames of one format through FFmpeg's resampler.

    PyAV's own starts a thread for each processor, with nothing to do, and takes no word against it.
    """

    def __init__(self, first: AudioFrame, target_rate: int) -> None:
        self._format = _format(first)
        self._graph = graph = Graph()  # owns the others
        graph.threads = 1
        rate, sample, layout = self._format
        begin = graph.add_abuffer(sample_rate=rate, format=sample, layout=layout)
        resample = graph.add("aresample", f"out_sample_rate={target_rate}:out_sample_fmt=s16:out_chlayout=mono")
        end = graph.add("abuffersink")
        graph.link_nodes(begin, resample, end).configure()
        self._push, self._pull = begin.push, end.pull

    def fits(self, frame: AudioFrame) -> bool:
        """Tell whether a frame is of the format of the first one."""
        return _format(frame) == self._format

    def feed(self, frame: AudioFrame) -> bytes:
        """Return what came out, one frame at most for each that goes in."""
        self._push(frame)
        return self._next() or b""

    def end(self) -> bytes:
        """Return what is held."""
        self._push(None)
        return b"".join(iter(self._next, None))

    def _next(self) -> bytes | None:
        try:
            out: Any = self._pull()
        except (BlockingIOError, EOFError):
            return None
        samples: bytes = out.to_ndarray().tobytes()
        return samples


def _format(frame: AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name


class Decoder:
    """The session's input format to 16 kHz s16le mono."""

    def __init__(self, audio_format: dict[str, Any]) -> None:
        self.format = audio_format
        self._rest = b""
        rate = 24_000 if audio_format["type"] == "audio/pcm" else 8_000
        self._resampler = Resampler(rate, SPEECH_RATE)

    def feed(self, audio: bytes) -> bytes:
        """Return what is ready; half a sample waits for its other half."""
        match self.format["type"]:
            case "audio/pcmu":
                pcm = ulaw_decode(audio)
            case "audio/pcma":
                pcm = alaw_decode(audio)
            case _:
                held = self._rest + audio
                whole = len(held) - len(held) % 2
                pcm, self._rest = held[:whole], held[whole:]
        return self._resampler.feed(pcm)


class Encoder:
    """The voice's audio to a format of the wire, with the length of what comes out.

    Args:
        source_rate: Samples per second of the voice.
        audio_format: The wire's format; None is 48 kHz s16le mono for WebRTC.
    """

    def __init__(self, source_rate: int, audio_format: dict[str, Any] | None) -> None:
        self._kind = "playout" if audio_format is None else str(audio_format["type"])
        rate = {"playout": PLAYOUT_RATE, "audio/pcm": 24_000}.get(self._kind, 8_000)
        self._resampler = Resampler(source_rate, rate)
        self.bytes_per_ms = rate * (1 if self._kind in {"audio/pcmu", "audio/pcma"} else 2) // 1000

    def feed(self, pcm: bytes) -> bytes:
        """Return encoded audio of this piece."""
        return self._encode(self._resampler.feed(pcm))

    def flush(self) -> bytes:
        """Return the tail."""
        return self._encode(self._resampler.flush())

    def _encode(self, pcm: bytes) -> bytes:
        match self._kind:
            case "audio/pcmu":
                return ulaw_encode(pcm)
            case "audio/pcma":
                return alaw_encode(pcm)
            case _:
                return pcm


class PacedTrack(MediaStreamTrack):
    """Sound for the caller in real time: 20 ms stereo frames on the monotonic clock, both channels at full level.

    Args:
        pull: Returns so many bytes of 48 kHz s16le mono to play now, silence when there is nothing.
    """

    kind = "audio"

    def __init__(self, pull: Callable[[int], bytes]) -> None:
        super().__init__()
        self._pull = pull
        self._begun: float | None = None
        self._samples = 0

    async def recv(self) -> AudioFrame:
        """Return the next frame when it is due; after a stall the schedule moves on instead of catching up."""
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        late = now - self._begun - self._samples / PLAYOUT_RATE
        if late > _MAX_SLIP:
            self._begun += late
        elif late < 0:
            await asyncio.sleep(-late)
        mono = np.frombuffer(self._pull(FRAME_BYTES), "<i2")
        frame = AudioFrame.from_ndarray(np.repeat(mono, 2).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = PLAYOUT_RATE
        frame.pts = self._samples
        frame.time_base = Fraction(1, PLAYOUT_RATE)
        self._samples += _FRAME_SAMPLES
        return frame
