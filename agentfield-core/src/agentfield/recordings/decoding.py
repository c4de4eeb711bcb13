"""Decoding of recordings: whatever FFmpeg's libraries can decode within the limits, as 16-bit samples of one channel.

The content decides what a recording is; a media type matters only for raw samples, which nothing marks. FFmpeg may use
only the container formats of `_DEMUXERS`, which refer to no other file or address, and only decoders of audio.
"""

from __future__ import annotations

import io
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from agentfield.errors import Unavailable
from agentfield.plugins.install import install_hint
from agentfield.recordings.formats import MAX_BYTES, MAX_SECONDS, RefusedRecording, check_media_type
from agentfield.recordings.mixing import Mixer

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

__all__ = ["decode_recording", "recording_rate"]

_PCM = frozenset({"audio/pcm", "audio/l16"})
_RAW = {
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
    "audio/g722": "g722",
    "audio/gsm": "gsm",
    "audio/x-gsm": "gsm",
}
"""Demuxers of formats without a header, by media type."""

_DEMUXERS = (
    "wav,w64,aiff,au,caf,voc,sox,ircam,nistsphere,avr,paf,pvf,qcp,"  # samples and their simple codings
    "aac,loas,latm,ac3,eac3,ac4,dts,dtshd,mp3,flac,ape,wv,tta,tak,mpc,mpc8,shn,truehd,mlp,dsf,iff,oma,"
    "amr,amrnb,amrwb,gsm,g722,g726,g729,g723_1,ilbc,sbc,dss,codec2,act,mulaw,alaw,"  # telephones and dictation
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,asf,asf_o,avi,flv,mpeg,mpegts,rm,nut,wtv,mxf,amv,xwma"
)
_MAX_CHANNELS = 8
_RATES = range(4_000, 384_001)
_PCM_RATES = range(8_000, 192_001)
_MAX_FRAME = 1 << 20
"""Most samples of one decoded frame: decoders reserve memory for what a header claims."""
_MAX_WORK = 30.0
"""Seconds of processor time of one decoding: a small file may claim hours of work."""
_MAX_TABLE = 1_000_000
"""Most packets that a table of an MP4 may claim without listing them; ten minutes have 240,000 at most."""
_TABLES = re.compile(
    rb"\0...(?:stsz....(?P<size>.{4})(?P<packets>.{4})|trun.(?P<flags>.{3})(?P<samples>.{4}))", re.DOTALL
)


def decode_recording(
    source: bytes | BinaryIO, rate: int, *, media_type: str = "", max_seconds: float = MAX_SECONDS
) -> bytes:
    """Return a recording as 16-bit little-endian mono samples; blocking and slow, so call it in a thread.

    Args:
        source: The recording, or a seekable file that holds it.
        rate: Sample rate of the result, Hz.
        media_type: Its media type if the sender names one. Raw samples are ``audio/pcm;rate=24000;channels=1``.
        max_seconds: Maximum duration of the recording, seconds.

    Raises:
        RefusedRecording: It is not decoded, damaged, empty, or beyond a limit.
        Unavailable: PyAV is not installed (`media_extra_missing`).
    """
    kind, parameters = check_media_type(media_type)
    if kind in _PCM:
        data = source if isinstance(source, bytes) else source.read(MAX_BYTES + 1)
        samples = _decode_pcm(data, parameters, rate, max_seconds)
    else:
        if isinstance(source, bytes):
            _check_tables(source)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        samples = _decode_container(_Source(file), _RAW.get(kind), rate, max_seconds)
    if not samples:
        raise RefusedRecording("empty", "it has no samples")
    return samples


def recording_rate(source: BinaryIO, *, media_type: str = "") -> int:
    """Return the sample rate of a recording, as `decode_recording` reads it.

    Raises:
        RefusedRecording: It is damaged, or its format is not decoded.
        Unavailable: PyAV is not installed (`media_extra_missing`).
    """
    kind, parameters = check_media_type(media_type)
    if kind in _PCM:
        return _number(parameters, "rate", 24_000, _PCM_RATES)
    with _opened(_Source(source), _RAW.get(kind)) as (_, stream):
        return int(stream.sample_rate)


