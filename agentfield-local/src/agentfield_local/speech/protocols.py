"""What a speech engine must do: three small protocols, all synchronous and CPU-bound, called from worker threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["SPEECH_RATE", "SpeechEngines", "Stt", "Tts", "Vad"]

SPEECH_RATE = 16_000
"""Samples per second of everything that is listened to: signed 16-bit little-endian mono."""


class Vad(Protocol):
    """Voice activity of one audio stream; keeps state, so one a caller."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of 16 kHz s16le mono that `probability` takes at a time."""

    def probability(self, chunk: bytes) -> float:
        """Return how likely the chunk holds speech, 0 to 1."""


class Stt(Protocol):
    """Speech to text, one utterance at a time."""

    def transcribe(self, pcm: bytes) -> str:
        """Return the words in `pcm` (16 kHz s16le mono), "" where there are none."""


class Tts(Protocol):
    """Text to speech in pieces of a clause, so that playback can begin and stop early."""

    @property
    def rate(self) -> int:
        """Samples per second of what `say` yields."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices it has."""

    def say(self, text: str) -> Iterator[bytes]:
        """Yield s16le mono audio, a clause at a time; nothing for text without words."""


@dataclass(frozen=True, slots=True)
class SpeechEngines:
    """One set of engines, chosen by name; `stt` and `tts` are shared by all calls, a `Vad` is made for each.

    Attributes:
        name: what the set is called.
        vad: makes the voice activity detection of a caller.
        stt: speech to text.
        tts: text to speech.
        early: whether `stt` may be asked in a pause already, about a turn that may go on; not where every call
            uses up a scripted text.
        echo: whether a WebRTC caller hears itself in place of speech; to measure the path of media.
    """

    name: str
    vad: Callable[[], Vad]
    stt: Stt
    tts: Tts
    early: bool = True
    echo: bool = False
