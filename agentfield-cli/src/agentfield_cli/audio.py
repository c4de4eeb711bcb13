"""Recordings of the terminal caller: any audio file in, 48 kHz mono out, and how loud it is."""

from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentfield.errors import InvalidInput

__all__ = ["FRAME", "RATE", "Samples", "check_writable", "is_loud", "read_recording", "read_speech", "write_recording"]

Samples = NDArray[np.int16]

RATE = 48_000
"""Samples per second of everything the caller says and hears."""

FRAME = RATE // 50
"""Samples of 20 ms."""

_LOUD = 32768 * 10 ** (-45 / 20)
_LONGEST = 600


def is_loud(frame: Samples) -> bool:
    """Tell whether a frame is above -45 dBFS (root mean square)."""
    return bool(np.sqrt(np.mean(np.square(frame.astype(np.float64)))) > _LOUD) if frame.size else False


def read_recording(path: Path) -> Samples:
    """Return a recording of any rate, format and number of channels as 48 kHz mono.

    Raises:
        InvalidInput: It is not there, is no audio, is empty or longer than ten minutes (code `bad_recording`).
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise _bad(path, "it has no audio")
            samples = _decode(container)
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise _bad(path, "it is no audio, or it is cut off in its header") from error
    except OSError as error:  # a file that cannot be read
        raise _bad(path, error.strerror or type(error).__name__) from error
    except ValueError as error:
        raise _bad(path, str(error)) from error
    if not samples.size:
        raise _bad(path, "it has no samples")
    return samples


def read_speech(path: Path) -> Samples:
    """Return a recording that is to be spoken, as `read_recording` does.

    Raises:
        InvalidInput: The same, and one in which nothing can be heard (code `bad_recording`).
    """
    samples = read_recording(path)
    padded = np.pad(samples, (0, -samples.size % FRAME)).reshape(-1, FRAME)
    if not any(is_loud(frame) for frame in padded):
        raise _bad(path, "it is silent, nothing in it is louder than -45 dBFS")
    return samples


def check_writable(path: Path) -> Path:
    """Return the path of a file that can be made; checked before a call, so that the call is not made in vain.

    Raises:
        InvalidInput: Its folder is not there or may not be written to, or it is a folder itself (code `not_writable`).
    """
    if path.is_dir():
        raise _not_writable(path, "it is a folder")
    if not path.absolute().parent.is_dir():
        raise _not_writable(path, "its folder does not exist")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise _not_writable(path, "permission denied")
    return path


def _decode(container: Any) -> Samples:
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    pieces: list[Samples] = []
    length = 0
    for frame in [*container.decode(audio=0), None]:
        for out in resampler.resample(frame):
            pieces.append(out.to_ndarray().reshape(-1).astype(np.int16, copy=False))
            length += pieces[-1].size
    if length > RATE * _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST // 60} minutes")
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be used as a recording: {why}.",
        code="bad_recording",
        hint="give a WAV file with speech, any rate, mono or stereo",
        field="audio",
    )


def write_recording(path: Path, samples: Samples) -> None:
    """Write 48 kHz mono samples as a 16-bit WAV file.

    Raises:
        InvalidInput: The file cannot be written.
    """
    try:
        with path.open("wb") as whole, wave.open(whole, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.astype("<i2").tobytes())
    except OSError as error:
        raise _not_writable(path, error.strerror or type(error).__name__) from error


def _not_writable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be written: {why}.",
        code="not_writable",
        hint="give --save the name of a file in a folder that exists",
        field="save",
    )
