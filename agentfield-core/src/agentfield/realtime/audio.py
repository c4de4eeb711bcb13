"""`AudioFormat`: codec, sample rate and channels, with size and duration arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AudioFormat"]


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """An audio format: `pcm16` is signed 16-bit little-endian, `pcmu` and `pcma` are ITU-T G.711."""

    codec: Literal["pcm16", "pcmu", "pcma", "opus"]
    """16-bit samples in little-endian order (`pcm16`), G.711 µ-law or A-law, or Opus."""
    rate: int
    """Samples per second."""
    channels: int = 1
    """Channels; carried audio has one."""

    @property
    def name(self) -> str:
        """The format as text: ``pcm16/24000``."""
        return f"{self.codec}/{self.rate}"

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels (not for `opus`, which has no fixed size)."""
        return self.channels * (2 if self.codec == "pcm16" else 1)

    def ms(self, size: int) -> float:
        """Return the duration of `size` bytes in milliseconds (not for `opus`)."""
        return size * 1000 / (self.rate * self.channels * (2 if self.codec == "pcm16" else 1))

    def size(self, ms: float) -> int:
        """Return the bytes of `ms` milliseconds, rounded down to whole samples (not for `opus`)."""
        return int(ms * self.rate / 1000) * self.frame
