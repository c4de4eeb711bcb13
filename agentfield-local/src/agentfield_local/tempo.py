"""Speech slower or faster at the same pitch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from av import AudioFrame
from av.error import BlockingIOError as NothingReady
from av.error import EOFError as Over
from av.filter import Graph

__all__ = ["Tempo"]

_SLOWEST = 0.5


class Tempo:
    """Changes the tempo of one stream of s16le mono; keeps state, so one a stream.

    Args:
        rate: Samples per second.
        speed: Multiple of the natural tempo, 0.25 to 4; 1 changes nothing.
    """

    def __init__(self, rate: int, speed: float) -> None:
        self._rate = rate
        self._graph = None if speed == 1.0 else _graph(rate, speed)

    def feed(self, pcm: bytes) -> bytes:
        """Return what is ready after this piece."""
        if self._graph is None or not pcm:
            return pcm
        frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._rate
        self._graph.push(frame)
        return self._pull()

    def flush(self) -> bytes:
        """Return the tail; the stream is over."""
        if self._graph is None:
            return b""
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> bytes:
        out = bytearray()
        while self._graph is not None:
            try:
                frame = self._graph.pull()
            except (NothingReady, Over):
                break
            if isinstance(frame, AudioFrame):
                out += frame.to_ndarray().tobytes()
        return bytes(out)


def _graph(rate: int, speed: float) -> Graph:
    graph = Graph()
    steps = [graph.add_abuffer(sample_rate=rate, format="s16", layout="mono")]
    while speed < _SLOWEST:  # one filter goes no slower
        steps.append(graph.add("atempo", str(_SLOWEST)))
        speed /= _SLOWEST
    steps.append(graph.add("atempo", f"{speed:.4f}"))
    steps.append(graph.add("aformat", "sample_fmts=s16:channel_layouts=mono"))
    steps.append(graph.add("abuffersink"))
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    return graph
