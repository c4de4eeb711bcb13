"""The session layer with a real store, engine and node hub, a scripted provider, and a clock that the test advances."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from agentfield.errors import AgentFieldError, LimitExceeded, NotFound
from agentfield.identity import NodeKey
from agentfield.plugins import Capabilities, Catalog, Manifest, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command, ReplyCommand, SayCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    PlayoutStarted,
    PlayoutStopped,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
)
from agentfield.realtime.provider import CallRef, SdpAnswer
from agentfield.testing.scripted.adapters import ANSWER_SDP
from agentfield.wire.rest import StartRequest
from agentfield_server.bus import Bus
from agentfield_server.engine import Engine
from agentfield_server.nodes import DEVELOPMENT, LinkHub
from agentfield_server.sessions import SessionService
from agentfield_server.store.records import EventRow, Execution
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.access import open_access
from support.server.node import ScriptedNode
from support.server.store import open_in_ended_sessions
from support.waiting import until, until_async

__all__ = ["Acme", "Adapter", "ManualTime", "Plane", "Provider", "ScriptedNode", "plane", "until", "until_async"]

PAIR = PairSpec(
    provider="acme",
    transport="webrtc",
    factory="unused:unused",
    media="direct",
    capabilities=Capabilities(
        say="best_effort",
        uninterruptible=True,
        floors=frozenset({"handler", "model"}),
        turn_detection=frozenset({"server_vad", "manual"}),
        modalities=frozenset({"audio", "text"}),
        tools="async",
        caller_transcript="final",
        default_transcription="ears-1",
        interruption="server",
        delays_interruption=True,
        client_leg="watched",
        text_input=True,
        resumption="attach",
        limits=frozenset({"duration", "idle", "turns", "tool_calls"}),
    ),
)

CARRIED = replace(
    PAIR,
    transport="websocket",
    media="bridged",
    capabilities=replace(
        PAIR.capabilities,
        interruption="client",
        client_leg="none",
        truncation="client_ms",
        resumption="replay",
        formats=frozenset({"pcm16/24000", "pcmu/8000"}),
        dtmf=True,
    ),
)


class Acme:
    """A plugin with a pair of each medium and closed names."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        return Manifest(
            api=(2, 0),
            providers=(
                ProviderSpec(
                    name="acme",
                    title="Acme",
                    models=Catalog(known=("m-1", "m-2"), closed=True, default="m-1"),
                    voices=Catalog(known=("v-1",), closed=True, default="v-1"),
                ),
            ),
            pairs=(PAIR, CARRIED),
        )


class ManualTime:
    """A clock that moves only with `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ticks: set[asyncio.Event] = set()

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return time.time()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for tick in self._ticks:
            tick.set()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        tick = asyncio.Event()
        self._ticks.add(tick)
        try:
            while not event.is_set() and (until is None or self.now < until):
                tick.clear()
                await first(event.wait(), tick.wait())
        finally:
            self._ticks.discard(tick)


async def first(*works: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Provider:
    """A scripted session at the provider."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.sent: list[Command] = []
        self.closed = False
        self.fault: AgentFieldError | None = None
        self.stuck = False
        """Whether it reads nothing more: every command waits."""
        self.tried = 0
        """Commands that it was to take while it was stuck."""
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._items = itertools.count(1)

    async def send(self, command: Command) -> None:
        if self.fault is not None:
            raise self.fault
        if self.stuck:
            self.tried += 1
            await asyncio.Event().wait()
        self.sent.append(command)

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        self.closed = True
        self._events.put_nowait(None)

    def tell(self, *events: Event | None) -> None:
        """Emit events; None ends the stream without a closing event."""
        for event in events:
            self._events.put_nowait(event)

    def caller_says(self, text: str) -> None:
        item = f"{self.call}-i{next(self._items)}"
        self.tell(TurnStarted(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text))

    async def asked(self, kind: type[Command], count: int = 1) -> Any:
        """Wait for the nth command of a type and return it."""
        await until(lambda: len([c for c in self.sent if isinstance(c, kind)]) >= count)
        return [c for c in self.sent if isinstance(c, kind)][count - 1]

    async def speaks(self, count: int = 1, text: str | None = None) -> str:
        """Speak the nth requested say or reply completely."""
        await until(lambda: len([c for c in self.sent if isinstance(c, SayCommand | ReplyCommand)]) >= count)
        command = [c for c in self.sent if isinstance(c, SayCommand | ReplyCommand)][count - 1]
        words = text or (command.text if isinstance(command, SayCommand) else "an answer")
        reply = f"r-{command.id}"
        self.tell(
            ReplyStarted(reply=reply, command=command.id),
            PlayoutStarted(reply=reply),
            ReplyEnded(reply=reply, command=command.id, text=words, audio=True),
            PlayoutStopped(reply=reply),
        )
        return words


