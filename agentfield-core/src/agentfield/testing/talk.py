"""A session under test: commands go in, events are kept, and what does not come is told together with what came."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudio, Command, CommitTurn, Reply, Say
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
from agentfield.testing.peer import DirectCaller, ProviderPeer
from agentfield.testing.waiting import PATIENCE, Tasks, within

__all__ = ["CALLER_AUDIO", "Talk"]

E = TypeVar("E", bound=Event)

CALLER_AUDIO = AudioFormat("pcm16", 48_000)
"""What a caller of a direct medium speaks."""
_PIECE_MS = 100
_IDS = itertools.count(1)  # names are never used again, also not by another session
_SHOWN = 40
"""Events that a failure shows."""


class Talk:
    """One session.

    Args:
        session: The session.
        config: What it was opened with.
        peer: The provider.
        tasks: Knows the tasks of the code under test.
        audio: The format of both directions, where the audio passes through us.
        caller: The caller, where it does not.
        reading: Whether its events are read from the beginning; else `read` begins.
    """

    def __init__(
        self,
        session: ProviderSession,
        config: SessionConfig,
        peer: ProviderPeer,
        tasks: Tasks,
        *,
        audio: AudioFormat | None = None,
        caller: DirectCaller | None = None,
        reading: bool = True,
    ) -> None:
        self.session = session
        self.config = config
        self.peer = peer
        self.tasks = tasks
        self.audio = audio
        self.caller = caller
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self._failed: BaseException | None = None
        self._reader: asyncio.Task[None] | None = None
        if reading:
            self.read()

    def read(self) -> asyncio.Task[None]:
        """Begin to read the session's events."""
        self._reader = asyncio.create_task(self._read(), name="events under test")
        return self._reader

    async def _read(self) -> None:
        try:
            with self.tasks.theirs():
                async for event in self.session.events():
                    self.events.append(event)
                    self._news.set()
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._failed = error
        self._news.set()

    # --- what came

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, what: str, look: Callable[[], Any]) -> Any:
        """Wait until something can be seen in the events, and return it.

        Raises:
            AssertionError: It did not come; the last events are told.
        """
        async with within(f"expected {what}", self.told):
            while not (found := look()):
                if self._reader is not None and self._reader.done():
                    raise AssertionError(f"expected {what}, but the events are over{self.told()}") from self._failed
                self._news.clear()
                await self._news.wait()
            return found

    async def event(self, kind: type[E], count: int = 1, *, where: Callable[[E], bool] = lambda _: True) -> E:
        """Wait for the nth event of a kind and return it."""

        def look() -> list[E]:
            found = [event for event in self.of(kind) if where(event)]
            return found[count - 1 : count]

        found: list[E] = await self.until(f"{_nth(count)}{kind.__name__}", look)
        return found[0]

    async def closed(self) -> SessionClosed:
        """Wait until the events are over, and return the last one, which says so.

        Raises:
            AssertionError: They are not, or the last one is another.
        """
        reader = self._reader or self.read()
        async with within("the events end", self.told):
            await asyncio.wait({reader})
        if self._failed is not None:
            raise AssertionError(f"the events ended with an exception: {self._failed!r}{self.told()}")
        last = self.events[-1] if self.events else None
        assert isinstance(last, SessionClosed), f"the last event is to be SessionClosed{self.told()}"  # noqa: S101
        return last

    def told(self) -> str:
        """Return the last events in words, for failures."""
        shown = [_short(event) for event in self.events if not isinstance(event, ReplyAudio)][-_SHOWN:]
        audio = sum(len(event.data) for event in self.of(ReplyAudio))
        sound = f", and {audio} bytes of audio" if audio else ""
        failed = f"\n  {self._failed!r}" if self._failed else ""
        return f"; so far there were{sound}:\n  " + "\n  ".join(shown or ["no events"]) + failed

    # --- what is done

    async def send(self, *commands: Command) -> None:
        """Send commands, each of which must be taken in time."""
        for command in commands:
            async with within(f"{type(command).__name__} is taken", self.told):
                with self.tasks.theirs():
                    await self.session.send(command)

    async def hear(self, text: str) -> str:
        """Let the caller say something; return the item of the turn when it is committed, and its words are told."""
        before = len(self.of(TurnCommitted))
        await self.speak(text)
        if self.config.turn_detection is None:
            await self.commit(before)
        committed = await self.event(TurnCommitted, before + 1)
        if self.config.transcription is not None:
            await self.event(TurnTranscript, where=lambda each: each.item == committed.item and each.final)
        return committed.item

    async def speak(self, text: str) -> None:
        """Let the caller say something, without waiting for what becomes of it."""
        if self.caller is not None:
            self.caller.speak(self.peer.hear(text, CALLER_AUDIO))
            return
        if self.audio is None:
            raise AssertionError("a session without a caller hears nobody")
        data, size = self.peer.hear(text, self.audio), self.audio.size(_PIECE_MS)
        await self.send(*(AppendAudio(data=data[at : at + size]) for at in range(0, len(data), size)))

    async def commit(self, before: int) -> None:
        """Say that the caller's turn is over; again, as long as nothing has arrived that could be one."""
        async with within("the turn is committed", self.told):
            while True:
                refused = self._refusals()
                await self.send(CommitTurn(item=f"item_{next(_IDS)}"))
                await self.until("TurnCommitted", partial(self._settled, before, refused))
                if len(self.of(TurnCommitted)) > before:
                    return
                await asyncio.sleep(_PIECE_MS / 1000)  # what the caller says takes its time

    def _settled(self, before: int, refused: int) -> bool:
        early = self.caller is not None and self._refusals() > refused
        return len(self.of(TurnCommitted)) > before or early

    def _refusals(self) -> int:
        return len(self.of(ProviderFault)) + len(self.of(Warned))

    async def begin(self, command: Say | Reply) -> ReplyStarted:
        """Ask for speech and wait until it begins."""
        await self.send(command)
        return await self.event(ReplyStarted, where=lambda each: each.command == command.id)

    async def say(self, text: str) -> ReplyEnded:
        """Let the agent say something, to the end of its generation."""
        return await self.ended(await self.begin(self.a_say(text)))

    async def reply(self, tools: Sequence[str] = ()) -> ReplyEnded:
        """Let the model answer, to the end of its generation."""
        return await self.ended(await self.begin(self.a_reply(tools)))

    async def ended(self, reply: ReplyStarted) -> ReplyEnded:
        """Wait until a reply is generated."""
        return await self.event(ReplyEnded, where=lambda each: each.reply == reply.reply)

    def a_say(self, text: str) -> Say:
        """Return a command to say something, with an id of its own."""
        return Say(id=f"say_{next(_IDS)}", text=text)

    def a_reply(self, tools: Sequence[str] = ()) -> Reply:
        """Return a command to answer, with an id of its own."""
        return Reply(id=f"reply_{next(_IDS)}", tools=tuple(tools))

    async def close(self) -> None:
        """Let go of the session, and of its reader."""
        async with within("the session closes", self.told):
            with self.tasks.theirs():
                await self.session.close()
        if self._reader is not None and not self._reader.done():
            async with within("the events end after the session was closed", self.told):
                await asyncio.wait({self._reader}, timeout=PATIENCE)
            self._reader.cancel()


def _nth(count: int) -> str:
    return "" if count == 1 else f"{count} times "


def _short(event: Event) -> str:
    values = {name: value for name, value in event if name != "type" and value not in (None, (), False)}
    return f"{type(event).__name__}({', '.join(f'{name}={value!r:.120}' for name, value in values.items())})"
