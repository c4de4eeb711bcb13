"""Synthetic engines without models, for tests of protocols: loudness, scripted texts and tones."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from threading import Lock

from agentfield_local.speech.clauses import split_clauses
from agentfield_local.speech.loudness import amplitude, rms
from agentfield_local.speech.protocols import SPEECH_RATE, SpeechEngines

__all__ = ["EnergyVad", "FixedStt", "ToneTts", "synthetic_engines"]

_CHUNK_SAMPLES = SPEECH_RATE // 50
_SPEECH_RMS = amplitude(-45.0)
_TONE_AMPLITUDE = 8000
_TONE_HERTZ = 440
_TONE_MS_A_CHARACTER = 50
_TONE_GAP_MS = 40


class EnergyVad:
    """Voice activity by loudness alone: a frame of 20 ms above -45 dBFS is speech."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of 16 kHz s16le mono that `probability` takes at a time: 20 ms."""
        return _CHUNK_SAMPLES * 2

    def probability(self, chunk: bytes) -> float:
        """Return 1.0 for a loud chunk, 0.0 for a quiet one."""
        return 1.0 if rms(chunk) > _SPEECH_RMS else 0.0


class FixedStt:
    """Returns scripted texts in order, one per utterance; repeats the last one.

    Args:
        texts: The transcripts.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = list(texts) or ["hello"]
        self._lock = Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the next scripted text; "" for silence, which consumes none."""
        if rms(pcm) == 0:
            return ""
        with self._lock:
            return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]


class ToneTts:
    """Speaks a tone of 50 ms per character, with a short gap after each clause."""

    @property
    def rate(self) -> int:
        """Samples per second of what `say` yields."""
        return SPEECH_RATE

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its voices; the second is the one that the pairs of `local` ask for."""
        return ("tone", "joe")

    def say(self, text: str) -> Iterator[bytes]:
        """Yield s16le mono audio clause by clause; nothing for text without words."""
        for clause in split_clauses(text):
            yield _tone(len(clause) * _TONE_MS_A_CHARACTER) + bytes(_TONE_GAP_MS * SPEECH_RATE // 1000 * 2)


def synthetic_engines(texts: Iterable[str] = ()) -> SpeechEngines:
    """Return the synthetic engines.

    Args:
        texts: Transcripts of its speech-to-text, in order.
    """
    return SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(texts), tts=ToneTts(), early=False)


def _tone(milliseconds: int) -> bytes:
    step = 2 * math.pi * _TONE_HERTZ / SPEECH_RATE
    count = milliseconds * SPEECH_RATE // 1000
    return struct.pack(f"<{count}h", *(round(_TONE_AMPLITUDE * math.sin(step * index)) for index in range(count)))
