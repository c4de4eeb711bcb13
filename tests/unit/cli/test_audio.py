"""Recordings of the terminal caller: any audio file is read as 48 kHz mono, or refused with a reason."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from agentfield.errors import InvalidInput
from agentfield_cli.call.recordings import FRAME, RATE, is_loud, read_recording, write_recording


def sine(rate: int, seconds: float, level: float = 0.3) -> np.ndarray:
    at = np.arange(int(rate * seconds)) / rate
    return (32767 * level * np.sin(2 * np.pi * 440 * at)).astype(np.int16)


def write(path, samples: np.ndarray, rate: int, channels: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples, channels).astype("<i2").tobytes())


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_mono_or_stereo(tmp_path, rate, channels):
    """A recording of any rate, mono or stereo, keeps its length and its pitch."""
    write(tmp_path / "a.wav", sine(rate, 0.5), rate, channels)
    samples = read_recording(tmp_path / "a.wav")
    assert samples.dtype == np.int16
    assert samples.ndim == 1
    assert abs(samples.size - RATE // 2) < 100
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    assert abs(np.argmax(spectrum) * RATE / samples.size - 440) < 5


def test_a_written_recording_reads_back(tmp_path):
    """A written recording is 16-bit 48 kHz mono and reads back unchanged."""
    samples = sine(RATE, 0.1)
    write_recording(tmp_path / "b.wav", samples)
    with wave.open(str(tmp_path / "b.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (48_000, 1, 2)
    assert np.array_equal(read_recording(tmp_path / "b.wav"), samples)


@pytest.mark.parametrize("content", [None, b"", b"RIFF", b"#!/bin/sh\necho no\n", b"\0" * 5000], ids=repr)
def test_a_file_that_is_not_audio_is_refused(tmp_path, content):
    """A missing, empty, truncated or non-audio file is refused by name."""
    path = tmp_path / "c.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"c\.wav cannot be used as a recording") as caught:
        read_recording(path)
    assert caught.value.code == "bad_recording"


def test_a_folder_and_an_empty_recording_are_refused(tmp_path):
    """A folder, and a recording without samples, are refused."""
    with pytest.raises(InvalidInput, match="cannot be used"):
        read_recording(tmp_path)
    write(tmp_path / "d.wav", sine(16_000, 0), 16_000, 1)
    with pytest.raises(InvalidInput, match="cannot be used"):
        read_recording(tmp_path / "d.wav")


def test_an_unwritable_path_is_refused(tmp_path):
    """Saving into a folder that does not exist is refused."""
    with pytest.raises(InvalidInput, match="cannot be written") as caught:
        write_recording(tmp_path / "no" / "e.wav", sine(RATE, 0.1))
    assert caught.value.code == "not_writable"


def test_loud_is_above_minus_45_dbfs():
    """A frame counts as loud if its root mean square is above -45 dBFS."""
    level = 10 ** (-45 / 20) * np.sqrt(2)
    assert is_loud(sine(RATE, 0.02, level * 1.1)[:FRAME])
    assert not is_loud(sine(RATE, 0.02, level * 0.9)[:FRAME])
    assert not is_loud(np.zeros(0, np.int16))
