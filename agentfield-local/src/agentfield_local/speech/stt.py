"""Speech to text by Moonshine's tiny English model, through moonshine-voice."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from agentfield_local.speech.errors import SpeechFailed
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["MoonshineStt"]

_FULL_SCALE = 32768.0
_MIN_SAMPLES = SPEECH_RATE // 10
_APPENDED_SAMPLES = SPEECH_RATE // 2
"""Silence appended to every utterance: without it, the model treats the last words as an unfinished sentence."""
_QUIET_PEAK = 10 ** (-50 / 20)
"""Peak of silence, -50 dBFS: the model invents words for quieter audio."""


class MoonshineStt:
    """Offline English speech to text; calls are serialised, since the engine is not faster in parallel.

    Args:
        model: Folder of the model files.

    Raises:
        MoonshineError: The model could not be loaded.
    """

    def __init__(self, model: Path) -> None:
        from moonshine_voice import ModelArch, Transcriber

        # Its own VAD is off: it loses and invents words, and utterances are segmented already.
        self._transcriber = Transcriber(str(model), ModelArch.TINY, options={"vad_threshold": "0.0"})
        self._lock = Lock()

    def transcribe(self, pcm: bytes) -> str:
        """Return the words in `pcm` (16 kHz s16le mono); "" if there are none.

        Raises:
            SpeechFailed: The engine failed on this utterance.
        """
        import numpy as np
        from moonshine_voice import MoonshineError

        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / _FULL_SCALE
        if len(samples) < _MIN_SAMPLES or float(np.abs(samples).max()) < _QUIET_PEAK:
            return ""
        try:
            with self._lock:
                padded = [*samples.tolist(), *[0.0] * _APPENDED_SAMPLES]
                transcript = self._transcriber.transcribe_without_streaming(padded, SPEECH_RATE)
        except MoonshineError as error:
            raise SpeechFailed(
                f"speech-to-text failed on {len(samples) / SPEECH_RATE:.1f} s of audio: {error}",
                hint="the engine is still usable: ask the caller to say it again",
            ) from error
        return " ".join(line.text.strip() for line in transcript.lines).strip()
