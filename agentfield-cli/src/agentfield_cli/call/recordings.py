"""Recordings of the terminal caller: reads any audio file as 48 kHz mono, writes WAV, resamples, measures loudness."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from agentfield.errors import InvalidInput
from agentfield.recordings import FORMATS, MAX_BYTES, RefusedRecording, audible, decode_recording, recording_rate

__all__ = [
    "FRAME",
    "RATE",
    "RATES",
    "Resampler",
    "Samples",
    "check_writable",
    "is_loud",
    "read_recording",
    "read_speech",
    "turn_wav",
    "wav",
    "wire_rate",
    "write_recording",
]

Samples = NDArray[np.int16]

RATE = 48_000
"""Samples per second of everything that the caller speaks and hears."""

FRAME = RATE // 50
"""Samples per frame (20 ms)."""

RATES = (8000, 16_000, 24_000, 48_000)
"""Sample rates that a control plane accepts."""

_LOUD = 32768 * 10 ** (-45 / 20)
"""Root mean square of -45 dBFS."""
_RAW_TYPES = {".gsm": "audio/gsm", ".g722": "audio/g722", ".ul": "audio/pcmu", ".al": "audio/pcma"}
"""Media types of formats without a header, by suffix."""


def is_loud(frame: Samples) -> bool:
    """Tell whether a frame is above -45 dBFS (root mean square)."""
    return bool(np.sqrt(np.mean(np.square(frame.astype(np.float64)))) > _LOUD) if frame.size else False


def read_recording(path: Path) -> Samples:
    """Return a recording of any format that the control plane takes as 48 kHz mono.

    Raises:
        InvalidInput: The file is missing, not audio, empty, or longer than ten minutes (code `bad_recording`).
    """
    try:
        with path.open("rb") as file:
            samples = decode_recording(file, RATE, media_type=_media_type(path))
    except RefusedRecording as refused:
        raise _bad(path, refused.reason) from refused
    except OSError as error:
        raise _bad(path, error.strerror or type(error).__name__) from error
    return np.frombuffer(samples, "<i2").astype(np.int16)


def read_speech(path: Path) -> Samples:
    """Return a recording that the caller will speak, as `read_recording` does.

    Raises:
        InvalidInput: As `read_recording`, and for a silent recording (code `bad_recording`).
    """
    samples = read_recording(path)
    if not audible(samples.astype("<i2").tobytes()):
        raise _bad(path, "it is silent")
    return samples


def wire_rate(paths: Sequence[Path]) -> int:
    """Return the rate to send recordings at: their own rate if they share one that is in `RATES`, else 24000."""
    rates = set[int]()
    for path in paths:
        with path.open("rb") as file:
            rates.add(recording_rate(file, media_type=_media_type(path)))
    return next(iter(rates)) if len(rates) == 1 and rates <= set(RATES) else 24_000


class Resampler:
    """Streaming resampler of mono samples.

    Args:
        source: Samples per second of the input.
        target: Samples per second of the output.
    """

    def __init__(self, source: int, target: int) -> None:
        import av

        self._source = source
        self._resampler = None if source == target else av.AudioResampler(format="s16", layout="mono", rate=target)

    def __call__(self, samples: Samples) -> Samples:
        """Return the samples that are ready; the resampler keeps some for the next call."""
        if self._resampler is None or not samples.size:
            return samples
        import av

        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._source
        return self._join(frame)

    def flush(self) -> Samples:
        """Return the samples that are left; the resampler must not be used again."""
        return np.zeros(0, np.int16) if self._resampler is None else self._join(None)

    def _join(self, frame: Any) -> Samples:
        pieces = [] if self._resampler is None else self._resampler.resample(frame)
        return np.concatenate(
            [np.zeros(0, np.int16), *(piece.to_ndarray().reshape(-1).astype(np.int16, copy=False) for piece in pieces)]
        )


def turn_wav(samples: Samples, rate: int) -> bytes:
    """Return `wav` for a recorded turn: at 16 kHz if it has more bytes at `rate` than the control plane takes."""
    return wav(samples, rate if samples.size / RATE * rate * 2 + 44 <= MAX_BYTES else 16_000)


def wav(samples: Samples, rate: int) -> bytes:
    """Return 48 kHz mono samples as a 16-bit WAV file at `rate`."""
    resampler = Resampler(RATE, rate)
    resampled = np.concatenate([resampler(samples), resampler.flush()])
    file = io.BytesIO()
    _write(file, resampled, rate)
    return file.getvalue()


def check_writable(path: Path) -> Path:
    """Return `path` if a file can be written there; checked before a call, so that its recording is not lost.

    Raises:
        InvalidInput: The folder does not exist or is not writable, or `path` is a folder (code `not_writable`).
    """
    if path.is_dir():
        raise _not_writable(path, "it is a folder")
    if not path.absolute().parent.is_dir():
        raise _not_writable(path, "its folder does not exist")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise _not_writable(path, "permission denied")
    return path


def _media_type(path: Path) -> str:
    return _RAW_TYPES.get(path.suffix.lower(), "")


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be used as a recording: {why}.",
        code="bad_recording",
        hint=f"give a file with speech: {FORMATS}",
        field="audio",
    )


def write_recording(path: Path, samples: Samples) -> None:
    """Write 48 kHz mono samples as a 16-bit WAV file.

    Raises:
        InvalidInput: The file cannot be written.
    """
    try:
        with path.open("wb") as file:
            _write(file, samples, RATE)
    except OSError as error:
        raise _not_writable(path, error.strerror or type(error).__name__) from error


def _write(file: BinaryIO, samples: Samples, rate: int) -> None:
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.astype("<i2").tobytes())


def _not_writable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be written: {why}.",
        code="not_writable",
        hint="give --save the name of a file in a folder that exists",
        field="save",
    )
