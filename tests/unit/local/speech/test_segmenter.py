"""Segmenter: start and end of utterances, independent of the pieces of the audio."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.speech.segmenter import Segmenter, SpeechPaused, SpeechStarted, SpeechStopped

CHUNK_MS = 32
CHUNK_SAMPLES = CHUNK_MS * SPEECH_RATE // 1000
BYTES_A_MS = SPEECH_RATE // 1000 * 2


class ScriptedVad:
    """VAD that reads the probability from the audio: the first sample of a chunk, in percent."""

    chunk_bytes = CHUNK_SAMPLES * 2

    def probability(self, chunk: bytes) -> float:
        assert len(chunk) == self.chunk_bytes
        return float(struct.unpack_from("<h", chunk)[0] / 100)


def audio(*percents: int) -> bytes:
    """Return a chunk for each probability; all its samples differ, so that a shift would be detected."""
    return b"".join(
        struct.pack(f"<{CHUNK_SAMPLES}h", percent, *range(number, number + CHUNK_SAMPLES - 1))
        for number, percent in enumerate(percents)
    )


def speech(*parts: tuple[int, int]) -> bytes:
    """Return audio of (probability in percent, milliseconds) parts, in whole chunks."""
    return audio(*(percent for percent, milliseconds in parts for _ in range(milliseconds // CHUNK_MS)))


def test_times_count_from_the_start_of_the_stream() -> None:
    """The start includes the prefix padding, the end includes the silence, both since the start of the stream."""
    pcm = speech((0, 1600), (90, 960), (0, 640))
    started, stopped = Segmenter(ScriptedVad()).feed(pcm)
    assert started == SpeechStarted(at_ms=1300)
    assert stopped == SpeechStopped(
        at_ms=1600 + 960 + 512, start_ms=1300, pcm=pcm[1300 * BYTES_A_MS : 3072 * BYTES_A_MS]
    )


def test_the_start_is_reported_before_the_end_is_known() -> None:
    """The start is reported at once, so that playback can be stopped."""
    segmenter = Segmenter(ScriptedVad())
    assert segmenter.feed(speech((0, 320), (90, 32))) == [SpeechStarted(at_ms=20)]
    assert segmenter.speaking


def test_the_padding_ends_at_the_start_of_the_stream() -> None:
    """Speech at the start of the stream has no padding and starts at 0."""
    assert Segmenter(ScriptedVad()).feed(speech((90, 64)))[0] == SpeechStarted(at_ms=0)


def test_a_dip_between_the_thresholds_does_not_end_speech() -> None:
    """Speech that starts above 0.5 continues above 0.35."""
    pcm = speech((90, 320), (40, 960), (30, 320), (40, 320))
    assert Segmenter(ScriptedVad()).feed(pcm) == [SpeechStarted(at_ms=0)]


def test_a_probability_between_the_thresholds_does_not_start_speech() -> None:
    """A probability below the start threshold starts no utterance."""
    assert Segmenter(ScriptedVad()).feed(speech((40, 1600))) == []


def test_utterances_never_overlap() -> None:
    """The padding of an utterance does not overlap the previous one."""
    pcm = speech((90, 320), (0, 512), (90, 320), (0, 512))
    events = Segmenter(ScriptedVad()).feed(pcm)
    stops = [event for event in events if isinstance(event, SpeechStopped)]
    assert [(stop.start_ms, stop.at_ms) for stop in stops] == [(0, 832), (832, 1664)]
    assert b"".join(stop.pcm for stop in stops) == pcm


def test_endless_speech_is_split() -> None:
    """Constant speech is split into utterances of the maximum length, without loss between them."""
    pcm = speech((90, 2560))
    events = Segmenter(ScriptedVad(), max_utterance_ms=1024).feed(pcm)
    stops = [event for event in events if isinstance(event, SpeechStopped)]
    assert [(stop.start_ms, stop.at_ms, stop.forced) for stop in stops] == [(0, 1024, True), (1024, 2048, True)]
    assert b"".join(stop.pcm for stop in stops) == pcm[: 2048 * BYTES_A_MS]


def test_reset_drops_the_utterance_and_keeps_the_clock() -> None:
    """After a reset, times still count from the start of the stream."""
    segmenter = Segmenter(ScriptedVad())
    segmenter.feed(speech((90, 640)) + bytes(10))
    segmenter.reset()
    assert not segmenter.speaking
    assert segmenter.feed(speech((90, 32))) == [SpeechStarted(at_ms=640)]


def test_finish_ends_the_utterance() -> None:
    """`finish` in the middle of speech returns all audio so far, including a partial chunk."""
    segmenter = Segmenter(ScriptedVad())
    pcm = speech((90, 320)) + bytes(8 * BYTES_A_MS)
    segmenter.feed(pcm)
    assert segmenter.finish() == SpeechStopped(at_ms=328, start_ms=0, pcm=pcm, forced=True)
    assert segmenter.finish() is None


def test_settings_change_in_mid_stream() -> None:
    """The silence duration may change during an utterance."""
    segmenter = Segmenter(ScriptedVad(), silence_duration_ms=200)
    segmenter.feed(speech((90, 320)))
    segmenter.configure(threshold=0.5, prefix_padding_ms=300, silence_duration_ms=960)
    assert segmenter.feed(speech((0, 640))) == []
    assert [event.at_ms for event in segmenter.feed(speech((0, 320)))] == [1280]


def test_a_pause_is_reported_and_named_by_the_end() -> None:
    """A pause is reported with the audio so far; the end refers to it if only silence followed."""
    pcm = speech((90, 320), (0, 512))
    started, paused, stopped = Segmenter(ScriptedVad(), pause_ms=190).feed(pcm)
    assert started == SpeechStarted(at_ms=0)
    assert paused == SpeechPaused(at_ms=512, start_ms=0, pcm=pcm[: 512 * BYTES_A_MS])
    assert stopped == SpeechStopped(at_ms=832, start_ms=0, pcm=pcm, paused_ms=512)


def test_speech_after_a_pause_invalidates_it() -> None:
    """Each pause is reported once; the end refers to the last one, unless speech followed it."""
    segmenter = Segmenter(ScriptedVad(), pause_ms=190)
    events = segmenter.feed(speech((90, 320), (0, 416), (90, 320), (0, 320), (90, 32)))
    assert [(type(event), event.at_ms) for event in events[1:]] == [(SpeechPaused, 512), (SpeechPaused, 1248)]
    stopped = segmenter.finish()
    assert stopped is not None
    assert stopped.paused_ms is None


@pytest.mark.parametrize("pause_ms", [None, 500, 900])
def test_a_pause_not_shorter_than_the_end_silence_is_not_reported(pause_ms: int | None) -> None:
    """If the pause length is not below the silence duration, only the end is reported."""
    events = Segmenter(ScriptedVad(), pause_ms=pause_ms).feed(speech((90, 320), (0, 640)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]


def test_silence_counts_from_the_last_sound() -> None:
    """Audio that is silent but still detected as speech counts as silence afterwards, at most 96 ms of it."""
    quiet = struct.pack(f"<{CHUNK_SAMPLES}h", 90, *[0] * (CHUNK_SAMPLES - 1))
    for lag, counted in ((2, 64), (5, 96)):
        events = Segmenter(ScriptedVad()).feed(speech((90, 320)) + quiet * lag + speech((0, 640)))
        assert events[-1].at_ms == 320 + lag * CHUNK_MS + 512 - counted
    events = Segmenter(ScriptedVad()).feed(speech((90, 320)) + quiet * 2 + speech((90, 32), (0, 640)))
    assert events[-1].at_ms == 320 + 64 + 32 + 512


@given(
    percents=st.lists(st.sampled_from([0, 30, 40, 60, 90]), max_size=60),
    splits=st.lists(st.integers(0, 60 * CHUNK_SAMPLES * 2), max_size=30),
    settings=st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from([320, 60_000])),
    pause=st.none() | st.integers(0, 300),
)
def test_events_do_not_depend_on_the_pieces(
    percents: list[int], splits: list[int], settings: tuple[int, int, int], pause: int | None
) -> None:
    """The events are the same for any split of the stream, even within a sample."""
    pcm = audio(*percents)
    prefix, silence, longest = settings
    whole = Segmenter(ScriptedVad(), 0.5, prefix, silence, max_utterance_ms=longest, pause_ms=pause).feed(pcm)
    pieces = Segmenter(ScriptedVad(), 0.5, prefix, silence, max_utterance_ms=longest, pause_ms=pause)
    bounds = [0, *sorted(min(split, len(pcm)) for split in splits), len(pcm)]
    assert [event for start, end in pairwise(bounds) for event in pieces.feed(pcm[start:end])] == whole


@given(
    percents=st.lists(st.sampled_from([0, 30, 40, 60, 90]), max_size=80),
    prefix=st.integers(0, 500),
    silence=st.integers(0, 300),
)
def test_events_are_ordered_and_contain_their_audio(percents: list[int], prefix: int, silence: int) -> None:
    """Starts and stops alternate, times increase, and an utterance is exactly the audio between its times."""
    pcm = audio(*percents)
    segmenter = Segmenter(ScriptedVad(), 0.5, prefix, silence)
    events = segmenter.feed(pcm)
    assert [isinstance(event, SpeechStarted) for event in events] == [not index % 2 for index in range(len(events))]
    assert all(before.at_ms <= after.at_ms for before, after in pairwise(events))
    for started, stopped in zip(events[::2], events[1::2], strict=False):
        assert isinstance(stopped, SpeechStopped)
        assert stopped.start_ms == started.at_ms
        assert stopped.pcm == pcm[stopped.start_ms * BYTES_A_MS : stopped.at_ms * BYTES_A_MS]
    assert segmenter.position_ms == len(percents) * CHUNK_MS


@given(
    percents=st.lists(st.sampled_from([0, 30, 40, 60, 90]), max_size=80),
    silence=st.integers(0, 300),
    pause=st.integers(0, 300),
    longest=st.sampled_from([320, 60_000]),
)
def test_pauses_do_not_change_starts_and_stops(percents: list[int], silence: int, pause: int, longest: int) -> None:
    """Starts and stops are those without pauses; an end refers to a pause if and only if no speech followed it."""
    pcm = audio(*percents)
    events = Segmenter(ScriptedVad(), 0.5, 100, silence, max_utterance_ms=longest, pause_ms=pause).feed(pcm)
    plain = Segmenter(ScriptedVad(), 0.5, 100, silence, max_utterance_ms=longest).feed(pcm)
    assert [(type(e), e.at_ms) for e in events if not isinstance(e, SpeechPaused)] == [
        (type(e), e.at_ms) for e in plain
    ]
    start, last = None, None
    for event in events:
        match event:
            case SpeechStarted(at_ms):
                start, last = at_ms, None
            case SpeechPaused(at_ms, start_ms, heard):
                assert start_ms == start
                assert heard == pcm[start_ms * BYTES_A_MS : at_ms * BYTES_A_MS]
                last = at_ms
            case SpeechStopped(at_ms, paused_ms=paused_ms):
                spoke_on = last is None or any(p > 35 for p in percents[last // CHUNK_MS : at_ms // CHUNK_MS])
                assert paused_ms == (None if spoke_on else last)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.9])
def test_the_stop_threshold_follows_the_start_threshold(threshold: float) -> None:
    """The stop threshold is below the start threshold and never 0."""
    events = Segmenter(ScriptedVad(), threshold).feed(speech((95, 320), (0, 960)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]
