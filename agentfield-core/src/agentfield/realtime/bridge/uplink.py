"""Bounded queue of the caller's audio on its way to the provider."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudioCommand, CommitTurnCommand
from agentfield.realtime.events import Warned

__all__ = ["MAX_QUEUED_MS", "AudioFastPath", "Uplink"]

MAX_QUEUED_MS = 5000
"""Milliseconds of audio that may be queued; beyond that the oldest is dropped."""


@runtime_checkable
class AudioFastPath(Protocol):
    """A provider's session that can carry audio without tasks and queues, which saves most of the processor time of a call."""

    def append_audio_nowait(self, data: bytes) -> bool:
        """Send audio at once if that needs no waiting and keeps the order; return whether it was sent."""

    def set_audio_sink(self, sink: Callable[[str, bytes], None]) -> None:
        """Call `sink` with the reply id and audio as it arrives, while the reader of `events` waits; otherwise yield events."""


class Uplink:
    """A bounded queue of audio and turn commits, in order.

    Args:
        audio: The format of the audio.
        warn: Called once for each contiguous stretch of dropped audio.
    """

    def __init__(self, audio: AudioFormat, *, warn: Callable[[Warned], None]) -> None:
        self._max_size = audio.size(MAX_QUEUED_MS)
        self._audio = audio
        self._warn = warn
        self._waiting: deque[AppendAudioCommand | CommitTurnCommand] = deque()
        self._size = 0
        self._position = 0
        self._dropping = False
        self._ready = asyncio.Event()
        self._space = asyncio.Event()
        self._held = False
        self._sending = False

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, held or being sent, so that audio may bypass the queue without overtaking any."""
        return not (self._waiting or self._sending or self._held)

    def passed(self, size: int) -> None:
        """Count bytes of audio that bypass the queue."""
        self._position += size

    @property
    def position_ms(self) -> float:
        """Milliseconds of the caller's audio so far."""
        return self._audio.ms(self._position)

    def put(self, data: bytes, *, live: bool = True) -> None:
        """Queue audio; of `live` audio the oldest is dropped when the queue is full."""
        self._position += len(data)
        self._waiting.append(AppendAudioCommand.model_construct(data=data))
        self._size += len(data)
        if live and self._size > self._max_size:
            self._drop()
        if not self._held:
            self._ready.set()

    def commit(self, item: str | None) -> None:
        """Queue the end of the caller's turn."""
        self._waiting.append(CommitTurnCommand(item=item))
        if not self._held:
            self._ready.set()

    def hold(self) -> None:
        """Keep everything queued until `release`."""
        self._held = True
        self._ready.clear()

    def release(self) -> None:
        """Send the held audio and commits."""
        self._held = False
        self._ready.set()

    async def wait_for_space(self) -> None:
        """Wait until half of the queue is free; for recorded audio, which can wait."""
        while self._size > self._max_size // 2:
            self._space.clear()
            await self._space.wait()

    async def next(self) -> AppendAudioCommand | CommitTurnCommand:
        """Return the next command to send; the call implies that the previous one was sent."""
        self._sending = False
        while self._held or not self._waiting:
            self._ready.clear()
            await self._ready.wait()
        command = self._waiting.popleft()
        if isinstance(command, AppendAudioCommand):
            self._size -= len(command.data)
            self._space.set()
        if not self._waiting:
            self._dropping = False
        self._sending = True
        return command

    def _drop(self) -> None:
        kept: deque[AppendAudioCommand | CommitTurnCommand] = deque()
        while self._size > self._max_size and self._waiting:
            oldest = self._waiting.popleft()
            if isinstance(oldest, AppendAudioCommand):
                self._size -= len(oldest.data)
                self._position -= len(oldest.data)
            else:
                kept.append(oldest)
        # only audio is dropped, never a commit: the caller must get an answer to the rest of the turn
        self._waiting.extendleft(reversed(kept))
        if not self._dropping:
            self._dropping = True
            seconds = MAX_QUEUED_MS / 1000
            message = f"the provider took no audio for more than {seconds:g} s; older audio of the caller was dropped"
            self._warn(Warned(code="audio_dropped", message=message))