class Adapter:
    """A direct and a bridged adapter with scripted sessions; direct calls outlive control planes."""

    formats = (AudioFormat("pcm16", 24000), AudioFormat("pcmu", 8000))

    def __init__(self) -> None:
        self.calls: dict[str, Provider] = {}
        self.alive: set[str] = set()
        self.hung_up: list[str] = []
        self.ready: SessionReady | None = SessionReady(model="m-1", voice="v-1")
        self.refuse: AgentFieldError | None = None
        self.refuse_attach: AgentFieldError | None = None
        self.opened: list[tuple[Provider, AudioFormat]] = []
        self.admitted: dict[str, str] = {}
        self.limit: int | None = None
        self.answer = ""
        """The SDP answer instead of a good one."""

    async def open(self, config: SessionConfig, audio: AudioFormat) -> Provider:
        if self.refuse is not None:
            raise self.refuse
        provider = Provider(f"socket{len(self.opened) + 1}")
        self.opened.append((provider, audio))
        if self.ready is not None:
            provider.tell(self.ready)
        return provider

    async def socket(self, count: int = 1) -> Provider:
        """Wait for the nth opened session and return it."""
        await until(lambda: len(self.opened) >= count)
        return self.opened[count - 1][0]

    def lease_credential(self, pair: PairSpec, session_id: str, credential: str | None = None) -> str:
        if self.limit is not None and len(self.admitted) >= self.limit:
            raise LimitExceeded("each key is busy", code="provider_busy")
        self.admitted[session_id] = credential or "key-1"
        return self.admitted[session_id]

    def release_credential(self, session_id: str) -> None:
        self.admitted.pop(session_id, None)

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:
        if self.refuse is not None:
            raise self.refuse
        call = f"call{len(self.calls) + 1}"
        self.calls[call] = Provider(call)
        self.alive.add(call)
        return SdpAnswer(sdp=self.answer or ANSWER_SDP, ref={"call_id": call})

    def secrets(self, pair: PairSpec) -> tuple[str, ...]:
        return ("key-canary-7",)

    async def attach(self, ref: CallRef, config: SessionConfig) -> Provider:
        call = ref["call_id"]
        if self.refuse_attach is not None:
            raise self.refuse_attach
        if call not in self.alive:
            raise NotFound("there is no such call")
        provider = self.calls[call]
        if provider.closed:  # attached anew
            self.calls[call] = provider = Provider(call)
        if self.ready is not None:
            provider.tell(self.ready)
        return provider

    async def hang_up(self, ref: CallRef) -> None:
        self.alive.discard(ref["call_id"])
        self.hung_up.append(ref["call_id"])
        self.calls[ref["call_id"]].tell(SessionClosed(reason="closed"))

    async def get(self, pair: PairSpec, credential: str) -> Adapter:
        return self


class Plane:
    """The layers of one control plane below the REST interface."""

    def __init__(self, store: SqliteStore, sessions: SessionService, hub: LinkHub, bus: Bus, clock: ManualTime) -> None:
        self.store = store
        self.sessions = sessions
        self.hub = hub
        self.bus = bus
        self.clock = clock
        self.url = ""

    async def start(self, **fields: Any) -> str:
        row, _ = await self.sessions.start(StartRequest(target="shop.voice", caller="ann", **fields), principal="op")
        return row.id

    async def row(self, session_id: str) -> Any:
        return await self.store.get_session(session_id)

    async def state(self, session_id: str, state: str) -> Any:
        """Wait until a session is stored in a state."""

        async def reached() -> Any:
            row = await self.store.get_session(session_id)
            return row if row is not None and row.state == state else None

        return await until_async(reached)

    async def events(self, session_id: str) -> list[EventRow]:
        row = await self.row(session_id)
        return await self.store.read_events(row.run_id)

    async def recorded(self, session_id: str, kind: str) -> list[dict[str, Any]]:
        return [json.loads(event.canonical)["body"] for event in await self.events(session_id) if event.type == kind]

    async def executions(self, session_id: str) -> list[Execution]:
        row = await self.row(session_id)
        return await self.store.list_executions(row.run_id)


@asynccontextmanager
async def plane(
    folder: Path, adapter: Adapter, *plugins: object, registry: Registry | None = None
) -> AsyncIterator[Plane]:
    """Run the layers of a control plane on a folder that outlives it, with further or other plugins than `Acme`."""
    async with AsyncExitStack() as stack:
        bus, clock = Bus(), ManualTime()
        store = SqliteStore(folder / "agentfield.db", on_commit=lambda rows: publish(bus, rows), clock=time.time)
        await store.open()
        stack.push_async_callback(store.close)
        hub = LinkHub(store, key=NodeKey.generate(), clock=time.time)
        access = open_access(store)
        engine = await stack.enter_async_context(Engine(store, hub, bus, access=access, clock=time.time))
        registry = registry or Registry.of([Acme(), *plugins])
        sessions = SessionService(
            store, engine, hub, bus, access=access, registry=registry, adapters=adapter, clock=clock
        )
        stack.push_async_callback(sessions.close)
        made = Plane(store, sessions, hub, bus, clock)
        await sessions.recover()
        app = web.Application()
        app.router.add_get("/api/v1/nodes/link", partial(hub.handle, credential=DEVELOPMENT))
        server = TestServer(app)
        await server.start_server()
        stack.push_async_callback(server.close)
        stack.push_async_callback(hub.close)
        made.url = str(server.make_url("/api/v1/nodes/link"))
        yield made
    # in every test of sessions: what a session has open is closed before its end is stored
    assert open_in_ended_sessions(folder / "agentfield.db") == []


def publish(bus: Bus, rows: list[EventRow]) -> None:
    for row in rows:
        bus.publish(f"run:{row.run_id}", [row])
