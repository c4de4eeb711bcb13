"""Audio of the local server: playout keeps every sample until cleared, G.711 and resampling are faithful."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from av import AudioFrame, AudioResampler
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.media import Decoder, Encoder, PacedTrack, Resampler
from agentfield_local.pcm import alaw_decode, alaw_encode, stretch, ulaw_decode, ulaw_encode
from agentfield_local.realtime.input_buffer import InputBuffer
from agentfield_local.webrtc.playout import Played, Playout
from local_server_kit import silence, tone


@given(st.lists(st.tuples(st.sampled_from(["r1", "r2"]), st.binary(max_size=3000)), max_size=12))
def test_playout_loses_no_byte(pushes: list[tuple[str, bytes]]) -> None:
    """What was pushed comes out complete, reply after reply, each started and stopped once."""
    playout = Playout()
    for response_id, pcm in pushes:
        playout.push(response_id, "item", pcm)
    playout.finish("r1")
    playout.finish("r2")
    out, events = bytearray(), []
    while playout.playing:
        piece, happened = playout.pull(960)
        out += piece
        events += happened
    order = list(dict.fromkeys(response_id for response_id, pcm in pushes if pcm))
    wanted = b"".join(pcm for wanted_id in order for response_id, pcm in pushes if response_id == wanted_id)
    assert bytes(out).startswith(wanted)
    assert not any(out[len(wanted) :])
    assert events == [Played(what, r) for r in order for what in ("started", "stopped")]
    assert playout.buffered_bytes == 0


def test_clear_says_what_was_heard_of_each_item() -> None:
    """Only the wanted replies are cut, and the count is in ms of what was pulled."""
    playout = Playout()
    playout.push("r1", "a", silence(100, 48_000))
    playout.push("r1", "b", silence(100, 48_000))
    playout.push("r2", "c", silence(100, 48_000))
    playout.pull(len(silence(120, 48_000)))
    (cut,) = playout.clear(lambda response_id: response_id == "r1")
    assert (cut.started, cut.heard) == (True, {"a": 100, "b": 20})
    assert playout.buffered_ms == 100


def test_g711_round_trips_within_its_precision() -> None:
    """Every code decodes and encodes to itself; samples come back within a sixteenth."""
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
    """Pieces of any size give the sound at the other rate, nothing lost at the seams."""
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


def test_decoded_frames_of_any_layout_come_out_as_the_library_has_them() -> None:
    """Both channels of a caller become one, at the same level."""
    resampler, library = Resampler(48_000, 16_000), AudioResampler(format="s16", layout="mono", rate=16_000)
    ours = b"".join(resampler.feed_frame(stereo(20, 48_000)) for _ in range(10)) + resampler.drain()
    frames = [out for _ in range(10) for out in library.resample(stereo(20, 48_000))] + library.resample(None)
    assert ours == b"".join(out.to_ndarray().tobytes() for out in frames)


def test_a_recording_whose_format_changes_goes_on() -> None:
    """What the first format left inside comes out before the second one begins."""
    resampler = Resampler(48_000, 16_000)
    out = b"".join(resampler.feed_frame(stereo(100, rate)) for rate in (48_000, 24_000, 48_000)) + resampler.drain()
    assert abs(len(out) // 2 - 3 * 1600) < 10


def test_resamplers_start_no_threads() -> None:
    """FFmpeg's graphs start one for each processor if they are let, and a call has several."""
    before = psutil.Process().num_threads()
    resamplers = [Resampler(24_000, 16_000) for _ in range(8)]
    assert all(resampler.feed(tone(100, 24_000)) for resampler in resamplers)
    assert psutil.Process().num_threads() <= before


def test_half_a_sample_waits_for_its_other_half() -> None:
    """Audio appended in odd pieces is the same audio."""
    sound = tone(100, 24_000)
    whole = Decoder({"type": "audio/pcm", "rate": 24000}).feed(sound)
    decoder = Decoder({"type": "audio/pcm", "rate": 24000})
    pieces = b"".join(decoder.feed(sound[at : at + 333]) for at in range(0, len(sound), 333))
    assert len(whole) - len(pieces) < 200
    assert pieces[:1000] == whole[:1000]


def test_the_encoder_knows_its_milliseconds() -> None:
    """A second of voice is about a second in every format."""
    for audio_format in (None, {"type": "audio/pcm", "rate": 24000}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}):
        encoder = Encoder(22_050, audio_format)
        out = encoder.feed(tone(1000, 22_050)) + encoder.flush()
        assert abs(len(out) / encoder.bytes_per_ms - 1000) < 10


async def test_the_track_plays_both_channels_at_full_level_in_order() -> None:
    """Frames are 20 ms of stereo with the same samples left and right, time stamps without gaps."""
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


def test_the_input_buffer_is_bounded_and_keeps_time() -> None:
    """Old audio goes first, and the clock counts everything ever heard."""
    buffer = InputBuffer()
    for _ in range(11):
        buffer.append(silence(60_000, 16_000))
    assert buffer.heard_ms == 660_000
    assert buffer.held_ms == 600_000
    buffer.drop_until(659_900)
    assert buffer.held_ms == 100
    assert len(buffer.take()) == len(silence(100, 16_000))
    assert stretch(silence(100, 16_000), 16_000, 24_000) == silence(100, 24_000)
