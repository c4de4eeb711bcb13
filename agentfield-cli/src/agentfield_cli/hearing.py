"""What every terminal caller has: a mouth that speaks at the pace of speech, an ear that knows when it was loud, and the call of both."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agentfield_cli.audio import FRAME, RATE, Samples, is_loud

__all__ = ["Call", "Ear", "Mouth", "Player", "Speaks"]

_LEAD = 15
"""Frames of silence before the first word: what a codec and a voice detector need to settle."""


@dataclass(slots=True)
class _Utterance:
    frames: deque[Samples]
    sent: asyncio.Future[float]
    last_loud: float = 0.0


class Speaks(Protocol):
    """What a caller speaks with; each transport has its own."""

    async def say(self, samples: Samples) -> float:
        """Send 48 kHz mono samples and return when their last loud frame was sent, in seconds of the monotonic clock."""


class Mouth:
    """Gives a frame whenever it is asked, each 20 ms: speech when there is some, else silence."""

    def __init__(self) -> None:
        self._queue: deque[_Utterance] = deque()

    async def say(self, samples: Samples) -> float:
        """Speak `samples` and return when their last loud frame was sent, in seconds of the monotonic clock."""
        padded = np.concatenate([samples, np.zeros(-samples.size % FRAME, np.int16)])
        silence = [np.zeros(FRAME, np.int16)] * _LEAD
        frames = deque([*silence, *padded.reshape(-1, FRAME)])
        utterance = _Utterance(frames, asyncio.get_running_loop().create_future())
        self._queue.append(utterance)
        return await utterance.sent

    def frame(self) -> Samples:
        """Return the next 20 ms."""
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


class Ear:
    """Keeps what is heard and knows when it was loud."""

    def __init__(self) -> None:
        self._pieces: list[Samples] = []
        self._rest = np.zeros(0, np.int16)
        self._loud: list[float] = []
        self._news = asyncio.Event()
        self.waiting: Callable[[], float] = lambda: 0.0
        """Seconds of sound that are here and not heard yet."""

    def take(self, samples: Samples) -> None:
        """Hear 48 kHz mono samples now."""
        self._pieces.append(samples)
        rest = np.concatenate([self._rest, samples])
        whole = rest.size // FRAME * FRAME
        for frame in rest[:whole].reshape(-1, FRAME):
            if is_loud(frame):
                self._loud.append(time.monotonic())
                self._news.set()
        self._rest = rest[whole:]

    @property
    def recording(self) -> Samples:
        """Everything heard so far."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    def first_loud(self, after: float) -> float | None:
        """Return when the first loud frame after `after` was heard."""
        return next((at for at in self._loud if at > after), None)

    async def sound(self, after: float) -> float:
        """Wait for the first loud frame after `after` and return when it was heard."""
        while (at := self.first_loud(after)) is None:
            self._news.clear()
            await self._news.wait()
        return at

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing loud was heard for so long, and nothing waits to be heard."""
        begun = time.monotonic()
        while True:
            left = max(begun, self._loud[-1] if self._loud else 0.0) + seconds - time.monotonic()
            left = max(left, self.waiting())
            if left <= 0:
                return
            await asyncio.sleep(left)


class Player:
    """Plays what has arrived at the pace of sound, 20 ms at a time, into an ear.

    Args:
        ear: What hears it.
    """

    def __init__(self, ear: Ear) -> None:
        self._ear = ear
        self._queue: deque[Samples] = deque()
        self._queued = 0
        self._marks: deque[tuple[int, str]] = deque()
        self._arrived = 0
        ear.waiting = lambda: self._queued / RATE

    def add(self, samples: Samples) -> None:
        """Put 48 kHz mono samples behind what waits to be played."""
        self._queue.append(samples)
        self._queued += samples.size
        self._arrived += samples.size

    def mark(self, name: str) -> None:
        """Put a mark behind what waits to be played."""
        self._marks.append((self._arrived, name))

    def clear(self) -> None:
        """Throw away what was not played, with its marks, which nobody will have heard."""
        self._queue.clear()
        self._marks.clear()
        self._queued = 0

    def frame(self) -> list[str]:
        """Play 20 ms, of silence when there is nothing, and return the marks that were passed."""
        pieces, wanted = [], FRAME
        while self._queue and wanted:
            piece = self._queue.popleft()
            if piece.size > wanted:
                self._queue.appendleft(piece[wanted:])
            pieces.append(piece[:wanted])
            wanted -= pieces[-1].size
        self._queued -= FRAME - wanted
        self._ear.take(np.concatenate([*pieces, np.zeros(wanted, np.int16)]))
        passed, played = [], self._arrived - self._queued
        while self._marks and self._marks[0][0] <= played:
            passed.append(self._marks.popleft()[1])
        return passed


class Call:
    """A call that is up.

    Args:
        mouth: What the agent hears.
        ear: What the agent says.
        offer_to_answer: Seconds from asking for the medium to having it; None where there is nothing to ask for.
    """

    def __init__(self, mouth: Speaks, ear: Ear, offer_to_answer: float | None) -> None:
        self._mouth = mouth
        self._ear = ear
        self.offer_to_answer = offer_to_answer

    async def speak(self, samples: Samples) -> float:
        """Speak 48 kHz mono samples: as a stream after 0.3 s of silence, at the pace of speech, or as one recorded turn.

        Returns:
            When the last 20 ms above -45 dBFS were sent, in seconds of the monotonic clock.
        """
        return await self._mouth.say(samples)

    async def hear(self, after: float) -> float:
        """Wait for the agent's voice.

        Args:
            after: A time of the monotonic clock; what was heard before does not count.

        Returns:
            When the first 20 ms above -45 dBFS were heard.
        """
        return await self._ear.sound(after)

    def heard_at(self, after: float) -> float | None:
        """Return when the agent's voice was first heard after `after`, None when it was not."""
        return self._ear.first_loud(after)

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing was heard for so many seconds."""
        await self._ear.quiet(seconds)

    @property
    def recording(self) -> Samples:
        """What was heard so far, 48 kHz mono."""
        return self._ear.recording
