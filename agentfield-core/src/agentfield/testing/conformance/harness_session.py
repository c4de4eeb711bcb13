"""A provider session under test: sends commands, keeps events, and fails with the events received so far."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudioCommand, Command, CommitTurnCommand, ReplyCommand, SayCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    TurnCommitted,
    TurnTranscript,
    Warned,
)
from agentfield.realtime.provider import ProviderSession
from agentfield.testing.conformance.waiting import TIMEOUT, TaskTracker, time_limit
from agentfield.testing.peer import DirectCaller, ProviderPeer

__all__ = ["CALLER_AUDIO", "HarnessSession"]

E = TypeVar("E", bound=Event)

CALLER_AUDIO = AudioFormat("pcm16", 48_000)
"""Format of the caller's audio on direct media."""
_PIECE_MS = 100
_IDS = itertools.count(1)  # unique across sessions, since a provider may outlive one
_SHOWN_EVENTS = 40
"""Events that a failure lists."""


class HarnessSession:
    """One session under test.

    Args:
        session: The session of the adapter.
        config: Its configuration.
        peer: The provider.
        tasks: Tracks the tasks of the code under test.
        audio: The format of both directions, where the control plane carries the audio.
        caller: The caller, where it does not.
        reading: Whether to read events from the start; otherwise `read_events` starts to.
    """

    def __init__(
        self,
        session: ProviderSession,
        config: SessionConfig,
        peer: ProviderPeer,
        tasks: TaskTracker,
        *,
        audio: AudioFormat | None = None,
        caller: DirectCaller | None = None,
        reading: bool = True,
    ) -> None:
        self.provider_session = session
        self.config = config
        self.peer = peer
        self.tasks = tasks
        self.audio = audio
        self.caller = caller
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        self._failed: BaseException | None = None
        self._reader: asyncio.Task[None] | None = None
        if reading:
            self.read_events()

    def read_events(self) -> asyncio.Task[None]:
        """Start to read the session's events."""
        self._reader = asyncio.create_task(self._read(), name="events under test")
        return self._reader

    async def _read(self) -> None:
        try:
            with self.tasks.code_under_test():
                async for event in self.provider_session.events():
                    self.events.append(event)
                    self._changed.set()
        except Exception as error:  # noqa: BLE001 - raised by the next expectation
            self._failed = error
        self._changed.set()

    # --- received events

    def of(self, kind: type[E]) -> list[E]:
        """Return the received events of a type."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, what: str, find: Callable[[], Any]) -> Any:
        """Wait until `find` returns a true value, checked after each event, and return it.

        Raises:
            AssertionError: It did not in time, or the events ended; the message lists the last events.
        """
        async with time_limit(f"expected {what}", self.describe):
            while not (found := find()):
                if self._reader is not None and self._reader.done():
                    raise AssertionError(
                        f"expected {what}, but the events have ended{self.describe()}"
                    ) from self._failed
                self._changed.clear()
                await self._changed.wait()
            return found

    async def event(self, kind: type[E], count: int = 1, *, where: Callable[[E], bool] = lambda _: True) -> E:
        """Wait for the nth event of a type and return it."""

        def find() -> list[E]:
            found = [event for event in self.of(kind) if where(event)]
            return found[count - 1 : count]

        found: list[E] = await self.until(f"{_times(count)}{kind.__name__}", find)
        return found[0]

    async def closed(self) -> SessionClosed:
        """Wait for the end of the events and return the last one.

        Raises:
            AssertionError: The events did not end, or the last one is not `SessionClosed`.
        """
        reader = self._reader or self.read_events()
        async with time_limit("the events end", self.describe):
            await asyncio.wait({reader})
        if self._failed is not None:
            raise AssertionError(f"the events ended with an exception: {self._failed!r}{self.describe()}")
        last = self.events[-1] if self.events else None
        assert isinstance(last, SessionClosed), f"the last event must be SessionClosed{self.describe()}"  # noqa: S101
        return last

    def describe(self) -> str:
        """Return the last events as text, for failures."""
        shown = [_short(event) for event in self.events if not isinstance(event, ReplyAudio)][-_SHOWN_EVENTS:]
        audio = sum(len(event.data) for event in self.of(ReplyAudio))
        audio_text = f" and {audio} bytes of audio" if audio else ""
        failed = f"\n  {self._failed!r}" if self._failed else ""
        return f"; received so far{audio_text}:\n  " + "\n  ".join(shown or ["no events"]) + failed

    # --- commands and the caller

    async def send(self, *commands: Command) -> None:
        """Send commands; each must be accepted in time."""
        for command in commands:
            async with time_limit(f"{type(command).__name__} is accepted", self.describe):
                with self.tasks.code_under_test():
                    await self.provider_session.send(command)

    async def caller_says(self, text: str) -> str:
        """Let the caller say something; return the item of the turn once it is committed and transcribed."""
        before = len(self.of(TurnCommitted))
        await self.speak(text)
        if self.config.turn_detection is None:
            await self.commit_turn(before)
        committed = await self.event(TurnCommitted, before + 1)
        if self.config.transcription is not None:
            await self.event(TurnTranscript, where=lambda each: each.item == committed.item and each.final)
        return committed.item

    async def speak(self, text: str) -> None:
        """Let the caller say something without waiting for the turn."""
        if self.caller is not None:
            self.caller.speak(self.peer.prepare_turn(text, CALLER_AUDIO))
            return
        if self.audio is None:
            raise AssertionError("a session without a caller and without audio cannot be spoken to")
        data, size = self.peer.prepare_turn(text, self.audio), self.audio.size(_PIECE_MS)
        await self.send(*(AppendAudioCommand(data=data[at : at + size]) for at in range(0, len(data), size)))

    async def commit_turn(self, before: int) -> None:
        """Commit the caller's turn.

        On direct media the commit can overtake the caller's audio, and the provider then refuses it: an empty turn. It is
        repeated until audio has arrived.

        Args:
            before: Number of turns committed before.
        """
        async with time_limit("the turn is committed", self.describe):
            while True:
                refused = self._refusals()
                await self.send(CommitTurnCommand(item=f"item_{next(_IDS)}"))
                await self.until("TurnCommitted", partial(self._commit_settled, before, refused))
                if len(self.of(TurnCommitted)) > before:
                    return
                await asyncio.sleep(_PIECE_MS / 1000)

    def _commit_settled(self, before: int, refused: int) -> bool:
        too_early = self.caller is not None and self._refusals() > refused
        return len(self.of(TurnCommitted)) > before or too_early

    def _refusals(self) -> int:
        return len(self.of(ProviderFault)) + len(self.of(Warned))

    async def start_reply(self, command: SayCommand | ReplyCommand) -> ReplyStarted:
        """Send a command that causes speech, and wait for its start."""
        await self.send(command)
        return await self.event(ReplyStarted, where=lambda each: each.command == command.id)

    async def say(self, text: str) -> ReplyEnded:
        """Let the agent say something; wait for the end of the generation."""
        return await self.reply_ended(await self.start_reply(self.say_command(text)))

    async def reply(self, tools: Sequence[str] = ()) -> ReplyEnded:
        """Let the model answer; wait for the end of the generation."""
        return await self.reply_ended(await self.start_reply(self.reply_command(tools)))

    async def reply_ended(self, reply: ReplyStarted) -> ReplyEnded:
        """Wait for the end of a reply's generation."""
        return await self.event(ReplyEnded, where=lambda each: each.reply == reply.reply)

    def say_command(self, text: str) -> SayCommand:
        """Return a `say` command with a unique id."""
        return SayCommand(id=f"say_{next(_IDS)}", text=text)

    def reply_command(self, tools: Sequence[str] = ()) -> ReplyCommand:
        """Return a `reply` command with a unique id."""
        return ReplyCommand(id=f"reply_{next(_IDS)}", tools=tuple(tools))

    async def close(self) -> None:
        """Close the session; wait for the end of its events."""
        async with time_limit("the session closes", self.describe):
            with self.tasks.code_under_test():
                await self.provider_session.close()
        if self._reader is not None and not self._reader.done():
            async with time_limit("the events end after the session was closed", self.describe):
                await asyncio.wait({self._reader}, timeout=TIMEOUT)
            self._reader.cancel()


def _times(count: int) -> str:
    return "" if count == 1 else f"{count} times "


def _short(event: Event) -> str:
    values = {name: value for name, value in event if name != "type" and value not in (None, (), False)}
    return f"{type(event).__name__}({', '.join(f'{name}={value!r:.120}' for name, value in values.items())})"
