"""Sounds for tests: tones, silence and WAV files."""

from __future__ import annotations

import io
import wave

import numpy as np

from agentfield_cli.call.recordings import RATE, Samples

__all__ = ["silence", "tone", "tone_samples", "wav"]


def tone(ms: int, rate: int = 24_000, hertz: int = 300) -> bytes:
    """Return a loud tone, s16le mono."""
    at = np.arange(rate * ms // 1000) / rate
    return bytes((8000 * np.sin(2 * np.pi * hertz * at)).astype("<i2").tobytes())


def silence(ms: int, rate: int) -> bytes:
    """Return silence, s16le mono."""
    return b"\0" * (rate * ms // 1000 * 2)


def tone_samples(seconds: float = 0.6) -> Samples:
    """Return a tone as the terminal caller speaks it, 48 kHz mono; the synthetic engines take it for speech."""
    return np.frombuffer(tone(round(seconds * 1000), RATE), np.int16).copy()


def wav(samples: bytes, rate: int = 24_000, channels: int = 1) -> bytes:
    """Return s16le samples as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return out.getvalue()
