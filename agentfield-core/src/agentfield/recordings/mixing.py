"""Mixing and resampling of decoded frames to one channel of 16-bit samples."""

from __future__ import annotations

import sys
from array import array
from operator import mul
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

__all__ = ["Mixer", "audible"]

_CANCELLED = 0.1
"""Part of the louder side's power below which two sides have cancelled each other in their mix."""
_SLICE = 4096
_SILENT = 16
"""Largest sample of a silent recording: 66 dB below full scale."""


def audible(samples: bytes) -> bool:
    """Return whether 16-bit little-endian samples contain sound: any sample above -66 dB full scale."""
    for start in range(0, len(samples), _SLICE):
        part = _values(samples[start : start + _SLICE])
        if max(part) > _SILENT or min(part) < -_SILENT:
            return True
    return False


class Mixer:
    """Mixes frames to one channel at one rate; a recording may change its format midway.

    Args:
        rate: Samples per second of the result.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._out = bytearray()
        self._part: _Part | None = None

    def feed(self, frame: AudioFrame) -> None:
        """Add a frame."""
        if self._part is None or not self._part.fits(frame):
            self.end()
            self._part = _Part(frame, self._rate)
        self._part.feed(frame)

    def end(self) -> bytes:
        """Return everything."""
        if self._part is not None:
            self._out += self._part.end()
            self._part = None
        return bytes(self._out)


class _Part:
    """The mix of frames of one format.

    Two sides in opposite phase (a balanced line in a stereo socket, some telephones) cancel each other in their mix;
    then the louder side is taken alone.
    """

    def __init__(self, first: AudioFrame, rate: int) -> None:
        self._format = _format(first)
        self._mix = _Resampler(self._format, rate, "mono")
        self._sides = _Resampler(self._format, rate, "stereo") if first.layout.nb_channels > 1 else None

    def fits(self, frame: AudioFrame) -> bool:
        """Whether a frame has the format of the first one."""
        return _format(frame) == self._format

    def feed(self, frame: AudioFrame) -> None:
        """Add a frame."""
        frame.pts = None
        self._mix.feed(frame)
        if self._sides is not None:
            self._sides.feed(frame)

    def end(self) -> bytearray:
        """Return the mix, or the louder side."""
        self._mix.end()
        (mixed,) = self._mix.channels
        if self._sides is None:
            return mixed
        self._sides.end()
        power, side = max((_power(side), index) for index, side in enumerate(self._sides.channels))
        return self._sides.channels[side] if _power(mixed) < _CANCELLED * power else mixed


class _Resampler:
    """FFmpeg's resampler of one format.

    PyAV's `AudioResampler` starts an idle thread for each processor, and takes no frames of another format.
    """

    def __init__(self, given: tuple[int, str, str], rate: int, layout: Literal["mono", "stereo"]) -> None:
        from av.filter import Graph

        self._graph = graph = Graph()  # owns its filters
        graph.threads = 1
        source_rate, sample, source_layout = given
        begin = graph.add_abuffer(sample_rate=source_rate, format=sample, layout=source_layout)
        # without a level, a third microphone is left out, because FFmpeg takes it for a channel of low frequencies
        target = f"out_sample_rate={rate}:out_sample_fmt=s16p:out_chlayout={layout}:lfe_mix_level=1"
        resample = graph.add("aresample", target)
        end = graph.add("abuffersink")
        graph.link_nodes(begin, resample, end).configure()
        self._push, self._pull = begin.push, end.pull
        self.channels = [bytearray() for _ in range(1 if layout == "mono" else 2)]

    def feed(self, frame: AudioFrame) -> None:
        """Resample a frame; the filter returns at most one for it."""
        self._push(frame)
        self._take()

    def end(self) -> None:
        """Take what the filter still holds."""
        self._push(None)
        while self._take():
            pass

    def _take(self) -> bool:
        try:
            frame: Any = self._pull()
        except (BlockingIOError, EOFError):
            return False
        for channel, plane in zip(self.channels, frame.planes, strict=True):
            channel.extend(memoryview(plane)[: frame.samples * 2])  # the buffer of a plane is padded
        return True


def _format(frame: AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name


def _power(samples: bytearray) -> int:
    """Return the sum of the squares, in steps that let other threads run."""
    total = 0
    for start in range(0, len(samples), _SLICE):
        values = _values(samples[start : start + _SLICE])
        total += sum(map(mul, values, values))
    return total


def _values(samples: bytes | bytearray) -> array[int]:
    values = array("h", bytes(samples))
    if sys.byteorder == "big":
        values.byteswap()
    return values
