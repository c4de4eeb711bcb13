"""Streaming resampler: changes the sample rate of one stream of audio with FFmpeg."""

from __future__ import annotations

from typing import Any

import numpy as np
from av import AudioFrame
from av.filter import Graph

__all__ = ["Resampler"]


class Resampler:
    """Resampler of one stream, with s16le mono output; it keeps state, so each stream needs its own.

    Args:
        source_rate: Samples per second of audio that is fed as bytes.
        target_rate: Samples per second of the output.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._source_rate = source_rate
        self._same = source_rate == target_rate
        self._target_rate = target_rate
        self._stream: _Stream | None = None

    def feed(self, pcm: bytes) -> bytes:
        """Return the output that is ready after this piece of s16le mono."""
        if self._same or not pcm:
            return pcm
        frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._source_rate
        return self.feed_frame(frame)

    def feed_frame(self, frame: AudioFrame) -> bytes:
        """Return the output that is ready after a decoded frame of any rate, format and layout."""
        frame.pts = None
        if self._stream is not None and self._stream.fits(frame):
            return self._stream.feed(frame)
        # A recording may change its format in mid-stream: FFmpeg's filter takes one format only.
        before = self.drain()
        self._stream = _Stream(frame, self._target_rate)
        return before + self._stream.feed(frame)

    def flush(self) -> bytes:
        """Return the rest of a stream that was fed as bytes."""
        return b"" if self._same else self.drain()

    def drain(self) -> bytes:
        """Return the rest of the stream; the next frame begins a new one."""
        stream, self._stream = self._stream, None
        return b"" if stream is None else stream.end()


class _Stream:
    """FFmpeg's resampler for frames of one format.

    PyAV's own `AudioResampler` starts an idle thread per processor and has no setting for it.
    """

    def __init__(self, first: AudioFrame, target_rate: int) -> None:
        self._format = _format(first)
        self._graph = graph = Graph()  # owns its filters: keep a reference
        graph.threads = 1
        rate, sample, layout = self._format
        begin = graph.add_abuffer(sample_rate=rate, format=sample, layout=layout)
        resample = graph.add("aresample", f"out_sample_rate={target_rate}:out_sample_fmt=s16:out_chlayout=mono")
        end = graph.add("abuffersink")
        graph.link_nodes(begin, resample, end).configure()
        self._push, self._pull = begin.push, end.pull

    def fits(self, frame: AudioFrame) -> bool:
        """Whether a frame has the format of the first one."""
        return _format(frame) == self._format

    def feed(self, frame: AudioFrame) -> bytes:
        """Return the output of one frame; the filter yields at most one frame per input."""
        self._push(frame)
        return self._next() or b""

    def end(self) -> bytes:
        """Return the buffered output."""
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
