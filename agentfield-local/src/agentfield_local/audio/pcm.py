"""Stateless sample arithmetic: G.711 and linear resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WEBRTC_RATE", "alaw_decode", "alaw_encode", "resample_linear", "ulaw_decode", "ulaw_encode"]

WEBRTC_RATE = 48_000
"""Samples per second of WebRTC audio."""

_ULAW_BIAS = 0x84
_ULAW_CLIP = 32_635


def resample_linear(pcm: bytes, source_rate: int, target_rate: int) -> bytes:
    """Return s16le mono at another rate by linear interpolation: no filter, so for analysis rather than listening."""
    samples = np.frombuffer(pcm, "<i2")
    if not samples.size:
        return b""
    count = samples.size * target_rate // source_rate
    at = np.arange(count) * (source_rate / target_rate)
    return bytes(np.interp(at, np.arange(samples.size), samples).astype("<i2").tobytes())


def ulaw_decode(data: bytes) -> bytes:
    """Return s16le samples of G.711 mu-law bytes (ITU-T G.711)."""
    code = ~np.frombuffer(data, np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) << 3) + _ULAW_BIAS) << ((code >> 4) & 0x07).astype(np.int32)
    value = magnitude - _ULAW_BIAS
    return bytes(np.where(code & 0x80, -value, value).astype("<i2").tobytes())


def ulaw_encode(pcm: bytes) -> bytes:
    """Return G.711 mu-law bytes of s16le samples (ITU-T G.711)."""
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    magnitude = np.minimum(np.abs(samples), _ULAW_CLIP) + _ULAW_BIAS
    exponent = _exponent(magnitude >> 7)
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    sign = np.where(samples < 0, 0x80, 0)
    return bytes((~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes())


def alaw_decode(data: bytes) -> bytes:
    """Return s16le samples of G.711 A-law bytes (ITU-T G.711)."""
    code = np.frombuffer(data, np.uint8) ^ 0x55
    exponent = ((code >> 4) & 0x07).astype(np.int32)
    mantissa = ((code & 0x0F).astype(np.int32) << 4) + 8
    magnitude = np.where(exponent == 0, mantissa, (mantissa + 0x100) << np.maximum(exponent - 1, 0))
    return bytes(np.where(code & 0x80, magnitude, -magnitude).astype("<i2").tobytes())


def alaw_encode(pcm: bytes) -> bytes:
    """Return G.711 A-law bytes of s16le samples (ITU-T G.711)."""
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    magnitude = np.minimum(np.where(samples < 0, ~samples, samples), 32_767)
    exponent = _exponent(magnitude >> 7)
    mantissa = (magnitude >> np.where(exponent == 0, 4, exponent + 3)) & 0x0F
    sign = np.where(samples < 0, 0, 0x80)
    return bytes(((sign | (exponent << 4) | mantissa) ^ 0x55).astype(np.uint8).tobytes())


def _exponent(scaled: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the position of the highest bit, 0 to 7, of numbers below 256."""
    found = np.zeros_like(scaled)
    for bit in range(1, 8):
        found[scaled >= 1 << bit] = bit
    return found
