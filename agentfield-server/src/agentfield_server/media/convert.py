"""Streaming conversion between two audio formats: resampling and G.711, with FFmpeg's libraries."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, cast

from agentfield.errors import InvalidInput, Unavailable
from agentfield.plugins.install import install_hint
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import Converter

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.codeccontext import AudioCodecContext

__all__ = ["converter", "require_media"]

_CODECS = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw"}


def converter(source: AudioFormat, target: AudioFormat) -> Converter:
    """Return a converter from one format to another; it keeps state, so each stream needs its own.

    Args:
        source: Input format; pieces may have any length, an incomplete sample is kept for the next piece.
        target: Output format.

    Raises:
        InvalidInput: One of the formats cannot be converted (code `unsupported_format`).
        Unavailable: The formats differ and FFmpeg's libraries are not installed (code `media_extra_missing`).
    """
    for each in (source, target):
        if each.codec == "opus" or each.channels != 1:
            raise InvalidInput(
                f"Audio of the format {each.name} with {each.channels} channels cannot be converted.",
                code="unsupported_format",
                hint="use pcm16, pcmu or pcma with one channel",
            )
    if source == target:
        return _Passthrough(source)
    require_media()
    return _Pipeline(source, target)


def require_media() -> None:
    """Check that FFmpeg's libraries are installed.

    Raises:
        Unavailable: They are not installed (code `media_extra_missing`).
    """
    try:
        import av  # noqa: F401 - an extra: the control plane works without it
    except ImportError:
        raise Unavailable(
            "The audio has to be converted, and the library for it is not installed with the control plane.",
            code="media_extra_missing",
            hint=install_hint("agentfield-server", "media"),
        ) from None


class _SampleCutter:
    """Cuts pieces at sample boundaries; keeps an incomplete sample for the next piece."""

    def __init__(self, audio: AudioFormat) -> None:
        self._size = audio.frame
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        if self._rest:
            data, self._rest = self._rest + data, b""
        over = len(data) % self._size
        if over:
            data, self._rest = data[:-over], data[-over:]
        return data


class _Passthrough(_SampleCutter):
    """Passes audio through unchanged, in whole samples."""

    def flush(self) -> bytes:
        """Return nothing: at most an incomplete sample is left, which is dropped."""
        return b""


class _Pipeline:
    """Decodes, resamples and encodes, each step only where the formats differ."""

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        from av import AudioFrame

        self._make = AudioFrame
        self._last: AudioFrame | None = None
        self._source = source
        self._target = target
        self._whole = _SampleCutter(source)
        self._decoder = _codec(source, "r")
        self._encoder = _codec(target, "w")
        self._resampler = None if source.rate == target.rate else _Resampler(source.rate, target.rate)

    def __call__(self, data: bytes) -> bytes:
        data = self._whole(data)
        if not data:
            return b""
        pieces: list[bytes] = []
        for frame in self._decoded(data):
            for each in [frame] if self._resampler is None else self._resampler(frame):
                pieces.append(self._encoded(each))  # noqa: PERF401 - `extend` would cost one more call for each piece
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def flush(self) -> bytes:
        """Return the samples that the resampler still holds; the next piece begins a new stream."""
        if self._resampler is None:
            return b""
        held = b"".join(self._encoded(frame) for frame in self._resampler.flush())
        self._resampler = _Resampler(self._source.rate, self._target.rate)
        return held

    def _decoded(self, data: bytes) -> list[AudioFrame]:
        if self._decoder is None:
            return [self._frame(data)]
        from av import Packet

        frames = self._decoder.decode(Packet(data))
        for frame in frames:
            frame.pts = None
        return frames

    def _frame(self, data: bytes) -> AudioFrame:
        """Return a frame with these samples; reuse the last frame if it fits, as creating one costs as much as resampling."""
        frame = self._last
        if frame is not None and frame.samples == len(data) // 2:
            frame.make_writable()  # reallocates, possibly with padding, if the library still references the old samples
            plane = frame.planes[0]
            if plane.buffer_size == len(data):
                plane.update(data)
                return frame
        frame = self._last = self._make(format="s16", layout="mono", samples=len(data) // 2)
        frame.sample_rate = self._source.rate
        frame.planes[0].update(data)
        return frame

    def _encoded(self, frame: AudioFrame) -> bytes:
        if self._encoder is None:
            return _samples(frame)
        frame.pts = None
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))


class _Resampler:
    """One stream through FFmpeg's resampler, as a filter graph.

    PyAV's `AudioResampler` pulls after every piece until an exception, which costs more than resampling 20 ms.
    """

    def __init__(self, source: int, target: int) -> None:
        from av.filter import Graph

        self._graph = Graph()  # owns the filters below
        self._graph.threads = 1  # by default it starts one thread for each processor, without use for them
        begin = self._graph.add("abuffer", sample_rate=str(source), sample_fmt="s16", channel_layout="mono")
        resample = self._graph.add("aresample", f"out_sample_rate={target}:out_sample_fmt=s16:out_chlayout=mono")
        end = self._graph.add("abuffersink")
        begin.link_to(resample)
        resample.link_to(end)
        self._graph.configure()
        self._push, self._next = begin.push, end.pull
        self._used = False

    def __call__(self, frame: AudioFrame) -> list[AudioFrame]:
        """Return the output of one frame: at most one frame."""
        self._used = True
        self._push(frame)
        return self._pull()

    def flush(self) -> list[AudioFrame]:
        """Return the remaining frames and end the stream."""
        if not self._used:
            return []
        self._push(None)
        held: list[AudioFrame] = []
        while more := self._pull():
            held += more
        return held

    def _pull(self) -> list[AudioFrame]:
        try:
            return [cast("AudioFrame", self._next())]
        except (BlockingIOError, EOFError):
            return []


def _samples(frame: AudioFrame) -> bytes:
    # the buffer of a plane may be longer than its samples
    return bytes(frame.planes[0])[: frame.samples * 2]


def _codec(audio: AudioFormat, mode: str) -> AudioCodecContext | None:
    """Return FFmpeg's G.711, None for linear samples."""
    name = _CODECS.get(audio.codec)
    if name is None:
        return None
    from av import AudioCodecContext, CodecContext

    context = CodecContext.create(name, "r" if mode == "r" else "w")
    if not isinstance(context, AudioCodecContext):
        raise Unavailable(f"The library for audio has no {name}.", code="media_extra_missing")
    context.sample_rate = audio.rate
    context.layout = "mono"
    if mode == "w":
        context.time_base = Fraction(1, audio.rate)
        context.format = "s16"
    return context
