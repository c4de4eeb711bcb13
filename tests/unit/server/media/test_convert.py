"""Conversion of audio between the formats of callers and providers."""

from __future__ import annotations

import itertools
import math
import random
import struct
import sys

import psutil
import pytest

from agentfield.errors import InvalidInput, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield_server.media.convert import converter

FORMATS = [AudioFormat("pcm16", rate) for rate in (8000, 16000, 24000, 48000)] + [
    AudioFormat("pcmu", 8000),
    AudioFormat("pcma", 8000),
]


def tone(rate: int, seconds: float = 0.5, pitch: float = 440.0) -> bytes:
    count = int(rate * seconds)
    return struct.pack(f"<{count}h", *(int(12000 * math.sin(2 * math.pi * pitch * n / rate)) for n in range(count)))


def samples(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 2}h", data))


def through(data: bytes, source: AudioFormat, target: AudioFormat, size: int) -> bytes:
    convert = converter(source, target)
    pieces = [convert(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(pieces) + convert.flush()


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)), ids=lambda f: f.name)
def test_a_tone_survives_in_length_loudness_and_pitch(source: AudioFormat, target: AudioFormat) -> None:
    """Every format converts to every other with the same length, loudness and pitch, in pieces of 20 ms."""
    plain = AudioFormat("pcm16", source.rate)
    given = through(tone(source.rate), plain, source, 4000)
    made = through(given, source, target, source.size(20))
    assert target.ms(len(made)) == pytest.approx(500, abs=3)
    heard = samples(through(made, target, AudioFormat("pcm16", target.rate), len(made)))
    middle = heard[len(heard) // 4 : -len(heard) // 4]
    assert max(middle) == pytest.approx(12000, rel=0.06)
    crossings = sum(1 for a, b in itertools.pairwise(middle) if a < 0 <= b)
    assert crossings == pytest.approx(440 * len(middle) / target.rate, abs=2)


@pytest.mark.parametrize("size", [1, 3, 7, 161, 999])
def test_chunk_boundaries_do_not_matter(size: int) -> None:
    """Half a sample waits for its other half: how the audio is split does not change the result."""
    data = tone(16000, 0.1)
    source, target = AudioFormat("pcm16", 16000), AudioFormat("pcm16", 24000)
    assert abs(len(through(data, source, target, size)) - len(through(data, source, target, len(data)))) <= 2
    assert through(data, source, source, size) == data


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)), ids=lambda f: f.name)
def test_reused_buffers_hold_no_old_audio(source: AudioFormat, target: AudioFormat) -> None:
    """Buffers that are reused for pieces of equal length give the same audio as one piece."""
    data = random.Random(1).randbytes(source.size(200))
    made, whole = through(data, source, target, source.size(20)), through(data, source, target, len(data))
    assert made[: len(whole)] == whole[: len(made)]
    assert abs(len(made) - len(whole)) <= 2 * target.frame


def test_equal_formats_are_not_copied() -> None:
    """Between equal formats the same object is returned."""
    data = tone(24000, 0.02)
    convert = converter(AudioFormat("pcm16", 24000), AudioFormat("pcm16", 24000))
    assert convert(data) is data
    assert convert.flush() == b""


def test_flush_starts_a_new_stream() -> None:
    """After a flush, the same input gives the same output again."""
    convert = converter(AudioFormat("pcm16", 8000), AudioFormat("pcm16", 24000))
    data = tone(8000, 0.1)
    assert convert(data) + convert.flush() == convert(data) + convert.flush()


def test_a_converter_starts_no_thread() -> None:
    """FFmpeg's graphs start a thread per processor by default; a hundred calls must not."""
    before = psutil.Process().num_threads()
    converters = [converter(AudioFormat("pcm16", 16000), AudioFormat("pcm16", 24000)) for _ in range(8)]
    for convert in converters:
        assert convert(tone(16000, 0.1))
    assert psutil.Process().num_threads() <= before


def test_opus_is_refused() -> None:
    """A format that cannot be converted is refused by name."""
    with pytest.raises(InvalidInput) as refused:
        converter(AudioFormat("opus", 48000), AudioFormat("pcm16", 24000))
    assert refused.value.code == "unsupported_format"


def test_without_the_library_only_equal_formats_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, conversion is refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "av", None)
    converter(AudioFormat("pcmu", 8000), AudioFormat("pcmu", 8000))
    with pytest.raises(Unavailable) as refused:
        converter(AudioFormat("pcmu", 8000), AudioFormat("pcm16", 24000))
    assert refused.value.code == "media_extra_missing"
    assert refused.value.hint
