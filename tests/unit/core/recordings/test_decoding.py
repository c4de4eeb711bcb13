"""Recordings of every format that people's software writes, and refusals of everything else."""

from __future__ import annotations

import array
import io
import itertools
import struct
from typing import Any

import av
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfield.recordings import RefusedRecording, audible, check_media_type, decode_recording, recording_rate
from agentfield.recordings import decoding as decoder
from support.audio import tone, wav
from support.paths import RECORDING_FIXTURES
from support.recordings import recording

FORMATS = [
    ("wav", "pcm_s16le"),
    ("wav", "pcm_s24le"),
    ("wav", "pcm_f32le"),
    ("wav", "pcm_mulaw"),
    ("wav", "adpcm_ms"),
    ("wav", "adpcm_ima_wav"),
    ("w64", "pcm_s16le"),
    ("aiff", "pcm_s16be"),
    ("au", "pcm_s16be"),
    ("caf", "pcm_s16be"),
    ("caf", "alac"),
    ("webm", "libopus"),
    ("matroska", "pcm_f32le"),
    ("matroska", "aac"),
    ("ogg", "libopus"),
    ("ogg", "flac"),
    ("mp3", "libmp3lame"),
    ("mp2", "mp2"),
    ("mp4", "aac"),
    ("mp4", "alac"),
    ("mov", "pcm_s16le"),
    ("3gp", "libopencore_amrnb"),
    ("3gp", "aac"),
    ("amr", "libopencore_amrnb"),
    ("adts", "aac"),
    ("flac", "flac"),
    ("asf", "wmav2"),
    ("avi", "libmp3lame"),
    ("mpegts", "aac"),
    ("wv", "wavpack"),
]
FILES = sorted(path.name for path in RECORDING_FIXTURES.iterdir() if path.suffix != ".md")


def frequency(samples: bytes, rate: int) -> float:
    """Return the upward zero crossings of a tone per second."""
    values = array.array("h", samples)
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    crossings = sum(before < 0 <= after for before, after in itertools.pairwise(middle))
    return crossings * rate / len(middle)


def refused(data: bytes, media_type: str = "") -> RefusedRecording:
    """Return the refusal of a recording."""
    with pytest.raises(RefusedRecording) as caught:
        decode_recording(data, 16_000, media_type=media_type)
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_a_recording_of_other_software_is_heard(name: str) -> None:
    """Every fixture is decoded, with sound in it."""
    samples = decode_recording((RECORDING_FIXTURES / name).read_bytes(), 16_000)
    assert audible(samples)
    assert len(samples) / 32_000 > 1.8


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_a_format_is_decoded(container: str, codec: str) -> None:
    """A tone keeps its length and its pitch in every format."""
    samples = decode_recording(recording(container, codec), 16_000)
    assert len(samples) / 32_000 == pytest.approx(0.5, abs=0.12)
    assert frequency(samples, 16_000) == pytest.approx(440, rel=0.05)


@pytest.mark.parametrize("media_type", ["audio/wav", "audio/webm;codecs=pcm", "audio/mpga", "video/mp4", "audio/x", ""])
def test_the_content_decides(media_type: str) -> None:
    """People's software names its recordings wrongly: the same bytes are decoded whatever they are called."""
    assert decode_recording(recording("webm", "libopus"), 16_000, media_type=media_type)


@pytest.mark.parametrize("encoding", ["latin-1", "shift_jis"])
@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("mp4", "aac"), ("ogg", "libopus"), ("webm", "libopus"), ("flac", "flac")])  # fmt: skip
def test_tags_of_any_encoding_are_ignored(container: str, codec: str, encoding: str) -> None:
    """A title that is not UTF-8 does not matter."""
    title = {"latin-1": "Grüße für Zoë", "shift_jis": "音声メモ"}[encoding]
    data = recording(container, codec, tags={"title": title}, encoding=encoding)
    assert title.encode(encoding) in data
    assert decode_recording(data, 16_000)


def test_sides_in_opposite_phase_do_not_cancel() -> None:
    """A stereo recording whose sides cancel is heard; other stereo recordings are mixed."""
    values = array.array("h", tone(500, 16_000, 440))
    sides = array.array("h", [value for sample in values for value in (sample, -sample)]).tobytes()
    heard = decode_recording(wav(sides, 16_000, channels=2), 16_000)
    assert max(array.array("h", heard)) > 7000
    one_side = array.array("h", [value for sample in values for value in (sample, 0)]).tobytes()
    assert max(array.array("h", decode_recording(wav(one_side, 16_000, channels=2), 16_000))) > 3500
    raw = decode_recording(sides, 16_000, media_type="audio/pcm;rate=16000;channels=2")
    assert frequency(raw, 16_000) == pytest.approx(440, rel=0.03)


@pytest.mark.parametrize("channels", [3, 6, 8])
def test_many_channels_are_mixed(channels: int) -> None:
    """A recording of several microphones is heard, in whichever of them the voice is."""
    values = array.array("h", tone(300, 16_000, 440))
    for spoken in range(channels):
        frames = array.array("h")
        for sample in values:
            frames.extend(sample if channel == spoken else 0 for channel in range(channels))
        heard = decode_recording(wav(frames.tobytes(), 16_000, channels=channels), 16_000)
        assert audible(heard), spoken


