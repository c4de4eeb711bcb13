"""The caller's audio that no item holds yet, on the clock of the audio itself."""

from __future__ import annotations

from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["InputBuffer"]

_BYTES_PER_MS = SPEECH_RATE * 2 // 1000
_MAX_INSIDE_MS = 10.0
_MAX_BYTES = 600_000 * _BYTES_PER_MS


class InputBuffer:
    """At most ten minutes of 16 kHz s16le mono; the oldest goes first."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._heard_bytes = 0
        self._wire_ms = 0.0

    def expect(self, ms: float) -> None:
        """Say how long the audio is that a client appended, before it is decoded; a resampler keeps some inside."""
        self._wire_ms += ms

    @property
    def heard_ms(self) -> int:
        """All audio ever heard, in ms; the clock of `audio_start_ms` and `audio_end_ms`."""
        return self._heard_bytes // _BYTES_PER_MS

    @property
    def held_ms(self) -> float:
        """Audio that a commit would take, in ms, what a resampler still keeps included."""
        inside = self._wire_ms - self._heard_bytes / _BYTES_PER_MS
        return len(self._held) / _BYTES_PER_MS + min(max(inside, 0.0), _MAX_INSIDE_MS)

    def append(self, pcm: bytes) -> None:
        """Add audio."""
        self._heard_bytes += len(pcm)
        self._held += pcm
        if len(self._held) > _MAX_BYTES:
            del self._held[: len(self._held) - _MAX_BYTES]

    def take(self) -> bytes:
        """Return what is held and forget it."""
        taken = bytes(self._held)
        self._held.clear()
        return taken

    def drop_until(self, at_ms: int) -> None:
        """Forget what was heard before a moment of the audio's clock."""
        keep = max(0, self._heard_bytes - at_ms * _BYTES_PER_MS)
        if keep < len(self._held):
            del self._held[: len(self._held) - keep]
