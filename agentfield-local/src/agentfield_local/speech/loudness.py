"""Loudness of s16le mono audio, and removal of leading silence; without dependencies."""

from __future__ import annotations

import math
import struct

__all__ = ["amplitude", "rms", "trim_onset"]

_FULL_SCALE = 32_768
_SILENCE_DBFS = -50.0
_KEPT_MS = 20
_STEP_MS = 5


def amplitude(dbfs: float) -> float:
    """Return a level in dBFS as a level in sample units."""
    return float(_FULL_SCALE * 10 ** (dbfs / 20))


def rms(pcm: bytes) -> float:
    """Return the root mean square of the samples; 0.0 without samples."""
    count = len(pcm) // 2
    if not count:
        return 0.0
    samples = struct.unpack(f"<{count}h", pcm[: count * 2])
    return math.sqrt(sum(sample * sample for sample in samples) / count)


def trim_onset(pcm: bytes, rate: int) -> bytes:
    """Return speech without its leading silence (below -50 dBFS), except for 20 ms.

    Args:
        pcm: s16le mono; all-silent audio is returned unchanged.
        rate: Samples per second.
    """
    step = rate * _STEP_MS // 1000 * 2
    silence = amplitude(_SILENCE_DBFS)
    for start in range(0, len(pcm), step):
        if rms(pcm[start : start + step]) > silence:
            return pcm[max(start - _KEPT_MS // _STEP_MS * step, 0) :]
    return pcm
