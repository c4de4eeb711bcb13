"""Audio of the local server: the output and input buffers, G.711, resampling, codecs and the paced track."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from av import AudioFrame, AudioResampler
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.audio.codecs import Decoder, Encoder
from agentfield_local.audio.pcm import alaw_decode, alaw_encode, resample_linear, ulaw_decode, ulaw_encode
from agentfield_local.audio.resampler import Resampler
from agentfield_local.realtime.conversation.audio_input.input_buffer import InputAudioBuffer
from agentfield_local.webrtc.media import PacedTrack
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer, PlaybackEvent
from support.audio import silence, tone


@given(st.lists(st.tuples(st.sampled_from(["r1", "r2"]), st.binary(max_size=3000)), max_size=12))
def test_the_output_buffer_loses_no_byte(pushes: list[tuple[str, bytes]]) -> None:
    """All pushed audio is pulled, reply after reply; each reply starts and stops once."""
    output_buffer = OutputAudioBuffer()
    for response_id, pcm in pushes:
        output_buffer.push(response_id, "item", pcm)
    output_buffer.finish("r1")
    output_buffer.finish("r2")
    out, events = bytearray(), []
    while output_buffer.playing:
        piece, played = output_buffer.pull(960)
        out += piece
        events += played
    order = list(dict.fromkeys(response_id for response_id, pcm in pushes if pcm))
    expected = b"".join(pcm for reply in order for response_id, pcm in pushes if response_id == reply)
    assert bytes(out).startswith(expected)
    assert not any(out[len(expected) :])
    assert events == [PlaybackEvent(kind, r) for r in order for kind in ("started", "stopped")]
    assert output_buffer.buffered_bytes == 0


def test_clear_returns_what_was_heard_of_each_item() -> None:
    """Only matching replies are cleared, and the result is in ms of the pulled audio."""
    output_buffer = OutputAudioBuffer()
    output_buffer.push("r1", "a", silence(100, 48_000))
    output_buffer.push("r1", "b", silence(100, 48_000))
    output_buffer.push("r2", "c", silence(100, 48_000))
    output_buffer.pull(len(silence(120, 48_000)))
    (cleared,) = output_buffer.clear(lambda response_id: response_id == "r1")
    assert (cleared.started, cleared.heard) == (True, {"a": 100, "b": 20})
    assert output_buffer.buffered_ms == 100


def test_g711_round_trips_within_its_precision() -> None:
    """Every code survives decoding and encoding; samples survive encoding within a sixteenth."""
    codes = bytes(range(256))
    assert alaw_encode(alaw_decode(codes)) == codes
    again = ulaw_encode(ulaw_decode(codes))
    assert ulaw_decode(again) == ulaw_decode(codes)
    samples = np.frombuffer(tone(50, 8_000), "<i2").astype(np.int32)
    for encode, decode in ((ulaw_encode, ulaw_decode), (alaw_encode, alaw_decode)):
        back = np.frombuffer(decode(encode(samples.astype("<i2").tobytes())), "<i2").astype(np.int32)
        assert np.abs(back - samples).max() <= np.abs(samples).max() / 16


@pytest.mark.parametrize(("source", "target"), [(22_050, 48_000), (22_050, 24_000), (24_000, 16_000), (48_000, 16_000)])
def test_resampling_in_pieces_keeps_length_and_level(source: int, target: int) -> None:
    """Pieces of any size are resampled without loss at their borders."""
    sound = tone(1000, source)
    resampler = Resampler(source, target)
    out = b"".join(resampler.feed(sound[at : at + 334]) for at in range(0, len(sound), 334)) + resampler.flush()
    samples = np.frombuffer(out, "<i2").astype(np.float64)
    assert abs(samples.size - target) <= target // 100
    expected = np.frombuffer(tone(1000, target), "<i2").astype(np.float64)
    n = min(samples.size, expected.size)
    assert np.corrcoef(samples[:n], expected[:n])[0, 1] > 0.99


def stereo(ms: int, rate: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.repeat(np.frombuffer(tone(ms, rate), "<i2"), 2).reshape(1, -1), layout="stereo")
    frame.sample_rate = rate
    return frame


def test_stereo_frames_are_mixed_like_pyav_does() -> None:
    """Both channels of a caller become one at the same level, as with PyAV's own resampler."""
    resampler, library = Resampler(48_000, 16_000), AudioResampler(format="s16", layout="mono", rate=16_000)
    mixed = b"".join(resampler.feed_frame(stereo(20, 48_000)) for _ in range(10)) + resampler.drain()
    frames = [out for _ in range(10) for out in library.resample(stereo(20, 48_000))] + library.resample(None)
    assert mixed == b"".join(out.to_ndarray().tobytes() for out in frames)


