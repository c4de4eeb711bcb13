"""Audio source, sink and playout buffer of the terminal caller: audio is played once, in order and in real time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_cli.call.audio_io import AudioSink, AudioSource, PlayoutBuffer
from agentfield_cli.call.recordings import FRAME, RATE, Resampler, wav, wire_rate, write_recording


def numbered(first: int, size: int) -> np.ndarray:
    """Return samples that can be told apart, none of them 0."""
    return ((np.arange(first, first + size) % 30_000) + 1).astype(np.int16)


@given(sizes=st.lists(st.integers(0, 3 * FRAME), max_size=12))
def test_audio_and_marks_are_played_in_order(sizes: list[int]) -> None:
    """Audio in pieces of any size is played completely and in order; each mark is returned with its last frame."""
    sink = AudioSink()
    buffer, total, wanted = PlayoutBuffer(sink), 0, []
    for number, size in enumerate(sizes):
        buffer.add(numbered(total, size))
        buffer.mark(str(number))
        total += size
        wanted.append(max(1, -(-total // FRAME)))
    assert sink.buffered() == total / RATE
    passed: list[int] = []
    for frame in range(1, total // FRAME + 3):
        passed += [frame] * len(buffer.frame())
    assert passed == wanted
    heard = sink.recording
    assert np.array_equal(heard[heard != 0], numbered(0, total))
    assert sink.buffered() == 0


def test_clear_discards_audio_and_marks() -> None:
    """After a clear the buffer plays silence, returns no mark, and plays new audio at once."""
    sink = AudioSink()
    buffer = PlayoutBuffer(sink)
    buffer.add(numbered(0, 5 * FRAME))
    buffer.mark("gone")
    buffer.frame()
    buffer.clear()
    assert buffer.frame() == []
    buffer.add(numbered(0, FRAME))
    buffer.mark("next")
    assert buffer.frame() == ["next"]
    assert np.count_nonzero(sink.recording) == 2 * FRAME


async def test_quiet_waits_for_buffered_audio() -> None:
    """The wait for silence does not end while audio is buffered."""
    sink = AudioSink()
    buffer = PlayoutBuffer(sink)
    buffer.add(np.zeros(RATE // 2, np.int16))
    waiting = asyncio.create_task(sink.wait_for_quiet(0.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    while sink.buffered():
        buffer.frame()
    await asyncio.wait_for(waiting, 60)


async def test_a_source_sends_silence_around_speech() -> None:
    """Speech is sent completely after a lead-in of silence; without speech the source sends silence."""
    source = AudioSource()
    assert not source.frame().any()
    speech = numbered(0, 2 * FRAME + 5)
    saying = asyncio.create_task(source.say(speech))
    await asyncio.sleep(0)
    frames = []
    while not saying.done():
        frames.append(source.frame())
        await asyncio.sleep(0)
    sent = np.concatenate(frames)
    assert np.array_equal(sent[sent != 0], speech)
    assert not sent[: 10 * FRAME].any()
    assert not source.frame().any()


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
def test_resampling_keeps_the_length_of_a_stream(rate: int) -> None:
    """A stream that is resampled to another rate and back in frames of 20 ms keeps its length."""
    down, up = Resampler(RATE, rate), Resampler(rate, RATE)
    pieces = [up(down(numbered(at, FRAME))) for at in range(0, RATE, FRAME)]
    size = sum(piece.size for piece in pieces) + up(down.flush()).size + up.flush().size
    assert abs(size - RATE) < 100


@pytest.mark.parametrize(("rates", "wanted"), [([], 24_000), ([48_000], 48_000), ([48_000, 48_000], 48_000)])
def test_the_common_rate_of_the_files_is_used(tmp_path, rates: list[int], wanted: int) -> None:
    """Files of one rate that a control plane accepts are sent at that rate."""
    paths = [tmp_path / f"{number}.wav" for number in range(len(rates))]
    for path in paths:
        write_recording(path, numbered(0, FRAME))
    assert wire_rate(paths) == wanted


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 44_100])
def test_other_rates_are_sent_as_24000(tmp_path, rate: int) -> None:
    """Files of an unsupported rate, or of several rates, are sent at 24000."""
    (tmp_path / "a.wav").write_bytes(wav(numbered(0, RATE), rate))
    write_recording(tmp_path / "b.wav", numbered(0, FRAME))
    assert wire_rate([tmp_path / "a.wav"]) == (24_000 if rate == 44_100 else rate)
    assert wire_rate([tmp_path / "a.wav", tmp_path / "b.wav"]) == 24_000
