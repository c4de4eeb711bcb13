"""Input audio buffer: the caller's audio that no item contains yet, timed by the audio itself."""

from __future__ import annotations

from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["InputAudioBuffer"]

_BYTES_PER_MS = SPEECH_RATE * 2 // 1000
_MAX_RESAMPLER_MS = 10.0
_MAX_BYTES = 600_000 * _BYTES_PER_MS


class InputAudioBuffer:
    """At most ten minutes of 16 kHz s16le mono; the oldest audio is dropped first."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._heard_bytes = 0
        self._wire_ms = 0.0

    def expect(self, ms: float) -> None:
        """Count the length of appended audio before it is decoded, since the resampler delays some of it."""
        self._wire_ms += ms

    @property
    def heard_ms(self) -> int:
        """Milliseconds of all audio so far; the clock of `audio_start_ms` and `audio_end_ms`."""
        return self._heard_bytes // _BYTES_PER_MS

    @property
    def buffered_ms(self) -> float:
        """Milliseconds that a commit would take, including audio inside the resampler."""
        delayed = self._wire_ms - self._heard_bytes / _BYTES_PER_MS
        return len(self._buffer) / _BYTES_PER_MS + min(max(delayed, 0.0), _MAX_RESAMPLER_MS)

    def append(self, pcm: bytes) -> None:
        """Append audio."""
        self._heard_bytes += len(pcm)
        self._buffer += pcm
        if len(self._buffer) > _MAX_BYTES:
            del self._buffer[: len(self._buffer) - _MAX_BYTES]

    def take(self) -> bytes:
        """Return the buffered audio and empty the buffer."""
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def drop_until(self, at_ms: int) -> None:
        """Drop the audio before a position of the audio's clock."""
        keep = max(0, self._heard_bytes - at_ms * _BYTES_PER_MS)
        if keep < len(self._buffer):
            del self._buffer[: len(self._buffer) - keep]
