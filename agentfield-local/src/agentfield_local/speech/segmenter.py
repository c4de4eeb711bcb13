"""Segmentation of a caller's audio into utterances by voice activity. Sans-I/O; the audio is the only clock."""

from __future__ import annotations

from dataclasses import dataclass

from agentfield_local.speech.loudness import amplitude, rms
from agentfield_local.speech.protocols import SPEECH_RATE, Vad

__all__ = ["MAX_UTTERANCE_MS", "Segmenter", "SpeechEvent", "SpeechPaused", "SpeechStarted", "SpeechStopped"]

MAX_UTTERANCE_MS = 60_000
"""Maximum length of an utterance; bounds the memory of a caller with constant background speech."""

_SAMPLE_BYTES = 2
_HYSTERESIS = 0.15
_LOWEST_OFF = 0.01
_SILENCE_RMS = amplitude(-50.0)
_MAX_LAG_MS = 96
"""Maximum lag of detection after the last sound; audio in it that is silent by loudness counts as silence."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began.

    Attributes:
        at_ms: Start of the utterance in milliseconds since the start of the stream, including the prefix padding.
    """

    at_ms: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """An utterance contains a pause and may be complete.

    Attributes:
        at_ms: End of the audio in milliseconds since the start of the stream.
        start_ms: The `at_ms` of its `SpeechStarted`.
        pcm: The audio between the two, 16 kHz s16le mono; it has all words of the utterance if no speech follows.
    """

    at_ms: int
    start_ms: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """An utterance is complete.

    Attributes:
        at_ms: End of the utterance in milliseconds since the start of the stream, including the silence that ended it.
        start_ms: The `at_ms` of its `SpeechStarted`.
        pcm: The audio between the two, 16 kHz s16le mono.
        forced: Whether its length or `Segmenter.finish` ended it instead of silence.
        paused_ms: The `at_ms` of the `SpeechPaused` that only silence has followed; None if there was none.
    """

    at_ms: int
    start_ms: int
    pcm: bytes
    forced: bool = False
    paused_ms: int | None = None


SpeechEvent = SpeechStarted | SpeechPaused | SpeechStopped