@pytest.mark.parametrize("media_type", ["audio/pcmu", "audio/pcma", "audio/gsm", "audio/g722"])
def test_formats_without_a_header_are_named(media_type: str) -> None:
    """Raw telephone audio is decoded by its media type, a second of it at most."""
    assert decode_recording(bytes(range(33, 99)) * 120, 16_000, media_type=media_type)


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:1/</BaseURL></MPD>",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
        b";FFMETADATA1\ntitle=x\n",
    ],
    ids=["hls", "concat", "dash", "sdp", "ffmetadata"],
)
@pytest.mark.parametrize("named", ["", "audio/wav", "audio/webm", "audio/mp4"])
def test_a_playlist_is_refused(data: bytes, named: str) -> None:
    """A file that only refers to other files is no recording, whatever its media type."""
    assert refused(data, named).kind == "invalid"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/json", "audio/x-mpegurl", "multipart/form-data", "x"]
)
def test_other_media_types_are_refused(media_type: str) -> None:
    """A type that is no recording is refused by name."""
    if media_type == "x":  # malformed: RFC 2045 makes it text/plain
        assert refused(wav(tone(100)), media_type).kind == "unsupported"
        return
    assert refused(wav(tone(100)), media_type).reason == f"{media_type} is no media type of a recording"
    with pytest.raises(RefusedRecording):
        check_media_type(media_type)


@pytest.mark.parametrize(
    ("data", "media_type", "kind"),
    [
        (b"", "audio/webm", "empty"),
        (b"", "audio/pcm", "empty"),
        (wav(b""), "audio/wav", "empty"),
        (b"not a recording", "audio/webm", "invalid"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "audio/webm", "invalid"),
        (b"123", "audio/pcm", "invalid"),
        (b"12", "audio/pcm;rate=2e4", "invalid"),
        (b"12", "audio/pcm;channels=99", "invalid"),
        (wav(tone(100), rate=2000), "audio/wav", "unsupported"),
        (wav(bytes(2 * 9 * 100), channels=9), "audio/wav", "unsupported"),
        (wav(tone(601_000, 8000), 8000), "audio/wav", "too_long"),
    ],
)
def test_unusable_recordings_are_refused(data: bytes, media_type: str, kind: str) -> None:
    """Empty data, half samples, unusual rates and too many channels are told apart."""
    assert refused(data, media_type).kind == kind


def test_a_video_without_sound_is_refused() -> None:
    """A recording without audio says so."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream: Any = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        file.mux(stream.encode(None))
    assert refused(out.getvalue()).reason == "it has no audio"


def test_a_table_that_claims_more_than_it_lists_is_refused() -> None:
    """An MP4 of some kilobytes that claims millions of packets is refused before FFmpeg reserves memory for them."""
    data = bytearray(recording("mp4", "aac"))
    table = data.index(b"stsz")
    data[table + 8 : table + 16] = struct.pack(">II", 1, 100_000_000)
    table = data.index(b"stsc")
    data[table + 8 : table + 24] = struct.pack(">IIII", 1, 1, 100_000_000, 1)
    assert refused(bytes(data)).kind == "too_costly"


def test_the_work_of_a_decoding_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding ends when it has used its processor time."""
    data = recording("flac", "flac", seconds=30.0)
    monkeypatch.setattr(decoder, "_MAX_WORK", 0.0)
    assert refused(data).kind == "too_costly"
    monkeypatch.undo()
    assert decode_recording(data, 16_000)


def test_the_rate_of_a_file_is_known() -> None:
    """The rate comes from the content, or from the media type of raw samples."""
    assert recording_rate(io.BytesIO((RECORDING_FIXTURES / "meta_latin1.wav").read_bytes())) == 16_000
    assert recording_rate(io.BytesIO(b""), media_type="audio/pcm;rate=8000") == 8000


@pytest.mark.fuzz
@settings(deadline=None)
@given(
    which=st.sampled_from([*FORMATS, *FILES]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.one_of(st.floats(0, 0.05), st.floats(0, 0.999)), st.binary(max_size=4)), max_size=12),
    media_type=st.sampled_from(["", "audio/wav", "audio/gsm", "audio/pcm"]),
)
@example(which=("wav", "pcm_mulaw"), cut=1.0, flips=[(0.0234375, b"\0")], media_type="")  # no codec has this number
def test_damaged_recordings_are_decoded_or_refused(
    which: tuple[str, str] | str, cut: float, flips: list[tuple[float, bytes]], media_type: str
) -> None:
    """Whatever damage a recording has, headers first, the result is samples or a refusal; the next one is decoded."""
    data = bytearray(
        (RECORDING_FIXTURES / which).read_bytes() if isinstance(which, str) else recording(*which, seconds=0.1)
    )
    for place, value in flips:
        at = int(place * len(data))
        data[at : at + len(value)] = value
    try:
        samples = decode_recording(bytes(data[: int(cut * len(data))]), 16_000, media_type=media_type, max_seconds=40)
    except RefusedRecording:
        samples = b"\0\0"
    assert samples
    assert len(samples) % 2 == 0
    assert decode_recording(wav(tone(20)), 16_000)
