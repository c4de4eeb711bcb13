"""A scripted provider's session and a scripted caller's leg on both sides of a bridge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import Bridge, EventLoopStallMonitor
from agentfield.realtime.caller import CallerGone, CallerInput
from agentfield.realtime.commands import Command
from agentfield.realtime.events import Event, ReplyAudio
from agentfield_server.media.convert import converter
from support.waiting import until

__all__ = ["PCM24", "BridgeHarness", "Leg", "Source", "audio", "rig"]

PCM24 = AudioFormat("pcm16", 24000)


def audio(reply: str, ms: float, byte: int = 1) -> ReplyAudio:
    """Return audio of a reply in the provider's format."""
    return ReplyAudio(reply=reply, data=bytes([byte]) * PCM24.size(ms))


class Source:
    """A provider's session driven by the test."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.begun = 0
        self.closed = False
        self.stuck: asyncio.Event | None = None
        self.failure: Exception | None = None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def send(self, command: Command) -> None:
        if self.failure is not None:
            raise self.failure
        self.begun += 1
        if self.stuck is not None:
            await self.stuck.wait()
        self.sent.append(command)

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        self.closed = True

    def tell(self, *events: Event | None) -> None:
        for event in events:
            self._events.put_nowait(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.sent if isinstance(command, kind)]


class Leg:
    """A caller's leg driven by the test."""

    def __init__(self, form: AudioFormat = PCM24, *, marks: bool = True, paced: bool = True) -> None:
        self.format = form
        self.marks = marks
        self.paced = paced
        self.listening = True
        self.heard: list[tuple[str, Any]] = []
        self.times: list[float] = []
        self.stuck: asyncio.Event | None = None
        self.closed = False
        self.input_closed = False
        self._input: asyncio.Queue[CallerInput] = asyncio.Queue()

    async def play(self, reply: str, data: bytes) -> None:
        self.times.append(time.monotonic())
        self.heard.append(("audio", (reply, data)))
        if self.stuck is not None:
            await self.stuck.wait()

    async def mark(self, name: str) -> None:
        self.heard.append(("mark", name))

    async def clear(self) -> None:
        self.heard.append(("clear", None))

    async def input(self) -> AsyncIterator[CallerInput]:
        try:
            while True:
                heard = await self._input.get()
                yield heard
                if isinstance(heard, CallerGone):
                    return
        finally:
            self.input_closed = True

    async def close(self) -> None:
        self.closed = True

    def does(self, *inputs: CallerInput) -> None:
        for each in inputs:
            self._input.put_nowait(each)

    def of(self, kind: str) -> list[Any]:
        return [value for what, value in self.heard if what == kind]

    def ms(self, reply: str | None = None) -> float:
        """Return the milliseconds of received audio, of one reply or of all."""
        return sum(self.format.ms(len(data)) for name, data in self.of("audio") if reply in (None, name))


class BridgeHarness:
    """A bridge with its provider's session, recorded events and stall monitor."""

    def __init__(self, clock: Callable[[], float], **options: Any) -> None:
        self.source = Source()
        self.told: list[Event] = []
        self.heard: list[CallerInput] = []
        self.stall_monitor = EventLoopStallMonitor(clock)
        self.bridge = Bridge(
            self.source,
            audio=PCM24,
            convert=converter,
            clock=clock,
            on_input=self.heard.append,
            stall_monitor=self.stall_monitor,
            **options,
        )
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def listen(self) -> None:
        async for event in self.bridge.events():
            self.told.append(event)

    async def attach(self, leg: Leg) -> asyncio.Task[Any]:
        return self.start(self.bridge.attach(leg))

    async def event(self, kind: type[Any], count: int = 1) -> Any:
        """Wait for the event number `count` of a type and return it."""
        await until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    async def close(self) -> None:
        await self.bridge.close()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def rig(clock: Callable[[], float] = time.monotonic, **options: Any) -> AsyncIterator[BridgeHarness]:
    """Run a bridge; at the end of the block every task started inside must be done."""
    before = asyncio.all_tasks()
    made = BridgeHarness(clock, **options)
    made.start(made.listen())
    try:
        yield made
    finally:
        await made.close()
    assert asyncio.all_tasks() <= before, "the bridge left tasks behind"
