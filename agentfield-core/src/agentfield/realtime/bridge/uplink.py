"""Bounded queue of the caller's audio on its way to the provider."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from agentfield.ids import new_id
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudioCommand, BeginTurnCommand, CommitTurnCommand
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


UplinkCommand = AppendAudioCommand | BeginTurnCommand | CommitTurnCommand


class Uplink:
    """A bounded queue of audio, of the begins of turns where the provider wants to know them, and of their commits, in order.

    Args:
        audio: The format of the audio.
        warn: Called once for each contiguous stretch of dropped audio.
        begins_turns: Whether each turn begins with `BeginTurnCommand`: when the caller says so, else with its first audio.
    """

    def __init__(self, audio: AudioFormat, *, warn: Callable[[Warned], None], begins_turns: bool = False) -> None:
        self._max_size = audio.size(MAX_QUEUED_MS)
        self._audio = audio
        self._warn = warn
        self._begins_turns = begins_turns
        self._begun = False
        """Whether the provider was told that the caller's turn begins."""
        self._caller_begins = False
        """Whether the caller says when its turns begin; its audio between turns is dropped then."""
        self._waiting: deque[UplinkCommand] = deque()
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
        return not (self._waiting or self._sending or self._held or (self._begins_turns and not self._begun))

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

    def begin(self, item: str | None) -> None:
        """Queue the begin of the caller's turn, if the provider wants to know it."""
        if not self._begins_turns:
            return
        self._caller_begins = True
        self._put(BeginTurnCommand(id=new_id("op"), item=item))

    def commit(self, item: str | None) -> None:
        """Queue the end of the caller's turn."""
        self._put(CommitTurnCommand(id=new_id("op"), item=item))

    def begin_anew(self) -> None:
        """Note that the provider's session is another one, which knows of no turn of the caller."""
        self._begun = False

    def _put(self, command: UplinkCommand) -> None:
        self._waiting.append(command)
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

    async def next(self) -> UplinkCommand:
        """Return the next command to send; the call implies that the previous one was sent."""
        self._sending = False
        while (command := self._take()) is None:
            self._ready.clear()
            await self._ready.wait()
        if not self._waiting:
            self._dropping = False
        self._sending = True
        return command

    def _take(self) -> UplinkCommand | None:
        """Remove and return the next command, None if there is none or all are held."""
        while self._waiting and not self._held:
            command = self._waiting[0]
            outside = self._begins_turns and not self._begun
            if outside and isinstance(command, AppendAudioCommand) and not self._caller_begins:
                self._begun = True
                return BeginTurnCommand(id=new_id("op"))
            self._waiting.popleft()
            match command:
                case AppendAudioCommand():
                    self._size -= len(command.data)
                    self._space.set()
                    if outside:
                        continue  # the caller says when it begins, and has not
                case BeginTurnCommand() if self._begun:
                    continue
                case BeginTurnCommand():
                    self._begun = True
                case CommitTurnCommand():
                    self._begun = False
            return command
        return None

    def _drop(self) -> None:
        kept: deque[UplinkCommand] = deque()
        while self._size > self._max_size and self._waiting:
            oldest = self._waiting.popleft()
            if isinstance(oldest, AppendAudioCommand):
                self._size -= len(oldest.data)
                self._position -= len(oldest.data)
            else:
                kept.append(oldest)
        # only audio is dropped, never a begin or a commit: the caller must get an answer to the rest of the turn
        self._waiting.extendleft(reversed(kept))
        if not self._dropping:
            self._dropping = True
            seconds = MAX_QUEUED_MS / 1000
            message = f"the provider took no audio for more than {seconds:g} s; older audio of the caller was dropped"
            self._warn(Warned(code="audio_dropped", message=message))