class Segmenter:
    """Finds utterances in a stream of 16 kHz s16le mono that is fed in pieces of any size.

    An utterance starts with the first chunk whose probability exceeds `threshold`, and continues while chunks exceed
    `threshold - 0.15`. It ends after `silence_duration_ms` of chunks below that; directly preceding chunks that the VAD
    still takes for speech but that are silent by loudness (below -50 dBFS, at most 96 ms) count too. Times are those of
    the Realtime protocol, in audio since the start of the stream: the start includes the prefix padding, the end the
    silence.

    Args:
        vad: Voice activity detection of this stream.
        threshold: Probability above which speech starts, 0 to 1.
        prefix_padding_ms: Audio before the first speech that is included; it never overlaps the previous utterance.
        silence_duration_ms: Silence that ends an utterance, rounded up to whole chunks.
        max_utterance_ms: Maximum length of an utterance.
        pause_ms: Silence within an utterance that is reported as a pause. None reports none, as does a value that is
            not below `silence_duration_ms`.
    """

    def __init__(
        self,
        vad: Vad,
        threshold: float = 0.5,
        prefix_padding_ms: int = 300,
        silence_duration_ms: int = 500,
        *,
        max_utterance_ms: int = MAX_UTTERANCE_MS,
        pause_ms: int | None = None,
    ) -> None:
        self._vad = vad
        self._chunk_bytes = vad.chunk_bytes
        self._max_bytes = _to_bytes(max_utterance_ms)
        self._buffer = bytearray()
        self._position = 0  # bytes from the start of the stream to the start of the buffer
        self._prefix = bytearray()
        self._utterance: bytearray | None = None
        self._start = 0
        self._silence = 0
        self._quiet = 0  # bytes at the end of the utterance that are silent by loudness
        self._paused: int | None = None
        self._pause_bytes = None if pause_ms is None else _to_bytes(pause_ms)
        self.configure(
            threshold=threshold, prefix_padding_ms=prefix_padding_ms, silence_duration_ms=silence_duration_ms
        )

    def configure(self, *, threshold: float, prefix_padding_ms: int, silence_duration_ms: int) -> None:
        """Change the settings in mid-stream; the clock and an utterance in progress continue."""
        self._on = threshold
        self._off = max(threshold - _HYSTERESIS, _LOWEST_OFF)
        self._prefix_bytes = _to_bytes(prefix_padding_ms)
        self._end_silence_bytes = _to_bytes(silence_duration_ms)

    @property
    def speaking(self) -> bool:
        """Whether an utterance is in progress."""
        return self._utterance is not None

    @property
    def position_ms(self) -> int:
        """Milliseconds of audio fed since the start of the stream."""
        return _to_ms(self._position + len(self._buffer))

    def feed(self, pcm: bytes) -> list[SpeechEvent]:
        """Process the next piece of audio, of any size, and return its events in order."""
        self._buffer += pcm
        events: list[SpeechEvent] = []
        while len(self._buffer) >= self._chunk_bytes:
            chunk = bytes(self._buffer[: self._chunk_bytes])
            del self._buffer[: self._chunk_bytes]
            event = self._take(chunk, self._vad.probability(chunk))
            self._position += len(chunk)
            if event is not None:
                events.append(event)
            if self._utterance is not None and (self._is_silent() or self._is_full()):
                events.append(self._stop(forced=not self._is_silent()))
            elif self._is_pause():
                events.append(self._pause())
        return events

    def finish(self) -> SpeechStopped | None:
        """End the utterance in progress, if any: at the end of the stream, or at a commit."""
        if self._utterance is None:
            return None
        rest = len(self._buffer) - len(self._buffer) % _SAMPLE_BYTES
        self._utterance += self._buffer[:rest]
        del self._buffer[:rest]
        self._position += rest
        return self._stop(forced=True)

    def reset(self) -> None:
        """Drop the utterance in progress and the prefix; the clock continues."""
        rest = len(self._buffer) - len(self._buffer) % _SAMPLE_BYTES
        del self._buffer[:rest]
        self._position += rest
        self._prefix.clear()
        self._utterance = None
        self._reset_silence()

    def _take(self, chunk: bytes, probability: float) -> SpeechStarted | None:
        if self._utterance is not None:
            self._utterance += chunk
            self._measure(chunk, speech=probability > self._off)
            return None
        if probability > self._on:
            self._start = self._position - len(self._prefix)
            self._utterance = self._prefix + chunk
            self._prefix = bytearray()
            return SpeechStarted(_to_ms(self._start))
        self._prefix += chunk
        del self._prefix[: max(len(self._prefix) - self._prefix_bytes, 0)]
        return None

    def _measure(self, chunk: bytes, *, speech: bool) -> None:
        """Count the silence at the end of the utterance."""
        if not speech:
            self._silence += len(chunk) + min(self._quiet, _to_bytes(_MAX_LAG_MS))
            self._quiet = 0
            return
        self._silence = 0
        self._paused = None
        self._quiet = self._quiet + len(chunk) if rms(chunk) < _SILENCE_RMS else 0

    def _reset_silence(self) -> None:
        self._silence = self._quiet = 0
        self._paused = None

    def _is_silent(self) -> bool:
        return self._silence > 0 and self._silence >= self._end_silence_bytes

    def _is_full(self) -> bool:
        return self._position - self._start >= self._max_bytes

    def _is_pause(self) -> bool:
        """Whether the silence has just reached the length of a pause."""
        if self._utterance is None or self._pause_bytes is None or self._paused is not None or not self._silence:
            return False
        return self._pause_bytes <= self._silence and self._pause_bytes < self._end_silence_bytes

    def _pause(self) -> SpeechPaused:
        self._paused = _to_ms(self._position)
        return SpeechPaused(at_ms=self._paused, start_ms=_to_ms(self._start), pcm=bytes(self._utterance or b""))

    def _stop(self, *, forced: bool) -> SpeechStopped:
        stopped = SpeechStopped(
            at_ms=_to_ms(self._position),
            start_ms=_to_ms(self._start),
            pcm=bytes(self._utterance or b""),
            forced=forced,
            paused_ms=self._paused,
        )
        self._utterance = None
        self._reset_silence()
        return stopped


def _to_bytes(milliseconds: int) -> int:
    return milliseconds * SPEECH_RATE // 1000 * _SAMPLE_BYTES


def _to_ms(count: int) -> int:
    return count // _SAMPLE_BYTES * 1000 // SPEECH_RATE