class _Source:
    """A recording as FFmpeg reads it; the reads end when the decoding has used its processor time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._until = time.thread_time() + _MAX_WORK

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self.check_work()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def empty(self) -> bool:
        """Return whether there are no bytes at all."""
        first = self._file.read(1)
        self._file.seek(0)
        return not first

    def check_work(self) -> None:
        """Raise if the processor time is used up."""
        if time.thread_time() > self._until:
            raise RefusedRecording("too_costly", f"decoding it takes more than {_MAX_WORK:g} s of processor time")


def _decode_pcm(data: bytes, parameters: dict[str, str], rate: int, max_seconds: float) -> bytes:
    given = _number(parameters, "rate", 24_000, _PCM_RATES)
    channels = _number(parameters, "channels", 1, range(1, _MAX_CHANNELS + 1))
    if len(data) % (2 * channels):
        raise RefusedRecording(
            "invalid", f"{len(data)} bytes are no whole number of 16-bit samples of {channels} channel(s)"
        )
    _check_length(len(data) / (2 * channels * given), max_seconds)
    if channels == 1 and given == rate:
        return data
    av = _av()
    mixer = Mixer(rate)
    layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    step = given * channels * 2
    for start in range(0, len(data), step):
        part = data[start : start + step]
        frame = av.AudioFrame(format="s16", layout=layout, samples=len(part) // (2 * channels))
        frame.sample_rate = given
        frame.planes[0].update(part)
        mixer.feed(frame)
    return mixer.end()


def _decode_container(source: _Source, demuxer: str | None, rate: int, max_seconds: float) -> bytes:
    with _opened(source, demuxer) as (container, stream):
        mixer = Mixer(rate)
        seconds = 0.0
        for frame in _frames(source, container, stream):
            seconds += frame.samples / (frame.sample_rate or rate)
            _check_length(seconds, max_seconds)
            mixer.feed(frame)
        return mixer.end()


@contextmanager
def _opened(source: _Source, demuxer: str | None) -> Iterator[tuple[InputContainer, AudioStream]]:
    """Open a recording; an error of the library in the block becomes a refusal."""
    av = _av()
    if source.empty():
        raise RefusedRecording("empty", "it has no bytes")
    options = {"protocol_whitelist": "", "format_whitelist": _DEMUXERS, "codec_whitelist": _decoders(av)}
    try:
        with _open(av, source, format=demuxer, options=options) as container:
            yield container, _audio_stream(container)
    except (av.FFmpegError, ValueError, ArithmeticError, MemoryError) as error:
        raise RefusedRecording("invalid", _why(av, error)) from error


def _audio_stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise RefusedRecording("invalid", "it has no audio")
    stream = container.streams.audio[0]
    context = stream.codec_context
    if context is None:  # the library does not know the codec that the recording names
        raise RefusedRecording("unsupported", f"its audio in {container.format.name} has an unknown coding")
    if not context.channels or not context.sample_rate:
        raise ValueError("it says neither how many channels nor which rate it has")
    if not 1 <= context.channels <= _MAX_CHANNELS or context.sample_rate not in _RATES:
        raise RefusedRecording(
            "unsupported", f"{context.channels} channels at {context.sample_rate} Hz are not decoded"
        )
    context.options = {"max_samples": str(_MAX_FRAME)}
    return stream


def _frames(source: _Source, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Yield frames packet by packet; skip a damaged packet between good ones, as players do."""
    from av.error import InvalidDataError

    good = bad = 0
    for packet in _packets(container, stream):
        source.check_work()
        try:
            frames = packet.decode()
        except InvalidDataError:
            bad += 1
            if bad > 4 + good // 10:
                raise
            continue
        good += 1
        yield from frames
    if bad and good <= 1:
        raise ValueError("nothing in it could be decoded")


def _packets(container: InputContainer, stream: AudioStream) -> Iterator[Any]:
    """Yield the packets up to the end, or up to where a recording that was cut off cannot be read further."""
    from av.error import EOFError as EndOfFile
    from av.error import InvalidDataError

    read = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (InvalidDataError, EndOfFile):
            if not read:
                raise
            return
        if packet is None:
            return
        read += 1
        yield packet


def _check_tables(data: bytes) -> None:
    """Refuse an MP4 whose tables claim packets without bytes of their own: FFmpeg reserves 40 bytes for each of them."""
    if b"moov" not in data:
        return
    for table in _TABLES.finditer(data):
        listed = table["packets"] is not None and not any(table["size"])
        listed = listed or (table["flags"] is not None and bool(table["flags"][1] & 0x0F))
        claimed = int.from_bytes(table["packets"] or table["samples"], "big")
        # samples without a coding are packets of one sample each, and FFmpeg joins them
        joined = struct.pack(">4s4xIII", b"stts", 1, claimed, 1) in data
        if claimed > _MAX_TABLE and not listed and not joined:
            raise RefusedRecording("too_costly", f"it claims {claimed} packets")


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise RefusedRecording("too_long", f"it is longer than {max_seconds:g} s")


def _number(parameters: dict[str, str], name: str, default: int, allowed: range) -> int:
    value = parameters.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and int(value) in allowed):
        raise RefusedRecording("invalid", f"{name} of raw samples is a whole number from {allowed[0]} to {allowed[-1]}")
    return int(value)


def _why(av: Any, error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError | av.error.EOFError | av.error.ArgumentError):
        return "it is not audio, or its header is cut off"
    return str(getattr(error, "strerror", None) or error or "it cannot be decoded")


def _decoders(av: Any) -> str:
    """Return the names of all decoders of audio: a decoder of pictures must not run for the cover of a song."""
    names = []
    for name in av.codecs_available:
        try:
            codec = av.codec.Codec(name, "r")
        except ValueError:  # an encoder only
            continue
        if codec.type == "audio":
            names.append(name)
    return ",".join(sorted(names))


def _open(av: Any, source: _Source, **arguments: Any) -> Any:
    """Open a recording whatever encoding its tags have: they are not read, but PyAV decodes them."""
    try:
        return av.open(source, mode="r", metadata_errors="replace", **arguments)
    except TypeError:  # later versions of PyAV have no such argument: undecodable bytes become surrogates
        return av.open(source, mode="r", **arguments)


def _av() -> Any:
    try:
        import av
        import av.codec
        import av.error
    except ImportError:
        raise Unavailable(
            "Recordings cannot be decoded here: PyAV is not installed.",
            code="media_extra_missing",
            hint=install_hint("agentfield-core", "media"),
        ) from None
    return av
