"""Default engines: recognition of human callers, and of the voice's own speech."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.errors import SpeechFailed
from agentfield_local.speech.protocols import SPEECH_RATE, SpeechEngines
from agentfield_local.speech.segmenter import Segmenter, SpeechPaused, SpeechStarted, SpeechStopped
from support.paths import SPEECH_FIXTURES
from support.word_error_rate import word_error_rate

pytestmark = pytest.mark.speech

FIXTURES = SPEECH_FIXTURES
LEAST = 0.15
REPLIES = [
    "I found the order. It's stuck in customs — want me to start a replacement?",
    "I found order 427. It is on its way.",
    "Please meet me at 5:30 tomorrow.",
    "One moment, please. I am still working on that.",
    "Your refund was approved by a manager.",
    "I am transferring you to a human agent now.",
]


@pytest.fixture(scope="module")
def engines() -> SpeechEngines:
    """The default engines, loaded once."""
    return load_engines("default")


def clips(kind: str) -> list[tuple[str, bytes]]:
    """Return (transcript, audio) of the clean clips of a kind."""
    listed: list[dict[str, Any]] = json.loads((FIXTURES / "transcripts.json").read_text())
    chosen = [clip for clip in listed if clip["kind"].startswith(kind) and not clip["file"].startswith("cards")]
    return [(clip["transcript"], read(FIXTURES / clip["file"])) for clip in chosen]


def read(path: Path) -> bytes:
    """Return the samples of a fixture."""
    with wave.open(str(path)) as recording:
        assert (recording.getframerate(), recording.getnchannels(), recording.getsampwidth()) == (SPEECH_RATE, 1, 2)
        return bytes(recording.readframes(recording.getnframes()))


def resample(pcm: bytes, rate: int) -> bytes:
    """Return the audio at 16 kHz with a little silence around it, as a caller's recording has."""
    frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SPEECH_RATE)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return bytes(9_600) + b"".join(part.to_ndarray().tobytes() for part in parts) + bytes(16_000)


def utterances(engines: SpeechEngines, pcm: bytes) -> Iterator[SpeechStopped]:
    """Yield the utterances of a recording between silences, fed in frames of 20 ms."""
    stream = bytes(16_000) + pcm + bytes(48_000)
    segmenter = Segmenter(engines.vad())
    for start in range(0, len(stream), 640):
        for event in segmenter.feed(stream[start : start + 640]):
            if isinstance(event, SpeechStopped):
                yield event


@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_callers_are_understood(engines: SpeechEngines, kind: str) -> None:
    """Segmented by voice activity and transcribed, the clean clips have at most 15 % word errors."""
    pairs = [
        (said, " ".join(engines.stt.transcribe(part.pcm) for part in utterances(engines, pcm)))
        for said, pcm in clips(kind)
    ]
    assert len(pairs) >= 7
    assert word_error_rate(pairs) <= LEAST, pairs


@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_interim_transcripts_are_as_good_as_final_ones(engines: SpeechEngines, kind: str) -> None:
    """Transcripts up to the last pause are as accurate as those of the whole turn."""
    pairs = [(said, " ".join(map(engines.stt.transcribe, early(engines, pcm)))) for said, pcm in clips(kind)]
    assert len(pairs) >= 7
    assert word_error_rate(pairs) <= LEAST, pairs


def early(engines: SpeechEngines, pcm: bytes) -> Iterator[bytes]:
    """Yield the audio of each utterance up to its last pause."""
    pause = b""
    for event in Segmenter(engines.vad(), pause_ms=190).feed(bytes(16_000) + pcm + bytes(48_000)):
        match event:
            case SpeechPaused():
                pause = event.pcm
            case SpeechStopped():
                yield pause


def test_replies_are_understood(engines: SpeechEngines) -> None:
    """Speech of the voice is transcribed with at most 15 % word errors, including times and order numbers."""
    pairs = [
        (reply, engines.stt.transcribe(resample(b"".join(engines.tts.say(reply)), engines.tts.rate)))
        for reply in REPLIES
    ]
    assert word_error_rate(pairs) <= LEAST, pairs


def test_a_newly_loaded_voice_is_deterministic() -> None:
    """Intonation is random with a fixed seed: after each load, the same text gives the same audio."""
    first, second = (b"".join(load_engines().tts.say("Good morning. Your parcel left on Monday.")) for _ in range(2))
    assert first == second


def test_speech_is_synthesised_clause_by_clause(engines: SpeechEngines) -> None:
    """The first clause is returned before the rest is synthesised, so that playback can start or stop early."""
    assert engines.tts.voices == ("joe",)
    pieces = list(engines.tts.say(REPLIES[0]))
    assert len(pieces) == 2
    assert all(len(piece) % 2 == 0 and len(piece) > engines.tts.rate for piece in pieces)


@pytest.mark.parametrize("text", ["", "  \n", "...", "—", "🙂"])
def test_text_without_words_is_silent(engines: SpeechEngines, text: str) -> None:
    """Text without words yields no audio and no error."""
    assert list(engines.tts.say(text)) == []


@pytest.mark.parametrize(
    "text", ["$12.50, café & co. #7", "a" * 500, "http://example.com/a?b=c", "hello \u200b你好\x00", "½ a mile"]
)
def test_unusual_text_is_spoken(engines: SpeechEngines, text: str) -> None:
    """Prices, addresses, very long words and other scripts are synthesised without an error."""
    assert all(engines.tts.say(text))


def test_unreadable_text_is_a_typed_error(engines: SpeechEngines) -> None:
    """A clause that the dictionaries cannot read raises a typed error, and the engine stays usable."""
    with pytest.raises(SpeechFailed, match="cannot read '12,345,678,901,234,567,890'") as caught:
        list(engines.tts.say("12,345,678,901,234,567,890"))
    assert caught.value.code == "speech_failed"
    assert list(engines.tts.say("Sure."))


@pytest.mark.parametrize(
    "pcm", [b"", b"\x01", bytes(100), bytes(32_000)], ids=["none", "half a sample", "3 ms", "silence"]
)
def test_silence_has_no_words(engines: SpeechEngines, pcm: bytes) -> None:
    """Silent audio has an empty transcript, without invented words."""
    assert engines.stt.transcribe(pcm) == ""


def test_silence_and_noise_are_not_speech(engines: SpeechEngines) -> None:
    """Silence and noise start no utterance."""
    noise = np.random.default_rng(7).normal(0, 600, SPEECH_RATE * 2).astype("<i2").tobytes()
    segmenter = Segmenter(engines.vad())
    assert segmenter.feed(bytes(64_000) + noise) == []


def test_an_utterance_ends_after_its_last_word(engines: SpeechEngines) -> None:
    """The utterance starts before the first word and ends about `silence_duration_ms` after the last one."""
    (said, pcm) = clips("synthetic")[0]
    events = Segmenter(engines.vad()).feed(bytes(32_000) + pcm + bytes(64_000))
    assert [type(event) for event in events] == [SpeechStarted, SpeechStopped], said
    assert 700 <= events[0].at_ms <= 1300
    assert events[1].at_ms <= 1000 + len(pcm) // 32 + 700


def test_loading_reports_progress() -> None:
    """The progress names each model file and engine, and ends each at 1."""
    seen: dict[str, float] = {}
    load_engines("default", progress=seen.__setitem__)
    assert len(seen) == 10
    assert set(seen.values()) == {1.0}
