"""The caller's audio on its way to the provider: at once, in order, and never more than a few seconds of it waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudio, CommitTurn
from agentfield.realtime.events import Warned

__all__ = ["MAX_WAITING_MS", "Immediate", "Uplink"]

MAX_WAITING_MS = 5000
"""Audio that may wait for the provider; what is older is dropped."""


@runtime_checkable
class Immediate(Protocol):
    """A provider's session whose audio takes no detour over tasks and queues, while nothing is in the way."""

    def append(self, data: bytes) -> bool:
        """Send audio at once and in order, or do nothing; returns whether it is on its way."""

    def hear(self, sink: Callable[[str, bytes], None]) -> None:
        """Give audio of replies to `sink` as it arrives, while whoever iterates `events` waits; else it is an event."""


class Uplink:
    """A bounded queue of audio and commits.

    Args:
        audio: The format of the audio.
        warn: Told once for each stretch of audio that had to be dropped.
    """

    def __init__(self, audio: AudioFormat, *, warn: Callable[[Warned], None]) -> None:
        self._most = audio.size(MAX_WAITING_MS)
        self._audio = audio
        self._warn = warn
        self._waiting: deque[AppendAudio | CommitTurn] = deque()
        self._size = 0
        self._dropping = False
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._held = False
        self._sending = False

    @property
    def clear(self) -> bool:
        """Whether nothing waits and nothing is being sent, so that audio may pass by the queue."""
        return not (self._waiting or self._sending or self._held)

    def put(self, data: bytes, *, live: bool = True) -> None:
        """Take audio; of what is `live` the oldest is dropped when too much waits."""
        self._waiting.append(AppendAudio.model_construct(data=data))
        self._size += len(data)
        if live and self._size > self._most:
            self._drop()
        if not self._held:
            self._ready.set()

    def commit(self, item: str | None) -> None:
        """The caller is done speaking."""
        self._waiting.append(CommitTurn(item=item))
        if not self._held:
            self._ready.set()

    def hold(self) -> None:
        """Nothing goes out until `release`."""
        self._held = True
        self._ready.clear()

    def release(self) -> None:
        """What waited goes out at once."""
        self._held = False
        self._ready.set()

    async def room(self) -> None:
        """Wait until half of the room is free, for who can wait."""
        while self._size > self._most // 2:
            self._room.clear()
            await self._room.wait()

    async def next(self) -> AppendAudio | CommitTurn:
        """Return what is to be sent next; what was returned before has been sent."""
        self._sending = False
        while self._held or not self._waiting:
            self._ready.clear()
            await self._ready.wait()
        command = self._waiting.popleft()
        if isinstance(command, AppendAudio):
            self._size -= len(command.data)
            self._room.set()
        if not self._waiting:
            self._dropping = False
        self._sending = True
        return command

    def _drop(self) -> None:
        kept: deque[AppendAudio | CommitTurn] = deque()
        while self._size > self._most and self._waiting:
            oldest = self._waiting.popleft()
            if isinstance(oldest, AppendAudio):
                self._size -= len(oldest.data)
            else:
                kept.append(oldest)
        # a commit is never dropped, whatever was said before it
        self._waiting.extendleft(reversed(kept))
        if not self._dropping:
            self._dropping = True
            seconds = MAX_WAITING_MS / 1000
            message = f"the provider took no audio for more than {seconds:g} s; what the caller said before was dropped"
            self._warn(Warned(code="audio_dropped", message=message))
