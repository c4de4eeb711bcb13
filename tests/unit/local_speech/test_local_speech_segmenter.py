"""Utterances: where they begin and end, whatever the pieces the audio comes in."""

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
    """Reads the probability out of the audio: the first sample of a chunk, in percent."""

    chunk_bytes = CHUNK_SAMPLES * 2

    def probability(self, chunk: bytes) -> float:
        assert len(chunk) == self.chunk_bytes
        return float(struct.unpack_from("<h", chunk)[0] / 100)


def audio(*percents: int) -> bytes:
    """Return a chunk for each probability; no two samples of it are alike, so that a shift would be seen."""
    return b"".join(
        struct.pack(f"<{CHUNK_SAMPLES}h", percent, *range(number, number + CHUNK_SAMPLES - 1))
        for number, percent in enumerate(percents)
    )


def speech(*parts: tuple[int, int]) -> bytes:
    """Return audio of (probability in percent, milliseconds) parts, in whole chunks."""
    return audio(*(percent for percent, milliseconds in parts for _ in range(milliseconds // CHUNK_MS)))


def test_times_are_those_of_the_stream() -> None:
    """The start includes the prefix padding, the end includes the silence, both since the start of the stream."""
    pcm = speech((0, 1600), (90, 960), (0, 640))
    started, stopped = Segmenter(ScriptedVad()).feed(pcm)
    assert started == SpeechStarted(at_ms=1300)
    assert stopped == SpeechStopped(
        at_ms=1600 + 960 + 512, start_ms=1300, pcm=pcm[1300 * BYTES_A_MS : 3072 * BYTES_A_MS]
    )


def test_the_start_is_reported_before_the_end_is_known() -> None:
    """A caller that begins to speak is noticed at once, so that playback can be stopped."""
    segmenter = Segmenter(ScriptedVad())
    assert segmenter.feed(speech((0, 320), (90, 32))) == [SpeechStarted(at_ms=20)]
    assert segmenter.speaking


def test_the_padding_ends_at_the_start_of_the_stream() -> None:
    """Speech from the first moment has no padding and begins at zero."""
    assert Segmenter(ScriptedVad()).feed(speech((90, 64)))[0] == SpeechStarted(at_ms=0)


def test_a_dip_between_the_thresholds_does_not_end_speech() -> None:
    """What starts above 0.5 goes on above 0.35: a soft syllable is still speech."""
    pcm = speech((90, 320), (40, 960), (30, 320), (40, 320))
    assert Segmenter(ScriptedVad()).feed(pcm) == [SpeechStarted(at_ms=0)]


def test_a_probability_between_the_thresholds_does_not_start_speech() -> None:
    """Murmur below the threshold is no utterance."""
    assert Segmenter(ScriptedVad()).feed(speech((40, 1600))) == []


def test_utterances_never_overlap() -> None:
    """The padding of an utterance does not reach into the one before."""
    pcm = speech((90, 320), (0, 512), (90, 320), (0, 512))
    events = Segmenter(ScriptedVad()).feed(pcm)
    stops = [event for event in events if isinstance(event, SpeechStopped)]
    assert [(stop.start_ms, stop.at_ms) for stop in stops] == [(0, 832), (832, 1664)]
    assert b"".join(stop.pcm for stop in stops) == pcm


def test_endless_speech_is_cut() -> None:
    """A caller in front of a radio gets an utterance a minute, and nothing is lost between them."""
    pcm = speech((90, 2560))
    events = Segmenter(ScriptedVad(), max_utterance_ms=1024).feed(pcm)
    stops = [event for event in events if isinstance(event, SpeechStopped)]
    assert [(stop.start_ms, stop.at_ms, stop.forced) for stop in stops] == [(0, 1024, True), (1024, 2048, True)]
    assert b"".join(stop.pcm for stop in stops) == pcm[: 2048 * BYTES_A_MS]


def test_a_reset_forgets_the_utterance_and_keeps_the_clock() -> None:
    """After the input buffer is cleared, times still count from the start of the stream."""
    segmenter = Segmenter(ScriptedVad())
    segmenter.feed(speech((90, 640)) + bytes(10))
    segmenter.reset()
    assert not segmenter.speaking
    assert segmenter.feed(speech((90, 32))) == [SpeechStarted(at_ms=640)]


def test_finish_ends_the_utterance_now() -> None:
    """A commit in the middle of speech gives all audio so far, the part of a chunk included."""
    segmenter = Segmenter(ScriptedVad())
    pcm = speech((90, 320)) + bytes(8 * BYTES_A_MS)
    segmenter.feed(pcm)
    assert segmenter.finish() == SpeechStopped(at_ms=328, start_ms=0, pcm=pcm, forced=True)
    assert segmenter.finish() is None


def test_settings_change_in_mid_stream() -> None:
    """A longer silence may be asked for while somebody speaks."""
    segmenter = Segmenter(ScriptedVad(), silence_duration_ms=200)
    segmenter.feed(speech((90, 320)))
    segmenter.configure(threshold=0.5, prefix_padding_ms=300, silence_duration_ms=960)
    assert segmenter.feed(speech((0, 640))) == []
    assert [event.at_ms for event in segmenter.feed(speech((0, 320)))] == [1280]


def test_a_pause_is_told_of_and_the_end_names_it() -> None:
    """Silence that may end a turn is told of early, with the audio so far; the end says that only silence followed."""
    pcm = speech((90, 320), (0, 512))
    started, paused, stopped = Segmenter(ScriptedVad(), pause_ms=190).feed(pcm)
    assert started == SpeechStarted(at_ms=0)
    assert paused == SpeechPaused(at_ms=512, start_ms=0, pcm=pcm[: 512 * BYTES_A_MS])
    assert stopped == SpeechStopped(at_ms=832, start_ms=0, pcm=pcm, paused_ms=512)


def test_a_caller_who_goes_on_had_only_paused() -> None:
    """Each pause of an utterance is told of once; the end names the last one, and none where speech came after it."""
    segmenter = Segmenter(ScriptedVad(), pause_ms=190)
    events = segmenter.feed(speech((90, 320), (0, 416), (90, 320), (0, 320), (90, 32)))
    assert [(type(event), event.at_ms) for event in events[1:]] == [(SpeechPaused, 512), (SpeechPaused, 1248)]
    stopped = segmenter.finish()
    assert stopped is not None
    assert stopped.paused_ms is None


@pytest.mark.parametrize("pause_ms", [None, 500, 900])
def test_a_pause_as_long_as_the_end_is_none(pause_ms: int | None) -> None:
    """Where the end comes no later than the pause would, there is only the end."""
    events = Segmenter(ScriptedVad(), pause_ms=pause_ms).feed(speech((90, 320), (0, 640)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]


def test_silence_counts_from_the_last_sound() -> None:
    """What the detection still takes for speech, but is silent, counts once it says silence; at most 96 ms of it."""
    quiet = struct.pack(f"<{CHUNK_SAMPLES}h", 90, *[0] * (CHUNK_SAMPLES - 1))
    for lag, counted in ((2, 64), (5, 96)):
        events = Segmenter(ScriptedVad()).feed(speech((90, 320)) + quiet * lag + speech((0, 640)))
        assert events[-1].at_ms == 320 + lag * CHUNK_MS + 512 - counted
    events = Segmenter(ScriptedVad()).feed(speech((90, 320)) + quiet * 2 + speech((90, 32), (0, 640)))
    assert events[-1].at_ms == 320 + 64 + 32 + 512


@given(
    percents=st.lists(st.sampled_from([0, 30, 40, 60, 90]), max_size=60),
    cuts=st.lists(st.integers(0, 60 * CHUNK_SAMPLES * 2), max_size=30),
    settings=st.tuples(st.integers(0, 400), st.integers(0, 400), st.sampled_from([320, 60_000])),
    pause=st.none() | st.integers(0, 300),
)
def test_the_pieces_never_matter(
    percents: list[int], cuts: list[int], settings: tuple[int, int, int], pause: int | None
) -> None:
    """Cut the stream anywhere, even within a sample: the events are the same."""
    pcm = audio(*percents)
    prefix, silence, longest = settings
    whole = Segmenter(ScriptedVad(), 0.5, prefix, silence, max_utterance_ms=longest, pause_ms=pause).feed(pcm)
    pieces = Segmenter(ScriptedVad(), 0.5, prefix, silence, max_utterance_ms=longest, pause_ms=pause)
    bounds = [0, *sorted(min(cut, len(pcm)) for cut in cuts), len(pcm)]
    assert [event for start, end in pairwise(bounds) for event in pieces.feed(pcm[start:end])] == whole


@given(
    percents=st.lists(st.sampled_from([0, 30, 40, 60, 90]), max_size=80),
    prefix=st.integers(0, 500),
    silence=st.integers(0, 300),
)
def test_events_are_in_order_and_audio_is_where_they_say(percents: list[int], prefix: int, silence: int) -> None:
    """Starts and stops alternate, times never go back, and an utterance is exactly the audio between its times."""
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
def test_pauses_change_nothing_and_the_end_names_the_one_that_went_on(
    percents: list[int], silence: int, pause: int, longest: int
) -> None:
    """Starts and stops are those without pauses; an end names a pause if and only if no speech came after it."""
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
def test_any_threshold_starts_above_and_stops_below(threshold: float) -> None:
    """The stop threshold follows the start threshold and never falls to nothing."""
    events = Segmenter(ScriptedVad(), threshold).feed(speech((95, 320), (0, 960)))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped]
