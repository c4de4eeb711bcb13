"""File formats of exact speech and spoken completions: 24 kHz mono as mp3, opus, aac, flac, wav or pcm, streamable."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

import av
import numpy as np
from av import AudioFrame
from av.audio.stream import AudioStream

__all__ = ["CONTENT_TYPES", "FILE_RATE", "FileFormat", "encode_file", "encode_stream"]

FILE_RATE = 24_000
"""Samples per second of the files."""
FileFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
CONTENT_TYPES: dict[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""Content type of each format."""
_UNKNOWN_SIZE = 0xFFFFFFFF
_WAV_HEADER = 36
_FRAME_SAMPLES = FILE_RATE // 50


@dataclass(frozen=True, slots=True)
class _Codec:
    container: str
    name: str
    samples: str
    bit_rate: int = 0
    options: tuple[tuple[str, str], ...] = ()


# A stream cannot be sought: the mp3 header with the length is left out, and Ogg pages are short, so that playback can
# begin at once.
_CODECS = {
    "mp3": _Codec("mp3", "libmp3lame", "s16p", 64_000, (("write_xing", "0"),)),
    "opus": _Codec("ogg", "libopus", "s16", 32_000, (("page_duration", "100000"),)),
    "aac": _Codec("adts", "aac", "fltp", 64_000),
    "flac": _Codec("flac", "flac", "s16"),
}


class _Encoder(Protocol):
    def feed(self, pcm: bytes) -> bytes:
        """Return the bytes of the file that this piece of s16le completes."""

    def finish(self) -> bytes:
        """Return the end of the file."""


class _Plain:
    def __init__(self, header: bytes = b"") -> None:
        self._header = header

    def feed(self, pcm: bytes) -> bytes:
        header, self._header = self._header, b""
        return header + pcm

    def finish(self) -> bytes:
        return self.feed(b"")


class _Sink:
    """Destination of a muxer; without `seek` it writes the file front to back."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _Compressed:
    def __init__(self, codec: _Codec) -> None:
        self._sink = _Sink()
        self._container = av.open(
            self._sink, "w", format=codec.container, options={"flush_packets": "1", **dict(codec.options)}
        )
        stream = self._container.add_stream(codec.name, rate=FILE_RATE)
        if not isinstance(stream, AudioStream):
            raise TypeError(codec.name)
        stream.layout = "mono"
        stream.format = codec.samples
        if codec.bit_rate:
            stream.bit_rate = codec.bit_rate
        self._stream = stream
        self._samples = 0

    def feed(self, pcm: bytes) -> bytes:
        samples = np.frombuffer(pcm, "<i2")
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = FILE_RATE
        frame.pts = self._samples
        frame.time_base = Fraction(1, FILE_RATE)
        self._samples += samples.size
        self._container.mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        # A file without a frame has no header and cannot be decoded: a text without words is a moment of silence.
        head = b"" if self._samples else self.feed(b"\0" * (_FRAME_SAMPLES * 2))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return head + self._sink.take()


def encode_file(pcm: bytes, file_format: str) -> bytes:
    """Return a whole file; slow, so run it in a worker thread.

    Args:
        pcm: 24 kHz s16le mono.
        file_format: One of `FileFormat`.
    """
    encoder = _encoder(file_format, size=len(pcm))
    head = encoder.feed(pcm) if pcm else b""
    return head + encoder.finish()


async def encode_stream(pieces: AsyncIterator[bytes], file_format: str) -> AsyncIterator[bytes]:
    """Yield a file while its audio is produced.

    Args:
        pieces: 24 kHz s16le mono in pieces of whole samples.
        file_format: One of `FileFormat`.
    """
    encoder = _encoder(file_format)
    in_thread = file_format in _CODECS
    async for pcm in pieces:
        data = await asyncio.to_thread(encoder.feed, pcm) if in_thread else encoder.feed(pcm)
        if data:
            yield data
    rest = await asyncio.to_thread(encoder.finish) if in_thread else encoder.finish()
    if rest:
        yield rest


def _encoder(file_format: str, *, size: int | None = None) -> _Encoder:
    match file_format:
        case "pcm":
            return _Plain()
        case "wav":
            return _Plain(_wav_header(size))
        case _:
            return _Compressed(_CODECS[file_format])


def _wav_header(size: int | None) -> bytes:
    """Return the header of a WAV file; of a stream of unknown length all sizes are 0xFFFFFFFF."""
    whole, data = (_UNKNOWN_SIZE, _UNKNOWN_SIZE) if size is None else (_WAV_HEADER + size, size)
    body = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, FILE_RATE, FILE_RATE * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + body + struct.pack("<4sI", b"data", data)
