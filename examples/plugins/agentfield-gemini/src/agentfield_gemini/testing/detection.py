"""Automatic activity detection of the fake, on the energy of the audio."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

__all__ = ["INPUT_RATE", "ActivityDetector"]

INPUT_RATE = 16_000
_LOUD = 1500
_BLOCK = INPUT_RATE // 50 * 2
"""Bytes of 20 ms."""


class ActivityDetector:
    """Finds speech in audio.

    Args:
        config: `automaticActivityDetection` of the setup.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.disabled = bool(config.get("disabled"))
        self.heard_ms = 0
        """Position in the audio."""
        self.active = False
        self._least_speech_ms = config.get("prefixPaddingMs", 40)
        self._least_silence_ms = config.get("silenceDurationMs", 500)
        self._loud_ms = 0
        self._silent_ms = 0
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Literal["start", "speech", "end"]]:
        """Yield what happens in a piece of audio: activity starts, goes on for another 100 ms, or ends."""
        data = self._rest + data
        whole = len(data) // _BLOCK * _BLOCK
        self._rest = data[whole:]
        for at in range(0, whole, _BLOCK):
            self.heard_ms += 20
            loud = _peak(data[at : at + _BLOCK]) > _LOUD
            self._silent_ms = 0 if loud else self._silent_ms + 20
            self._loud_ms = self._loud_ms + 20 if loud else self._loud_ms if self.active else 0
            if not self.active and self._loud_ms >= self._least_speech_ms:
                self.active = True
                yield "start"
            elif self.active and loud and self._loud_ms % 100 == 0:
                yield "speech"
            elif self.active and self._silent_ms >= self._least_silence_ms and not self.disabled:
                self.active, self._loud_ms = False, 0
                yield "end"


def _peak(data: bytes) -> int:
    samples = array.array("h", data)
    if sys.byteorder == "big":
        samples.byteswap()
    return max(map(abs, samples), default=0)
