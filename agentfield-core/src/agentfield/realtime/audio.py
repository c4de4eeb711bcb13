"""Audio formats, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AudioFormat"]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How samples are written: `pcm16` is signed little-endian, `pcmu` and `pcma` are ITU-T G.711."""

    codec: Literal["pcm16", "pcmu", "pcma", "opus"]
    rate: int
    """Samples per second."""
    channels: int = 1
