"""Speech to text by Moonshine's tiny English model, through moonshine-voice."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from agentfield_local.speech.errors import SpeechFailed
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["MoonshineStt"]

_FULL_SCALE = 32768.0
_LEAST_SAMPLES = SPEECH_RATE // 10
_AFTER_SAMPLES = SPEECH_RATE // 2
"""Silence put after every utterance: without enough of it the model takes the last words for a sentence unfinished."""
_QUIET_PEAK = 10 ** (-50 / 20)
"""Audio that never rises above -50 dBFS is silence: the model answers it with words that nobody said."""


class MoonshineStt:
    """Offline English speech to text; calls are serialised, because the engine gains nothing from overlap.

    Args:
        model: the folder of the model's files.

    Raises:
        MoonshineError: the model could not be loaded.
    """

    def __init__(self, model: Path) -> None:
        from moonshine_voice import ModelArch, Transcriber

        # The inner voice detection is off: it loses words and invents some; utterances come already cut.
        self._transcriber = Transcriber(str(model), ModelArch.TINY, options={"vad_threshold": "0.0"})
        self._lock = Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the words in `pcm` (16 kHz s16le mono), "" where there are none.

        Raises:
            SpeechFailed: the engine broke on this utterance.
        """
        import numpy as np
        from moonshine_voice import MoonshineError

        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / _FULL_SCALE
        if len(samples) < _LEAST_SAMPLES or float(np.abs(samples).max()) < _QUIET_PEAK:
            return ""
        try:
            with self._lock:
                heard = [*samples.tolist(), *[0.0] * _AFTER_SAMPLES]
                transcript = self._transcriber.transcribe_without_streaming(heard, SPEECH_RATE)
        except MoonshineError as error:
            raise SpeechFailed(
                f"speech-to-text failed on {len(samples) / SPEECH_RATE:.1f} s of audio: {error}",
                hint="the engine is still usable: ask the caller to say it again",
            ) from error
        return " ".join(line.text.strip() for line in transcript.lines).strip()
