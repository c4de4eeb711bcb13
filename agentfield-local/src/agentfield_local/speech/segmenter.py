"""Cuts a caller's audio into utterances by voice activity; sans-I/O, its only clock is the audio itself."""

from __future__ import annotations

from dataclasses import dataclass

from agentfield_local.speech.loudness import amplitude, rms
from agentfield_local.speech.protocols import SPEECH_RATE, Vad

__all__ = ["MAX_UTTERANCE_MS", "Segmenter", "SpeechEvent", "SpeechPaused", "SpeechStarted", "SpeechStopped"]

MAX_UTTERANCE_MS = 60_000
"""An utterance is ended by force at this length, so that a caller in front of a radio cannot fill the memory."""

_SAMPLE_BYTES = 2
_HYSTERESIS = 0.15
_LOWEST_OFF = 0.01
_SILENCE_RMS = amplitude(-50.0)
_MOST_LAG_MS = 96
"""Detection hears speech for up to so long after its last sound; what is silent by loudness too counts as silence."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began.

    Attributes:
        at_ms: where the utterance begins, in milliseconds since the start of the stream, prefix padding included.
    """

    at_ms: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """An utterance may be complete: there is silence in it, which either goes on until it ends or does not.

    Attributes:
        at_ms: how far the audio goes, in milliseconds since the start of the stream.
        start_ms: the `at_ms` of its `SpeechStarted`.
        pcm: the audio between the two, 16 kHz s16le mono; all words of the utterance, if it ends here.
    """

    at_ms: int
    start_ms: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """An utterance is complete.

    Attributes:
        at_ms: where it ends, in milliseconds since the start of the stream, the silence that ended it included.
        start_ms: the `at_ms` of its `SpeechStarted`.
        pcm: the audio between the two, 16 kHz s16le mono.
        forced: it was ended by its length or by `Segmenter.finish`, not by silence.
        paused_ms: the `at_ms` of the `SpeechPaused` since which there was only silence; None where there was none.
    """

    at_ms: int
    start_ms: int
    pcm: bytes
    forced: bool = False
    paused_ms: int | None = None


SpeechEvent = SpeechStarted | SpeechPaused | SpeechStopped


class Segmenter:
    """Finds utterances in a stream of 16 kHz s16le mono that is fed in pieces of any size.

    An utterance starts with the first chunk more likely speech than `threshold`, and goes on while chunks stay
    above `threshold - 0.15`; `silence_duration_ms` of chunks below that end it, the silent ones just before them (below
    -50 dBFS, at most 96 ms) included, which the detection still takes for speech. Times count the audio fed since
    the start of the stream and are those of the Realtime protocol: the start includes the prefix padding, the end
    includes the silence.

    Args:
        vad: voice activity of this very stream.
        threshold: 0 to 1, the probability above which speech starts.
        prefix_padding_ms: audio kept from before the first speech; never reaches into the utterance before.
        silence_duration_ms: silence that ends an utterance, rounded up to whole chunks.
        max_utterance_ms: an utterance this long is ended by force.
        pause_ms: silence within an utterance that is told of as a pause; None, or one not shorter than the silence
            that ends an utterance, tells of none.
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
        """Change the settings in mid-stream; the clock and an utterance in progress go on."""
        self._on = threshold
        self._off = max(threshold - _HYSTERESIS, _LOWEST_OFF)
        self._prefix_bytes = _to_bytes(prefix_padding_ms)
        self._hang_bytes = _to_bytes(silence_duration_ms)

    @property
    def speaking(self) -> bool:
        """Whether an utterance is in progress."""
        return self._utterance is not None

    @property
    def position_ms(self) -> int:
        """Milliseconds of audio fed since the start of the stream."""
        return _to_ms(self._position + len(self._buffer))

    def feed(self, pcm: bytes) -> list[SpeechEvent]:
        """Take the next piece of audio, of any size, and return what it started, interrupted or ended, in order."""
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
        """End the utterance in progress now, if there is one: the stream ended, or the caller's client committed it."""
        if self._utterance is None:
            return None
        rest = len(self._buffer) - len(self._buffer) % _SAMPLE_BYTES
        self._utterance += self._buffer[:rest]
        del self._buffer[:rest]
        self._position += rest
        return self._stop(forced=True)

    def reset(self) -> None:
        """Forget the utterance in progress and the prefix; the clock goes on."""
        rest = len(self._buffer) - len(self._buffer) % _SAMPLE_BYTES
        del self._buffer[:rest]
        self._position += rest
        self._prefix.clear()
        self._utterance = None
        self._hush()

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
            self._silence += len(chunk) + min(self._quiet, _to_bytes(_MOST_LAG_MS))
            self._quiet = 0
            return
        self._silence = 0
        self._paused = None
        self._quiet = self._quiet + len(chunk) if rms(chunk) < _SILENCE_RMS else 0

    def _hush(self) -> None:
        self._silence = self._quiet = 0
        self._paused = None

    def _is_silent(self) -> bool:
        return self._silence > 0 and self._silence >= self._hang_bytes

    def _is_full(self) -> bool:
        return self._position - self._start >= self._max_bytes

    def _is_pause(self) -> bool:
        """Whether the silence has just become one to tell of."""
        if self._utterance is None or self._pause_bytes is None or self._paused is not None or not self._silence:
            return False
        return self._pause_bytes <= self._silence and self._pause_bytes < self._hang_bytes

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
        self._hush()
        return stopped


def _to_bytes(milliseconds: int) -> int:
    return milliseconds * SPEECH_RATE // 1000 * _SAMPLE_BYTES


def _to_ms(count: int) -> int:
    return count // _SAMPLE_BYTES * 1000 // SPEECH_RATE
