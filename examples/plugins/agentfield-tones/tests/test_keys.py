"""Keys are found in sound that is not ideal, and nowhere else."""

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
def test_what_was_keyed_is_heard(text: str, offset: int) -> None:
    """Keys and text are the same after their way through sound, wherever blocks begin."""
    keys = keys_of(text)
    sound = bytes(2 * offset) + b"".join(map(sound_of, keys)) + SILENCE
    ear = KeyDetector()
    heard = "".join(ear.hear(sound[at : at + 333]) for at in range(0, len(sound), 333))
    assert heard == keys
    assert text_of(heard) == text
    assert ear.silent_ms > 400


def test_keys_are_heard_through_noise() -> None:
    """A noisy line loses no key."""
    noise = random.Random(7)
    sound = array.array("h", b"".join(map(sound_of, "0123456789ABCD*#")) + SILENCE)
    noisy = array.array("h", (sample + noise.randint(-700, 700) for sample in sound))
    assert KeyDetector().hear(noisy.tobytes()) == "0123456789ABCD*#"


def test_what_is_no_key_is_none() -> None:
    """Neither one tone, nor noise, nor silence is a key."""
    hum = array.array("h", (round(8000 * math.sin(2 * math.pi * 697 * at / RATE)) for at in range(RATE)))
    noise = array.array("h", (random.Random(at).randint(-8000, 8000) for at in range(RATE)))
    for sound in (hum.tobytes(), noise.tobytes(), SILENCE):
        assert KeyDetector().hear(sound) == ""


def test_a_song_that_was_stopped_is_remembered_as_heard() -> None:
    """Of a song that was cut, whole words by estimate, whether it was cut before or after it ended; else all of it."""
    history = History()
    history.add("user", "1#")
    history.sung("song_1", "one two three four")
    history.cut("song_1", 1800)
    history.cut("song_2", 0)
    history.sung("song_2", "never heard")
    history.sung("song_3", "whole")
    assert history.said() == [["user", "1#"], ["assistant", "one two"], ["assistant", "whole"]]
