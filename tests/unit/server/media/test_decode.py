"""Decoding of recorded turns: every format that callers send, and refusals of everything else."""

from __future__ import annotations

import array
import itertools
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfield.errors import AgentFieldError, InvalidInput, LimitExceeded, Unavailable
from agentfield.recordings import audible
from agentfield_server.media.decode import decode
from support.audio import tone, wav
from support.recordings import recording

SECONDS = 0.5
FORMATS = [
    ("audio/wav", "wav", "pcm_s16le"),
    ("audio/wav", "wav", "pcm_s24le"),
    ("audio/wav", "wav", "pcm_mulaw"),
    ("audio/webm;codecs=opus", "webm", "libopus"),
    ("audio/ogg", "ogg", "libopus"),
    ("audio/mpeg", "mp3", "libmp3lame"),
    ("audio/mp4", "mp4", "aac"),
    ("audio/flac", "flac", "flac"),
]


def frequency(samples: bytes, rate: int) -> float:
    """Return the upward zero crossings of a tone per second."""
    values = array.array("h", samples)
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    rises = sum(1 for a, b in itertools.pairwise(middle) if a < 0 <= b)
    return rises * rate / len(middle)


@pytest.mark.parametrize(("media_type", "container", "codec"), FORMATS)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_each_format_is_decoded(media_type: str, container: str, codec: str, layout: str, rate: int) -> None:
    """A tone is decoded as the same tone, with its length, at the requested rate."""
    samples = decode(recording(container, codec, layout=layout), media_type, rate)
    assert len(samples) / 2 / rate == pytest.approx(SECONDS, abs=0.06)
    assert frequency(samples, rate) == pytest.approx(440, rel=0.03)


@pytest.mark.parametrize("given_rate", [8000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_raw_samples_need_a_rate(given_rate: int, channels: int) -> None:
    """Raw samples declare rate and channels; at the requested rate they are passed on unchanged."""
    one = array.array("h", tone(round(SECONDS * 1000), given_rate, 440))
    raw = array.array("h", (value for value in one for _ in range(channels))).tobytes()
    samples = decode(raw, f"audio/pcm;rate={given_rate};channels={channels}", 24_000)
    assert len(samples) / 48_000 == pytest.approx(SECONDS, abs=0.01)
    assert frequency(samples, 24_000) == pytest.approx(440, rel=0.03)
    if (given_rate, channels) == (24_000, 1):
        assert samples == raw


@pytest.mark.parametrize(("media_type", "container", "codec"), FORMATS[3:])
def test_a_truncated_recording_is_decoded_as_far_as_it_goes(media_type: str, container: str, codec: str) -> None:
    """A page closed while recording sends half a file; only MP4 needs its end."""
    half = recording(container, codec, seconds=3.0)
    half = half[: len(half) // 2]
    if container == "mp4":
        assert _refused(half, media_type).code == "invalid_audio"
    else:
        assert 0 < len(decode(half, media_type, 24_000)) / 48_000 < 3.0


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:1/</BaseURL></MPD>",
    ],
    ids=["hls", "concat", "dash"],
)
@pytest.mark.parametrize("named", ["audio/wav", "audio/webm", "audio/ogg", "audio/mpeg", "audio/mp4", "audio/flac"])
def test_a_playlist_is_refused(data: bytes, named: str) -> None:
    """A file that only refers to other files is damaged audio, whatever its media type."""
    assert _refused(data, named).code == "invalid_audio"


@pytest.mark.parametrize("media_type", ["text/plain", "audio/x-mpegurl", "application/json", "audio"])
def test_unknown_media_types_are_refused(media_type: str) -> None:
    """A type that cannot be decoded is refused by name, with the list of known types."""
    error = _refused(wav(tone(100)), media_type)
    assert (error.code, error.status) == ("unsupported_audio", 415)
    assert "WebM" in (error.hint or "")


@pytest.mark.parametrize(
    ("data", "media_type", "code"),
    [
        (b"", "audio/webm", "empty_turn"),
        (wav(b""), "audio/wav", "empty_turn"),
        (b"123", "audio/pcm", "invalid_audio"),
        (b"1234" * 3, "audio/pcm;channels=4", "invalid_audio"),
        (b"12", "audio/pcm;rate=1", "invalid_audio"),
        (b"12", "audio/pcm;rate=2e4", "invalid_audio"),
        (b"12", "audio/pcm;channels=99", "invalid_audio"),
        (wav(tone(100), rate=2000), "audio/wav", "unsupported_audio"),
        (wav(bytes(2 * 9 * 100), channels=9), "audio/wav", "unsupported_audio"),
    ],
)
def test_invalid_recordings_are_refused(data: bytes, media_type: str, code: str) -> None:
    """Empty data, half samples, unusual rates and too many channels have a code each."""
    assert _refused(data, media_type).code == code


@pytest.mark.parametrize("media_type", ["audio/pcm;rate=24000", "audio/wav", "audio/flac"])
def test_a_turn_has_a_maximum_duration(media_type: str) -> None:
    """A longer recording is refused while it is decoded, however small the file is."""
    data = {
        "audio/pcm;rate=24000": tone(1100),
        "audio/wav": wav(tone(1100)),
        "audio/flac": recording("flac", "flac", seconds=1.1),
    }[media_type]
    with pytest.raises(LimitExceeded) as caught:
        decode(data, media_type, 24_000, max_seconds=1.0)
    assert (caught.value.code, caught.value.status) == ("turn_too_long", 413)
    assert decode(data, media_type, 24_000, max_seconds=1.2)


def test_silence_is_distinguished_from_sound() -> None:
    """Digital silence and rounding noise count as silence; a quiet voice does not."""
    assert not audible(b"")
    assert not audible(bytes(48_000))
    assert not audible(array.array("h", [3, -3] * 5000).tobytes())
    assert audible(bytes(48_000) + array.array("h", [0, -200]).tobytes())
    assert _refused(wav(bytes(4800)), "audio/wav").code == "empty_turn"


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs the extra."""
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Unavailable) as caught:
        decode(wav(tone(100)), "audio/wav", 24_000)
    assert caught.value.code == "media_extra_missing"
    assert caught.value.hint


@settings(max_examples=150, deadline=None)
@given(
    which=st.sampled_from(FORMATS),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=12),
)
@example(which=("audio/wav", "wav", "pcm_mulaw"), cut=1.0, flips=[(0.0234375, 0)])  # no codec has this number
def test_damaged_recordings_are_decoded_or_refused(
    which: tuple[str, str, str], cut: float, flips: list[tuple[float, int]]
) -> None:
    """Whatever damage a recording has, the result is samples or a typed refusal."""
    media_type, container, codec = which
    data = bytearray(recording(container, codec, seconds=0.1))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        samples = decode(bytes(data[: int(cut * len(data))]), media_type, 24_000, max_seconds=10.0)
    except (InvalidInput, LimitExceeded):
        return
    assert samples
    assert len(samples) % 2 == 0


def _refused(data: bytes, media_type: str) -> AgentFieldError:
    with pytest.raises(AgentFieldError) as caught:
        decode(data, media_type, 24_000)
    return caught.value
