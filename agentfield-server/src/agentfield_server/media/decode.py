"""Decoding of recorded turns: a recording in any format that browsers and recorders write, to plain samples.

PyAV (FFmpeg's libraries) decodes. The sender names the format; only the demuxer of that format and its decoders are
enabled, so that data cannot make FFmpeg open a playlist, a file or a URL.
"""

from __future__ import annotations

import io
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any

from agentfield.errors import InvalidInput, LimitExceeded, Unavailable
from agentfield.plugins.install import install_hint

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

__all__ = ["ACCEPTED", "MAX_BYTES", "MAX_SECONDS", "audible", "decode", "media_kind", "too_large"]

MAX_BYTES = 25 * 1024 * 1024
"""Maximum bytes of a recorded turn."""

MAX_SECONDS = 600.0
"""Maximum seconds of a recorded turn."""

ACCEPTED = "audio/wav, audio/webm, audio/ogg, audio/mpeg, audio/mp4, audio/flac, audio/pcm;rate=24000"
"""Accepted media types, for messages."""

_MAX_CHANNELS = 8
_RATES = range(8_000, 192_001)
_SLICE = 4096
_SILENT = 16
"""Largest sample of a silent recording: 66 dB below full scale."""


@dataclass(frozen=True, slots=True)
class _Container:
    """A container format and its allowed decoders, by FFmpeg's names."""

    demuxer: str
    decoders: frozenset[str]


_OPUS = frozenset({"opus", "libopus", "vorbis", "libvorbis"})
_WAVE = _Container(
    "wav",
    frozenset({"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_mulaw", "pcm_alaw"}),
)
_WEBM = _Container("matroska", _OPUS)
_OGG = _Container("ogg", _OPUS | {"flac"})
_MP3 = _Container("mp3", frozenset({"mp3", "mp3float"}))
_MP4 = _Container("mov", frozenset({"aac", "alac", "opus", "libopus", "mp3", "mp3float", "flac"}))
_FLAC = _Container("flac", frozenset({"flac"}))
_KINDS = {
    "audio/wav": _WAVE,
    "audio/x-wav": _WAVE,
    "audio/wave": _WAVE,
    "audio/vnd.wave": _WAVE,
    "audio/webm": _WEBM,
    "video/webm": _WEBM,
    "audio/ogg": _OGG,
    "application/ogg": _OGG,
    "audio/opus": _OGG,
    "audio/mpeg": _MP3,
    "audio/mp3": _MP3,
    "audio/mp4": _MP4,
    "audio/x-m4a": _MP4,
    "audio/m4a": _MP4,
    "video/mp4": _MP4,
    "audio/flac": _FLAC,
    "audio/x-flac": _FLAC,
}
_PCM = frozenset({"audio/pcm", "audio/l16"})


def media_kind(media_type: str) -> tuple[str, dict[str, str]]:
    """Return a supported media type in lower case and its parameters (RFC 9110 §8.3.1).

    Args:
        media_type: The value of a Content-Type header.

    Raises:
        InvalidInput: It is not supported (code `unsupported_audio`, status 415).
    """
    header = Message()
    header["content-type"] = media_type
    kind = header.get_content_type()
    if kind not in _KINDS and kind not in _PCM:
        name = media_type.split(";", maxsplit=1)[0].strip()[:100]
        raise _unsupported(f"A recorded turn cannot be {name or 'without a media type'}.")
    return kind, {name.lower(): value for name, value in (header.get_params() or [])[1:]}


def decode(data: bytes, media_type: str, rate: int, *, max_seconds: float = MAX_SECONDS) -> bytes:
    """Return a recording as 16-bit little-endian mono samples; blocking and slow, so call it in a thread.

    Args:
        data: The recording.
        media_type: Its media type as the sender names it; raw samples are ``audio/pcm;rate=24000;channels=1``.
        rate: Sample rate of the result, Hz.
        max_seconds: Maximum duration of the recording, seconds.

    Raises:
        InvalidInput: The media type is not supported (code `unsupported_audio`, status 415), the data is not of that
            type (`invalid_audio`), or there is no audio (`empty_turn`).
        LimitExceeded: It is longer than `max_seconds` (`turn_too_long`) or has too many bytes (`body_too_large`).
        Unavailable: PyAV is not installed (`media_extra_missing`).
    """
    kind, parameters = media_kind(media_type)
    if len(data) > MAX_BYTES:
        raise too_large()
    if not data:
        raise _empty("The recording has no bytes.")
    if kind in _PCM:
        samples = _decode_pcm(data, parameters, rate, max_seconds)
    else:
        samples = _decode_container(data, kind, _KINDS[kind], rate, max_seconds)
    if not samples:
        raise _empty("The recording has no samples.")
    return samples


def audible(samples: bytes) -> bool:
    """Return whether 16-bit little-endian samples contain sound: any sample above -66 dB full scale."""
    for start in range(0, len(samples), _SLICE):
        part = array("h", samples[start : start + _SLICE])
        if sys.byteorder == "big":
            part.byteswap()
        if max(part) > _SILENT or min(part) < -_SILENT:
            return True
    return False


