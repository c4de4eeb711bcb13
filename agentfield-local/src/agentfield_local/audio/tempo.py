"""Tempo filter: slower or faster speech at the same pitch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from av import AudioFrame
from av.error import BlockingIOError as NeedsInput
from av.error import EOFError as EndOfStream
from av.filter import Graph

__all__ = ["TempoFilter"]

_SLOWEST = 0.5


class TempoFilter:
    """Changes the tempo of one stream of s16le mono; it keeps state, so each stream needs its own.

    Args:
        rate: Samples per second.
        speed: Multiple of the natural tempo, 0.25 to 4; 1 changes nothing.
    """

    def __init__(self, rate: int, speed: float) -> None:
        self._rate = rate
        self._graph = None if speed == 1.0 else _graph(rate, speed)

    def feed(self, pcm: bytes) -> bytes:
        """Return the output that is ready after this piece."""
        if self._graph is None or not pcm:
            return pcm
        frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._rate
        self._graph.push(frame)
        return self._pull()

    def flush(self) -> bytes:
        """Return the rest of the stream."""
        if self._graph is None:
            return b""
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> bytes:
        out = bytearray()
        while self._graph is not None:
            try:
                frame = self._graph.pull()
            except (NeedsInput, EndOfStream):
                break
            if isinstance(frame, AudioFrame):
                out += frame.to_ndarray().tobytes()
        return bytes(out)


def _graph(rate: int, speed: float) -> Graph:
    graph = Graph()
    filters = [graph.add_abuffer(sample_rate=rate, format="s16", layout="mono")]
    while speed < _SLOWEST:  # one atempo filter goes down to 0.5 only: chain several
        filters.append(graph.add("atempo", str(_SLOWEST)))
        speed /= _SLOWEST
    filters.append(graph.add("atempo", f"{speed:.4f}"))
    filters.append(graph.add("aformat", "sample_fmts=s16:channel_layouts=mono"))
    filters.append(graph.add("abuffersink"))
    for source, target in pairwise(filters):
        source.link_to(target)
    graph.configure()
    return graph
