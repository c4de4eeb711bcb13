"""Converts audio between two formats as it streams: resampling and G.711, by FFmpeg's libraries."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from agentfield.errors import InvalidInput, Unavailable
from agentfield.plugins.install import install_hint
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import Converter

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler
    from av.audio.codeccontext import AudioCodecContext

__all__ = ["converter", "require_media"]

_CODECS = {"pcmu": "pcm_mulaw", "pcma": "pcm_alaw"}


def converter(source: AudioFormat, target: AudioFormat) -> Converter:
    """Return what turns audio of one format into another, a piece at a time; each stream needs one of its own.

    Args:
        source: The format that goes in; pieces of any length, half a sample waits for its other half.
        target: The format that comes out.

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
        return _Same(source)
    require_media()
    return _Chain(source, target)


def require_media() -> None:
    """Refuse when FFmpeg's libraries are not installed.

    Raises:
        Unavailable: They are not (code `media_extra_missing`).
    """
    try:
        import av  # noqa: F401 - an extra: the control plane works without it
    except ImportError:
        raise Unavailable(
            "The audio has to be converted, and the library for it is not installed with the control plane.",
            code="media_extra_missing",
            hint=install_hint("agentfield-server", "media"),
        ) from None


class _Whole:
    """Keeps the half of a sample that came without its other half."""

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


class _Same:
    """Passes audio on as it came."""

    def __init__(self, audio: AudioFormat) -> None:
        self._whole = _Whole(audio)

    def __call__(self, data: bytes) -> bytes:
        return self._whole(data)

    def flush(self) -> bytes:
        """Return nothing: nothing is kept but half a sample, which cannot be heard."""
        return b""


class _Chain:
    """Decodes, resamples and encodes, each only where the formats ask for it."""

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        from av import AudioResampler

        self._source = source
        self._target = target
        self._whole = _Whole(source)
        self._decoder = _codec(source, "r")
        self._encoder = _codec(target, "w")
        self._resampler: AudioResampler | None = None
        if source.rate != target.rate:
            self._resampler = AudioResampler(format="s16", layout="mono", rate=target.rate)

    def __call__(self, data: bytes) -> bytes:
        data = self._whole(data)
        if not data:
            return b""
        return b"".join(self._encoded(frame) for each in self._decoded(data) for frame in self._resampled(each))

    def flush(self) -> bytes:
        """Return what the resampler still holds; the next piece begins a new stream."""
        if self._resampler is None:
            return b""
        from av import AudioResampler

        held = b"".join(self._encoded(frame) for frame in self._resampler.resample(None))
        self._resampler = AudioResampler(format="s16", layout="mono", rate=self._target.rate)
        return held

    def _decoded(self, data: bytes) -> list[AudioFrame]:
        if self._decoder is None:
            return [_frame(data, self._source.rate)]
        from av import Packet

        frames = self._decoder.decode(Packet(data))
        for frame in frames:
            frame.pts = None
        return frames

    def _resampled(self, frame: AudioFrame) -> list[AudioFrame]:
        return [frame] if self._resampler is None else self._resampler.resample(frame)

    def _encoded(self, frame: AudioFrame) -> bytes:
        if self._encoder is None:
            # a plane may be longer than its samples
            return bytes(frame.planes[0])[: frame.samples * 2]
        frame.pts = None
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))


def _frame(data: bytes, rate: int) -> AudioFrame:
    from av import AudioFrame

    frame = AudioFrame(format="s16", layout="mono", samples=len(data) // 2)
    frame.sample_rate = rate
    frame.planes[0].update(data)
    return frame


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