def too_large() -> LimitExceeded:
    """Return the error for a recording with too many bytes."""
    error = LimitExceeded(
        f"A recorded turn has at most {MAX_BYTES // 1024 // 1024} MB.",
        code="body_too_large",
        hint="send it compressed (audio/webm), or in several turns",
    )
    error.status = 413
    return error


def _decode_pcm(data: bytes, parameters: dict[str, str], rate: int, max_seconds: float) -> bytes:
    given = _number(parameters, "rate", 24_000, _RATES)
    channels = _number(parameters, "channels", 1, range(1, _MAX_CHANNELS + 1))
    if len(data) % (2 * channels):
        raise InvalidInput(
            f"{len(data)} bytes are no whole number of 16-bit samples of {channels} channel(s).",
            code="invalid_audio",
            hint="send 16-bit little-endian samples, and name their rate: audio/pcm;rate=24000",
        )
    _check_length(len(data) / (2 * channels * given), max_seconds)
    if channels == 1 and given == rate:
        return data
    av = _av()
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    out = bytearray()
    layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    step = given * channels * 2
    for start in range(0, len(data), step):
        part = data[start : start + step]
        frame = av.AudioFrame(format="s16", layout=layout, samples=len(part) // (2 * channels))
        frame.sample_rate = given
        frame.planes[0].update(part)
        _append_samples(out, resampler.resample(frame))
    _append_samples(out, resampler.resample(None))
    return bytes(out)


def _decode_container(data: bytes, name: str, kind: _Container, rate: int, max_seconds: float) -> bytes:
    av = _av()
    options = {"protocol_whitelist": "", "codec_whitelist": ",".join(sorted(kind.decoders)), "enable_drefs": "0"}
    try:
        with av.open(io.BytesIO(data), mode="r", format=kind.demuxer, options=options) as container:
            stream = _audio_stream(container, kind, name)
            return _resampled(av, container, stream, rate, max_seconds)
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(
            f"The recording is not {name} that can be decoded: {why}.",
            code="invalid_audio",
            hint=f"name what you send in Content-Type: {ACCEPTED}",
        ) from None


def _audio_stream(container: InputContainer, kind: _Container, name: str) -> AudioStream:
    if not container.streams.audio:
        raise InvalidInput(f"There is no audio in this {name}.", code="invalid_audio", hint=f"send {ACCEPTED}")
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None:  # the library does not know the codec that the recording names
        raise _unsupported(f"What is inside this {name} cannot be decoded.")
    if context.name not in kind.decoders:
        raise _unsupported(f"{name} with {context.name} inside cannot be decoded.")
    if not context.channels or not context.sample_rate:
        raise ValueError("it says neither how many channels nor which rate it has")
    if not 1 <= context.channels <= _MAX_CHANNELS or context.sample_rate not in _RATES:
        raise _unsupported(f"{context.channels} channels at {context.sample_rate} Hz cannot be decoded.")
    return stream


def _resampled(av: Any, container: InputContainer, stream: AudioStream, rate: int, max_seconds: float) -> bytes:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    out = bytearray()
    seconds = 0.0
    for frame in _frames(av, container, stream):
        seconds += frame.samples / (frame.sample_rate or rate)
        _check_length(seconds, max_seconds)
        _append_samples(out, resampler.resample(frame))
    if seconds:
        _append_samples(out, resampler.resample(None))
    return bytes(out)


def _frames(av: Any, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Yield frames packet by packet; skip a damaged packet between good ones, as players do."""
    good = bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            if bad > 4 + good // 10:
                raise
            continue
        good += 1
        yield from frames
    if bad and good <= 1:
        raise ValueError("nothing in it could be decoded")


def _append_samples(out: bytearray, frames: list[AudioFrame]) -> None:
    for frame in frames:
        # the buffer of a plane is padded beyond its samples
        out += memoryview(frame.planes[0])[: frame.samples * 2]


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        error = LimitExceeded(
            f"A recorded turn lasts at most {max_seconds:g} s.",
            code="turn_too_long",
            hint="send what was said in several turns",
        )
        error.status = 413
        raise error


def _number(parameters: dict[str, str], name: str, default: int, allowed: range) -> int:
    value = parameters.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and int(value) in allowed):
        raise InvalidInput(
            f"{name} of raw samples is a whole number from {allowed[0]} to {allowed[-1]}.",
            code="invalid_audio",
            hint="audio/pcm;rate=24000",
            field=name,
        )
    return int(value)


def _av() -> Any:
    try:
        import av
        import av.error
    except ImportError:
        raise Unavailable(
            "Recorded turns cannot be decoded here: PyAV is not installed.",
            code="media_extra_missing",
            hint=install_hint("agentfield-server", "media"),
        ) from None
    return av


def _unsupported(message: str) -> InvalidInput:
    error = InvalidInput(message, code="unsupported_audio", hint=f"send one of {ACCEPTED}")
    error.status = 415
    return error


def _empty(message: str) -> InvalidInput:
    return InvalidInput(message, code="empty_turn", hint="record while the caller speaks, then send the recording")
