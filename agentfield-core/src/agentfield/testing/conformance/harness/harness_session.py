"""A provider session under test: sends commands, keeps events, and fails with the events received so far.

The model's answer to a turn is asked for or awaited as the pair declares: `ask` and `answer`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, TypeVar

from agentfield.errors import AgentFieldError, CapabilityMissing
from agentfield.plugins import Capabilities
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AppendAudioCommand,
    BeginTurnCommand,
    Command,
    CommitTurnCommand,
    ReplyCommand,
    SayCommand,
)
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
from agentfield.realtime.provider import ProviderSession, SeparateOutput
from agentfield.testing.conformance.harness.waiting import TIMEOUT, TaskTracker, time_limit
from agentfield.testing.peer import DirectCaller, ProviderPeer

__all__ = ["CALLER_AUDIO", "HarnessSession"]

E = TypeVar("E", bound=Event)

CALLER_AUDIO = AudioFormat("pcm16", 48_000)
"""Format of the caller's audio on direct media."""
_PIECE_MS = 100
_SEND_TIMEOUT = min(5.0, TIMEOUT)
"""Seconds in which a command must be taken, as in the control plane."""
_IDS = itertools.count(1)  # unique across sessions, since a provider may outlive one
_SHOWN_EVENTS = 40
"""Events that a failure lists."""


