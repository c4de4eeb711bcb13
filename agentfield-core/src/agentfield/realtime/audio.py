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

    @property
    def name(self) -> str:
        """The format as people write it: ``pcm16/24000``."""
        return f"{self.codec}/{self.rate}"

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels (not of `opus`, which has no fixed size)."""
        return self.channels * (2 if self.codec == "pcm16" else 1)

    def ms(self, size: int) -> float:
        """Return how long `size` bytes sound, milliseconds (not of `opus`)."""
        return size * 1000 / (self.rate * self.channels * (2 if self.codec == "pcm16" else 1))

    def size(self, ms: float) -> int:
        """Return how many bytes sound for `ms` milliseconds, whole samples (not of `opus`)."""
        return int(ms * self.rate / 1000) * self.frame
