"""The terminal caller's mouth, ear and player: what arrives is heard once, in order, at the pace of sound."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_cli.audio import FRAME, RATE, Resampler, wav, wire_rate, write_recording
from agentfield_cli.hearing import Ear, Mouth, Player


def numbered(first: int, size: int) -> np.ndarray:
    """Return samples that can be told apart, none of them 0."""
    return ((np.arange(first, first + size) % 30_000) + 1).astype(np.int16)


@given(sizes=st.lists(st.integers(0, 3 * FRAME), max_size=12))
def test_everything_is_heard_once_and_each_mark_when_it_was_passed(sizes: list[int]) -> None:
    """Whatever the pieces: they are heard whole and in order, each mark with the frame that held its last sample."""
    ear = Ear()
    player, total, wanted = Player(ear), 0, []
    for number, size in enumerate(sizes):
        player.add(numbered(total, size))
        player.mark(str(number))
        total += size
        wanted.append(max(1, -(-total // FRAME)))
    assert ear.waiting() == total / RATE
    passed: list[int] = []
    for frame in range(1, total // FRAME + 3):
        passed += [frame] * len(player.frame())
    assert passed == wanted
    heard = ear.recording
    assert np.array_equal(heard[heard != 0], numbered(0, total))
    assert ear.waiting() == 0


def test_what_is_cleared_is_gone_with_its_marks() -> None:
    """After a clear there is silence, no mark is told, and what comes next is played at once."""
    ear = Ear()
    player = Player(ear)
    player.add(numbered(0, 5 * FRAME))
    player.mark("gone")
    player.frame()
    player.clear()
    assert player.frame() == []
    player.add(numbered(0, FRAME))
    player.mark("next")
    assert player.frame() == ["next"]
    assert np.count_nonzero(ear.recording) == 2 * FRAME


async def test_quiet_waits_for_what_was_not_played() -> None:
    """It is not quiet while sound waits to be heard, however long ago it came."""
    ear = Ear()
    player = Player(ear)
    player.add(np.zeros(RATE // 2, np.int16))
    waiting = asyncio.create_task(ear.quiet(0.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    while ear.waiting():
        player.frame()
    await asyncio.wait_for(waiting, 5)


async def test_a_mouth_is_silent_before_between_and_after() -> None:
    """Speech comes whole behind a moment of silence, and silence is what there is without any."""
    mouth = Mouth()
    assert not mouth.frame().any()
    speech = numbered(0, 2 * FRAME + 5)
    saying = asyncio.create_task(mouth.say(speech))
    await asyncio.sleep(0)
    frames = []
    while not saying.done():
        frames.append(mouth.frame())
        await asyncio.sleep(0)
    sent = np.concatenate(frames)
    assert np.array_equal(sent[sent != 0], speech)
    assert not sent[: 10 * FRAME].any()
    assert not mouth.frame().any()


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
def test_a_stream_that_is_resampled_keeps_its_length(rate: int) -> None:
    """Samples that go to another rate and back in pieces of 20 ms are as long as before."""
    down, up = Resampler(RATE, rate), Resampler(rate, RATE)
    pieces = [up(down(numbered(at, FRAME))) for at in range(0, RATE, FRAME)]
    size = sum(piece.size for piece in pieces) + up(down.flush()).size + up.flush().size
    assert abs(size - RATE) < 100


@pytest.mark.parametrize(("rates", "wanted"), [([], 24_000), ([48_000], 48_000), ([48_000, 48_000], 48_000)])
def test_the_rate_of_the_files_is_kept(tmp_path, rates: list[int], wanted: int) -> None:
    """Files of one rate that a control plane takes are sent at it."""
    paths = [tmp_path / f"{number}.wav" for number in range(len(rates))]
    for path in paths:
        write_recording(path, numbered(0, FRAME))
    assert wire_rate(paths) == wanted


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 44_100])
def test_an_odd_rate_is_sent_as_24000(tmp_path, rate: int) -> None:
    """A rate that no control plane takes, and files of several rates, are sent at 24000."""
    (tmp_path / "a.wav").write_bytes(wav(numbered(0, RATE), rate))
    write_recording(tmp_path / "b.wav", numbered(0, FRAME))
    assert wire_rate([tmp_path / "a.wav"]) == (24_000 if rate == 44_100 else rate)
    assert wire_rate([tmp_path / "a.wav", tmp_path / "b.wav"]) == 24_000