class HarnessSession:
    """One session under test.

    Args:
        session: The session of the adapter.
        config: Its configuration.
        can: The capabilities of the pair.
        peer: The provider.
        tasks: Tracks the tasks of the code under test.
        audio: The format of the caller's audio, where the control plane carries it.
        caller: The caller, where it does not.
        reading: Whether to read events from the start; otherwise `read_events` starts to.
    """

    def __init__(
        self,
        session: ProviderSession,
        config: SessionConfig,
        can: Capabilities,
        peer: ProviderPeer,
        tasks: TaskTracker,
        *,
        audio: AudioFormat | None = None,
        caller: DirectCaller | None = None,
        reading: bool = True,
    ) -> None:
        self.provider_session = session
        self.config = config
        self.can = can
        self.peer = peer
        self.tasks = tasks
        self.audio = audio
        separate = session.output_format if isinstance(session, SeparateOutput) else None
        self.output = separate if audio is not None and separate is not None else audio
        """The format of the replies, None where the control plane does not carry them."""
        self.caller = caller
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        self._received: dict[int, float] = {}
        """Times of the events by identity; `events` keeps them alive."""
        self.sent: list[Command] = []
        self._asked_at = 0
        """Number of events received before the caller's last turn: the model's answer to it follows."""
        self._failed: BaseException | None = None
        self._reader: asyncio.Task[None] | None = None
        if reading:
            self.read_events()

    def read_events(self) -> asyncio.Task[None]:
        """Start to read the session's events."""
        self._reader = self.tasks.start(self._read(), "the reader of the events")
        return self._reader

    async def _read(self) -> None:
        try:
            async with aclosing(self.provider_session.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    self.events.append(event)
                    self._received[id(event)] = self.now()
                    self._changed.set()
        except Exception as error:  # noqa: BLE001 - raised by the next expectation
            self._failed = error
        finally:
            self._changed.set()

    async def stop_reading(self) -> bool:
        """Cancel the reader of the events, as the control plane does; return whether it ended."""
        reader, self._reader = self._reader, None
        return reader is None or await self.tasks.stop(reader)

    # --- received events

    def now(self) -> float:
        """Return the time of the event loop."""
        return asyncio.get_running_loop().time()

    def received_at(self, event: Event) -> float:
        """Return the time at which an event was received."""
        return self._received[id(event)]

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

    async def closed(self, when: str = "") -> SessionClosed:
        """Wait for the end of the events and return the last one.

        Args:
            when: When they must end, for the message.

        Raises:
            AssertionError: The events did not end, or the last one is not `SessionClosed`.
        """
        reader = self._reader or self.read_events()
        async with time_limit(f"the events end {when}".strip(), self.describe):
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
            self.sent.append(command)
            what = f"send({type(command).__name__}) returns once it is sent, not when it is done"
            await self.tasks.run(what, self.provider_session.send(command), self.describe, _SEND_TIMEOUT)

    async def caller_says(self, text: str) -> str:
        """Let the caller say something; return the item of the turn once it is committed and transcribed."""
        before = len(self.of(TurnCommitted))
        await self.speak(text)
        return await self.turn_committed(before)

    async def turn_committed(self, before: int) -> str:
        """Wait until the turn that was spoken is committed and transcribed; return its item.

        Args:
            before: Number of turns committed before.
        """
        if self.config.turn_detection is None:
            await self.commit_turn(before)
        committed = await self.event(TurnCommitted, before + 1)
        if self.can.caller_transcript != "none":
            await self.event(TurnTranscript, where=lambda each: each.item == committed.item and each.final)
        return committed.item

    async def speak(self, text: str) -> None:
        """Let the caller say something without waiting for the turn."""
        self._asked_at = len(self.events)
        if self.config.turn_detection is None and self.can.begins_turns:
            await self.send(BeginTurnCommand(id=f"begin_{next(_IDS)}"))
        if self.caller is not None:
            self.caller.speak(self.peer.prepare_turn(text, CALLER_AUDIO))
            return
        if self.audio is None:
            raise AssertionError("a session without a caller and without audio cannot be spoken to")
        await self.send_audio(self.peer.prepare_turn(text, self.audio), self.audio)

    async def send_audio(self, data: bytes, audio: AudioFormat, piece_ms: int = _PIECE_MS) -> None:
        """Send audio of the caller in pieces."""
        size = audio.size(piece_ms)
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
        """Ask the model for an answer; wait for the end of the generation."""
        return await self.reply_ended(await self.start_reply(self.reply_command(tools)))

    @property
    def answers_itself(self) -> bool:
        """Whether the provider answers the caller's turns without being asked."""
        return self.answers_after("commit" if self.config.turn_detection is None else "turn")

    def answers_after(self, what: Literal["turn", "commit", "tool_result"]) -> bool:
        """Whether the model goes on by itself after something, as `Capabilities.answers_after` says."""
        return self.config.declaration.floor == "model" and what in self.can.answers_after

    def expect_answer(self) -> None:
        """Take the next reply without a command for the answer to what was just sent."""
        self._asked_at = len(self.events)

    def unasked_replies(self) -> list[ReplyStarted]:
        """Return the replies without a command since the caller's last turn, or since `expect_answer`."""
        later = self.events[self._asked_at :]
        return [each for each in later if isinstance(each, ReplyStarted) and each.command is None]

    async def answer_started(self) -> ReplyStarted:
        """Wait for the start of the model's answer to the caller's last turn; ask for it where the provider waits for that."""
        if not self.answers_itself:
            return await self.start_reply(self.reply_command())
        started: list[ReplyStarted] = await self.until(
            "the model's answer to the turn: a ReplyStarted without a command", self.unasked_replies
        )
        return started[0]

    async def answer(self) -> ReplyEnded:
        """Wait for the end of the model's answer to the caller's last turn, as `answer_started` does for its start."""
        return await self.reply_ended(await self.answer_started())

    async def ask(self) -> ReplyEnded:
        """Let the model answer to what was added before, such as typed text; every provider can be asked for that."""
        return await self.reply()

    async def refuses(
        self, command: Command, why: str, error: type[AgentFieldError] = CapabilityMissing
    ) -> AgentFieldError:
        """Send a command that must be refused; return the error.

        Args:
            command: The command.
            why: Why it must be refused, such as ``turn_detection lacks 'manual'``.
            error: The expected error.

        Raises:
            AssertionError: It was taken, or raised something else.
        """
        name = type(command).__name__
        what = f"{why}, so send({name}) must raise {error.__name__}"
        try:
            await self.send(command)
        except error as refused:
            return refused
        except Exception as other:
            raise AssertionError(
                f"{what}; it raised {other!r}. Errors of an adapter are those of agentfield.errors"
            ) from other
        raise AssertionError(
            f"{what}; it was taken and is lost. Refuse it, so that a session learns what it cannot have{self.describe()}"
        )

    async def takes(self, command: Command, why: str) -> None:
        """Send a command that must be taken.

        Args:
            command: The command.
            why: Why it must be taken.

        Raises:
            AssertionError: It was refused.
        """
        try:
            await self.send(command)
        except AgentFieldError as error:
            name = type(command).__name__
            raise AssertionError(
                f"{why}, so send({name}) must be taken; it raised {type(error).__name__}: {error}"
            ) from error

    async def is_taken(self, command: Command) -> bool:
        """Send a command that may be refused; return whether it was taken."""
        try:
            await self.send(command)
        except AgentFieldError:
            return False
        return True

    async def reply_ended(self, reply: ReplyStarted) -> ReplyEnded:
        """Wait for the end of a reply's generation."""
        return await self.event(ReplyEnded, where=lambda each: each.reply == reply.reply)

    def say_command(self, text: str) -> SayCommand:
        """Return a `say` command with a unique id."""
        return SayCommand(id=f"say_{next(_IDS)}", text=text)

    def reply_command(self, tools: Sequence[str] = ()) -> ReplyCommand:
        """Return a `reply` command with a unique id."""
        chosen = None if self.config.declaration.floor == "model" else tuple(tools)
        return ReplyCommand(id=f"reply_{next(_IDS)}", tools=chosen)

    async def close(self) -> None:
        """Close the session; wait for the end of its events."""
        try:
            await self.tasks.run("the session closes", self.provider_session.close(), self.describe)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"close() raised {error!r}. It detaches, raises nothing, and may be called again{self.describe()}"
            ) from error
        if self._reader is not None and not self._reader.cancelled():
            await self.tasks.result("the events end after the session was closed", self._reader, self.describe)


def _times(count: int) -> str:
    return "" if count == 1 else f"{count} times "


def _short(event: Event) -> str:
    values = {name: value for name, value in event if name != "type" and value not in (None, (), False)}
    return f"{type(event).__name__}({', '.join(f'{name}={value!r:.120}' for name, value in values.items())})"
