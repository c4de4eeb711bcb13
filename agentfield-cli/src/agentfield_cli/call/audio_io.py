"""Audio of a terminal call on every transport: the source that speaks, the sink that listens, the playout buffer.

All samples are 48 kHz mono; all times are seconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agentfield_cli.call.recordings import FRAME, RATE, Samples, is_loud

__all__ = ["AudioSink", "AudioSource", "PlayoutBuffer", "SpeechSender", "TerminalCall"]

_LEAD_IN = 15
"""Frames of silence (20 ms each) before the first word; a codec and a voice detector need them to settle."""


@dataclass(slots=True)
class _Utterance:
    frames: deque[Samples]
    sent: asyncio.Future[float]
    last_loud: float = 0.0


class SpeechSender(Protocol):
    """Sends speech to the agent; each transport implements it."""

    async def say(self, samples: Samples) -> float:
        """Send samples and return the time at which their last loud frame was sent."""


class AudioSource:
    """Supplies a frame every 20 ms: queued speech, otherwise silence."""

    def __init__(self) -> None:
        self._queue: deque[_Utterance] = deque()

    async def say(self, samples: Samples) -> float:
        """Queue `samples` and return the time at which their last loud frame was sent."""
        padded = np.concatenate([samples, np.zeros(-samples.size % FRAME, np.int16)])
        silence = [np.zeros(FRAME, np.int16)] * _LEAD_IN
        frames = deque([*silence, *padded.reshape(-1, FRAME)])
        utterance = _Utterance(frames, asyncio.get_running_loop().create_future())
        self._queue.append(utterance)
        return await utterance.sent

    def frame(self) -> Samples:
        """Return the next frame."""
        if not self._queue:
            return np.zeros(FRAME, np.int16)
        utterance = self._queue[0]
        samples = utterance.frames.popleft()
        if is_loud(samples):
            utterance.last_loud = time.monotonic()
        if not utterance.frames:
            self._queue.popleft()
            if not utterance.sent.done():
                utterance.sent.set_result(utterance.last_loud or time.monotonic())
        return samples


class AudioSink:
    """Records what the caller hears, and the times of its loud frames."""

    def __init__(self) -> None:
        self._pieces: list[Samples] = []
        self._partial_frame = np.zeros(0, np.int16)
        self._loud: list[float] = []
        self._heard_loud = asyncio.Event()
        self.buffered: Callable[[], float] = lambda: 0.0
        """Returns the seconds of audio that have arrived and are not played yet."""

    def take(self, samples: Samples) -> None:
        """Record samples that are heard now."""
        self._pieces.append(samples)
        rest = np.concatenate([self._partial_frame, samples])
        whole = rest.size // FRAME * FRAME
        for frame in rest[:whole].reshape(-1, FRAME):
            if is_loud(frame):
                self._loud.append(time.monotonic())
                self._heard_loud.set()
        self._partial_frame = rest[whole:]

    @property
    def recording(self) -> Samples:
        """All samples heard so far."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    def first_loud_at(self, after: float) -> float | None:
        """Return the time of the first loud frame after `after`, None if there is none yet."""
        return next((at for at in self._loud if at > after), None)

    async def wait_for_loud(self, after: float) -> float:
        """Wait for the first loud frame after `after` and return its time."""
        while (at := self.first_loud_at(after)) is None:
            self._heard_loud.clear()
            await self._heard_loud.wait()
        return at

    async def wait_for_quiet(self, seconds: float) -> None:
        """Wait until no loud frame was heard for `seconds` and no audio is buffered."""
        started = time.monotonic()
        while True:
            left = max(started, self._loud[-1] if self._loud else 0.0) + seconds - time.monotonic()
            left = max(left, self.buffered())
            if left <= 0:
                return
            await asyncio.sleep(left)


class PlayoutBuffer:
    """Plays received audio in real time, one frame per call, into a sink.

    Args:
        sink: Hears the played frames.
    """

    def __init__(self, sink: AudioSink) -> None:
        self._sink = sink
        self._queue: deque[Samples] = deque()
        self._queued = 0
        self._marks: deque[tuple[int, str]] = deque()
        self._arrived = 0
        sink.buffered = lambda: self._queued / RATE

    def add(self, samples: Samples) -> None:
        """Append samples."""
        self._queue.append(samples)
        self._queued += samples.size
        self._arrived += samples.size

    def mark(self, name: str) -> None:
        """Append a mark; `frame` returns it once all audio before it was played."""
        self._marks.append((self._arrived, name))

    def clear(self) -> None:
        """Discard the unplayed audio and its marks."""
        self._queue.clear()
        self._marks.clear()
        self._queued = 0

    def frame(self) -> list[str]:
        """Play one frame, silence if nothing is buffered, and return the marks that were passed."""
        pieces, wanted = [], FRAME
        while self._queue and wanted:
            piece = self._queue.popleft()
            if piece.size > wanted:
                self._queue.appendleft(piece[wanted:])
            pieces.append(piece[:wanted])
            wanted -= pieces[-1].size
        self._queued -= FRAME - wanted
        self._sink.take(np.concatenate([*pieces, np.zeros(wanted, np.int16)]))
        passed, played = [], self._arrived - self._queued
        while self._marks and self._marks[0][0] <= played:
            passed.append(self._marks.popleft()[1])
        return passed


class TerminalCall:
    """An established call.

    Args:
        sender: Sends the caller's speech.
        sink: Records the agent's speech.
        offer_to_answer: Seconds from the request for the media to its answer; None for recorded turns, which need none.
    """

    def __init__(self, sender: SpeechSender, sink: AudioSink, offer_to_answer: float | None) -> None:
        self._sender = sender
        self._sink = sink
        self.offer_to_answer = offer_to_answer

    async def speak(self, samples: Samples) -> float:
        """Speak samples: in real time after 0.3 s of silence, or as one recorded turn.

        Returns:
            The time at which the last frame above -45 dBFS was sent.
        """
        return await self._sender.say(samples)

    async def wait_for_voice(self, after: float) -> float:
        """Wait for the agent's voice.

        Args:
            after: Frames that were heard before this time do not count.

        Returns:
            The time at which the first frame above -45 dBFS was heard.
        """
        return await self._sink.wait_for_loud(after)

    def first_heard_at(self, after: float) -> float | None:
        """Return the time at which the agent's voice was first heard after `after`, None if it was not."""
        return self._sink.first_loud_at(after)

    async def wait_for_quiet(self, seconds: float) -> None:
        """Wait until nothing was heard for `seconds`."""
        await self._sink.wait_for_quiet(seconds)

    @property
    def recording(self) -> Samples:
        """All samples heard so far."""
        return self._sink.recording
