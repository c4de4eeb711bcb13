"""Serves a transport's routes in the place of the control plane, with a provider's session that a test plays."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from agentfield.errors import AgentFieldError, InvalidInput, NotFound, SessionEnded
from agentfield.plugins import RouteInfo, TransportInfo
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.bridge import Bridge
from agentfield.realtime.caller import CallerInput, CallerLeg
from agentfield.realtime.commands import AppendAudio, Command
from agentfield.realtime.events import Event
from agentfield.realtime.player import LineEnd
from agentfield.realtime.transport import Evidence, Transport
from agentfield.testing.peer import CallerPeer, CallPlace, PeerFactory
from agentfield.testing.runtime import SECRET, Log, collected_log
from agentfield.testing.waiting import Tasks, holds, within

__all__ = ["TARGET", "Exchange", "PlayedSession", "TransportStage", "transport_on_stage"]

TARGET = "desk.voice"
_TOKEN = "token-of-the-conformance-kit"  # noqa: S105 - opens what the kit itself serves
_SESSION = "ses_conformance"


class PlayedSession:
    """A provider's session that a test plays (`agentfield.realtime.provider.ProviderSession`)."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def send(self, command: Command) -> None:
        """Keep a command."""
        self.sent.append(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what the test lets happen."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """End the events."""
        self._events.put_nowait(None)

    def tell(self, *events: Event) -> None:
        """Let something happen."""
        for event in events:
            self._events.put_nowait(event)

    @property
    def audio(self) -> bytes:
        """What the caller said so far."""
        return b"".join(command.data for command in self.sent if isinstance(command, AppendAudio))


class _Plain:
    """The played session speaks what the leg speaks: nothing is converted (`agentfield.realtime.line.Converter`)."""

    def __call__(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        """Return nothing, since nothing is held."""
        return b""


@dataclass
class Exchange:
    """What a transport is given (`agentfield.realtime.transport.TransportRuntime`), and what it did with it."""

    info: TransportInfo
    settings: Mapping[str, str]
    data_dir: Path
    logger: logging.Logger
    base: str = ""
    started: list[tuple[str, Evidence]] = field(default_factory=list)
    """Targets that were started, each with why."""
    ended: list[str] = field(default_factory=list)
    """Reasons with which sessions were ended."""
    carried: list[LineEnd] = field(default_factory=list)
    """Why legs were over."""
    legs: list[CallerLeg] = field(default_factory=list)
    heard: list[CallerInput] = field(default_factory=list)
    """What callers typed, and that they went."""
    told: list[Event] = field(default_factory=list)
    played: PlayedSession = field(default_factory=PlayedSession)
    bridge: Bridge | None = None
    _names: dict[str, str] = field(default_factory=dict)
    _events: asyncio.Task[None] | None = None

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest names.

        Raises:
            KeyError: It does not.
        """
        if name not in self.info.settings:
            raise KeyError(name)
        value = self.settings.get(name)
        return None if value is None else SecretStr(value)

    def url(self, path: str) -> str:
        """Return the address of one of its routes."""
        return f"{self.base}{path}"

    async def start_session(
        self,
        target: str,
        *,
        evidence: Evidence,
        caller: str | None = None,  # noqa: ARG002 - the contract
        metadata: Mapping[str, str] = MappingProxyType({}),  # noqa: ARG002 - the same
        idempotency_key: str | None = None,
    ) -> str:
        """Start a session; a second start by the same name is the first one.

        Raises:
            NotFound: The target is not the one that the kit has.
            InvalidInput: The evidence is none.
        """
        if target != TARGET:
            raise NotFound(f"Nobody declares {target}.")
        if not isinstance(evidence, Evidence):
            raise InvalidInput("A session is started with the evidence that verify returned.")
        if idempotency_key is not None and idempotency_key in self._names:
            return self._names[idempotency_key]
        self.started.append((target, evidence))
        session = f"{_SESSION}_{len(self.started)}"
        self._names[idempotency_key or session] = session
        return session

    async def carry(self, session_id: str, leg: CallerLeg) -> LineEnd:
        """Carry a leg with core's own bridge.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
        """
        if session_id != _SESSION and session_id not in self._names.values():
            raise NotFound(f"There is no session {session_id!r}.")
        if self.ended:
            raise SessionEnded("The session is over.")
        self.legs.append(leg)
        if self.bridge is None:
            self.bridge = Bridge(
                self.played,
                audio=leg.format,
                convert=lambda _from, _to: _Plain(),
                clock=time.monotonic,
                hear=self.heard.append,
            )
            self._events = asyncio.create_task(self._follow(self.bridge), name="events of the bridge")
        why = await self.bridge.attach(leg)
        self.carried.append(why)
        return why

    async def _follow(self, bridge: Bridge) -> None:
        async for event in bridge.events():
            self.told.append(event)

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:  # noqa: ARG002 - there is one
        """End the session."""
        if not self.ended:
            self.ended.append(reason)
            await self.close()

    async def close(self) -> None:
        """Let go of the leg and of the played session."""
        if self.bridge is not None:
            await self.bridge.close()
        if self._events is not None:
            await self._events


@dataclass
class TransportStage:
    """A transport that was entered, its caller, and the exchange between them."""

    info: TransportInfo
    transport: Transport
    exchange: Exchange
    caller: CallerPeer
    place: CallPlace
    tasks: Tasks
    log: Log

    async def call(self) -> CallerLeg:
        """Let the caller call; return its leg when it is carried."""
        async with within("the call is connected"):
            await self.caller.call(self.place)
        await holds("the transport carries the caller's leg", lambda: self.exchange.legs)
        return self.exchange.legs[-1]

    async def event(self, kind: type[Any]) -> Any:
        """Wait for an event of the bridge."""
        await holds(
            f"expected {kind.__name__}",
            lambda: any(isinstance(each, kind) for each in self.exchange.told),
            lambda: f"; so far: {[type(each).__name__ for each in self.exchange.told]}",
        )
        return next(each for each in self.exchange.told if isinstance(each, kind))

    async def hears(self, kind: type[Any]) -> Any:
        """Wait until the caller did something that the session is told of."""
        await holds(
            f"expected {kind.__name__}",
            lambda: any(isinstance(each, kind) for each in self.exchange.heard),
            lambda: f"; so far: {self.exchange.heard}",
        )
        return next(each for each in self.exchange.heard if isinstance(each, kind))


@asynccontextmanager
async def transport_on_stage(info: TransportInfo, factory: PeerFactory, folder: Path) -> AsyncIterator[TransportStage]:
    """Enter a transport and serve its routes; at the end no task of it may be left, and its secret is nowhere.

    Args:
        info: The transport.
        factory: Makes the caller.
        folder: The transport's own folder.
    """
    tasks = Tasks()
    with collected_log() as log, tasks.watched():
        async with factory(SECRET) as caller:
            logger = logging.getLogger(f"agentfield.transport.{info.name}")
            exchange = Exchange(info, caller.settings, folder, logger)
            entered: AbstractAsyncContextManager[Transport] = load_attribute(info.factory or "")(exchange)
            async with within(f"{info.factory} is entered"):
                with tasks.theirs():
                    transport = await entered.__aenter__()
            try:
                async with _served(info, transport, tasks) as exchange.base:
                    place = CallPlace(url=exchange.base, target=TARGET, session_id=_SESSION, token=_TOKEN)
                    try:
                        yield TransportStage(info, transport, exchange, caller, place, tasks, log)
                    finally:
                        await exchange.close()
            finally:
                async with within(f"{info.factory} is left"):
                    await entered.__aexit__(None, None, None)
            await tasks.none_left("the transport")
        facts = [str(evidence) for _, evidence in exchange.started]
        for each in (*log.lines, *facts):
            if SECRET in each:
                raise AssertionError(f"the transport's secret is told: {each.replace(SECRET, 'THE-SECRET')}")


@asynccontextmanager
async def _served(info: TransportInfo, transport: Transport, tasks: Tasks) -> AsyncIterator[str]:
    """Serve the routes on this machine; yields their base address."""
    root = f"/api/v1/transports/{info.name}"
    app = web.Application()
    for route in info.routes:
        app.router.add_route(route.method, f"{root}{route.path}", _handler(route, transport, tasks))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{root}"
    finally:
        await runner.cleanup()


def _handler(
    route: RouteInfo, transport: Transport, tasks: Tasks
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    serve = getattr(transport, route.handler)

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            with tasks.theirs():
                evidence = await _evidence(route, transport, request)
                response: web.StreamResponse = await serve(request, evidence)
        except AgentFieldError as error:
            return web.json_response(error.to_problem(), status=error.status)
        return response

    return handle


async def _evidence(route: RouteInfo, transport: Transport, request: web.Request) -> Evidence | None:
    """Return why the request is to be believed, as the control plane would find out.

    Raises:
        HTTPException: It is not.
    """
    if route.access != "verified":
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {_TOKEN}".encode()):
            raise web.HTTPUnauthorized
        return None
    try:
        return await transport.verify(request)
    except Exception as error:  # a failing check is a refusal, whatever it says
        raise web.HTTPForbidden from error