def test_a_recording_may_change_its_format() -> None:
    """The buffered audio of one format is returned before the next format begins."""
    resampler = Resampler(48_000, 16_000)
    out = b"".join(resampler.feed_frame(stereo(100, rate)) for rate in (48_000, 24_000, 48_000)) + resampler.drain()
    assert abs(len(out) // 2 - 3 * 1600) < 10


def test_resamplers_start_no_threads() -> None:
    """FFmpeg's graphs start a thread per processor by default, and a call has several graphs."""
    before = psutil.Process().num_threads()
    resamplers = [Resampler(24_000, 16_000) for _ in range(8)]
    assert all(resampler.feed(tone(100, 24_000)) for resampler in resamplers)
    assert psutil.Process().num_threads() <= before


def test_half_a_sample_waits_for_its_other_half() -> None:
    """Audio in pieces of odd length decodes to the same audio."""
    sound = tone(100, 24_000)
    whole = Decoder({"type": "audio/pcm", "rate": 24000}).feed(sound)
    decoder = Decoder({"type": "audio/pcm", "rate": 24000})
    pieces = b"".join(decoder.feed(sound[at : at + 333]) for at in range(0, len(sound), 333))
    assert len(whole) - len(pieces) < 200
    assert pieces[:1000] == whole[:1000]


def test_the_encoder_reports_its_bytes_per_millisecond() -> None:
    """A second of voice has about a thousand times `bytes_per_ms` in every format."""
    for audio_format in (None, {"type": "audio/pcm", "rate": 24000}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}):
        encoder = Encoder(22_050, audio_format)
        out = encoder.feed(tone(1000, 22_050)) + encoder.flush()
        assert abs(len(out) / encoder.bytes_per_ms - 1000) < 10


async def test_the_track_plays_both_channels_at_full_level_in_order() -> None:
    """Frames are 20 ms of stereo with equal channels and contiguous timestamps."""
    sound = tone(60, 48_000)
    position = 0

    def pull(size: int) -> bytes:
        nonlocal position
        piece = sound[position : position + size]
        position += size
        return piece

    track = PacedTrack(pull)
    frames = [await track.recv() for _ in range(3)]
    assert [frame.pts for frame in frames] == [0, 960, 1920]
    stereo = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])
    assert (stereo[:, 0] == stereo[:, 1]).all()
    assert stereo[:, 0].astype("<i2").tobytes() == sound


def test_the_input_buffer_is_bounded_and_counts_all_audio() -> None:
    """The oldest audio is dropped first; `heard_ms` counts all audio."""
    buffer = InputAudioBuffer()
    for _ in range(11):
        buffer.append(silence(60_000, 16_000))
    assert buffer.heard_ms == 660_000
    assert buffer.buffered_ms == 600_000
    buffer.drop_until(659_900)
    assert buffer.buffered_ms == 100
    assert len(buffer.take()) == len(silence(100, 16_000))
    assert resample_linear(silence(100, 16_000), 16_000, 24_000) == silence(100, 24_000)
