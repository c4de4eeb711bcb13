"""Protocols of speech engines: synchronous, CPU-bound, and called from worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["SPEECH_RATE", "SpeechEngines", "Stt", "Tts", "Vad"]

SPEECH_RATE = 16_000
"""Samples per second of all audio for VAD and speech-to-text: signed 16-bit little-endian mono."""


class Vad(Protocol):
    """Voice activity detection of one audio stream; it keeps state, so each caller needs its own."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of 16 kHz s16le mono that `probability` takes at a time."""

    def probability(self, chunk: bytes) -> float:
        """Return the probability of speech in the chunk, 0 to 1."""


class Stt(Protocol):
    """Speech to text, one utterance at a time."""

    def transcribe(self, pcm: bytes) -> str:
        """Return the words in `pcm` (16 kHz s16le mono); "" if there are none."""


class Tts(Protocol):
    """Text to speech, clause by clause, so that playback can start and stop early."""

    @property
    def rate(self) -> int:
        """Samples per second of what `say` yields."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its voices."""

    def say(self, text: str) -> Iterator[bytes]:
        """Yield s16le mono audio clause by clause; nothing for text without words."""


@dataclass(frozen=True, slots=True)
class SpeechEngines:
    """One set of engines; all calls share `stt` and `tts`, and each caller gets its own `Vad`.

    Attributes:
        name: Name of the set.
        vad: Creates the voice activity detection of a caller.
        stt: Speech to text.
        tts: Text to speech.
        early: Whether `stt` may transcribe a turn that may continue; not if every call consumes a scripted text.
        echo: Whether a WebRTC caller hears itself instead of speech, to measure the media path.
    """

    name: str
    vad: Callable[[], Vad]
    stt: Stt
    tts: Tts
    early: bool = True
    echo: bool = False
