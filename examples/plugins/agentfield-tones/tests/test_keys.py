"""Encoding and detection of keys, and the history of a session."""

from __future__ import annotations

import array
import math
import random

import pytest

from agentfield_tones.history import History
from agentfield_tones.keys import RATE, KeyDetector, keys_of, sound_of, text_of

SILENCE = bytes(RATE)


@pytest.mark.parametrize("text", ["42#", "1112222*", "**1", "where is my order", "Grüße, 世界 🙂", ""])
@pytest.mark.parametrize("offset", [0, 37, 159])
def test_encoded_text_is_detected_again(text: str, offset: int) -> None:
    """Keys and text survive encoding and detection, at any block offset."""
    keys = keys_of(text)
    sound = bytes(2 * offset) + b"".join(map(sound_of, keys)) + SILENCE
    detector = KeyDetector()
    heard = "".join(detector.feed(sound[at : at + 333]) for at in range(0, len(sound), 333))
    assert heard == keys
    assert text_of(heard) == text
    assert detector.silent_ms > 400


def test_keys_are_detected_in_noise() -> None:
    """No key is lost in noise."""
    noise = random.Random(7)
    sound = array.array("h", b"".join(map(sound_of, "0123456789ABCD*#")) + SILENCE)
    noisy = array.array("h", (sample + noise.randint(-700, 700) for sample in sound))
    assert KeyDetector().feed(noisy.tobytes()) == "0123456789ABCD*#"


def test_other_sounds_are_no_keys() -> None:
    """A single tone, noise and silence are not detected as keys."""
    hum = array.array("h", (round(8000 * math.sin(2 * math.pi * 697 * at / RATE)) for at in range(RATE)))
    noise = array.array("h", (random.Random(at).randint(-8000, 8000) for at in range(RATE)))
    for sound in (hum.tobytes(), noise.tobytes(), SILENCE):
        assert KeyDetector().feed(sound) == ""


def test_an_interrupted_song_is_truncated() -> None:
    """A song keeps the whole words that were heard, whether it is truncated before or after it is added."""
    history = History()
    history.add("user", "1#")
    history.add_song("song_1", "one two three four")
    history.truncate("song_1", 1800)
    history.truncate("song_2", 0)
    history.add_song("song_2", "never heard")
    history.add_song("song_3", "whole")
    assert history.lines() == [["user", "1#"], ["assistant", "one two"], ["assistant", "whole"]]
