"""Harness of a transport: it serves the routes in the control plane's place, and bridges to a fake provider session."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from agentfield.errors import AgentFieldError, InvalidInput, NotFound, SessionEnded
from agentfield.plugins import RouteSpec, TransportSpec
from agentfield.realtime.bridge import Bridge
from agentfield.realtime.caller import CallerInput, CallerLeg, LegEnd
from agentfield.realtime.commands import AppendAudioCommand, Command
from agentfield.realtime.events import Event
from agentfield.realtime.transport import Evidence, Transport
from agentfield.testing.conformance.harness.adapter_runtime import SECRET, CapturedLog, captured_log
from agentfield.testing.conformance.harness.blocked_loop import loop_guard
from agentfield.testing.conformance.harness.lifetime import entered
from agentfield.testing.conformance.harness.waiting import TaskTracker, time_limit, wait_until
from agentfield.testing.peer import CallEndpoint, CallerPeer, PeerFactory

__all__ = ["TARGET", "FakeProviderSession", "HarnessTransportRuntime", "TransportHarness", "transport_harness"]

TARGET = "desk.voice"
_TOKEN = "token-of-the-conformance-kit"  # noqa: S105 - opens what the kit itself serves
_SESSION = "ses_conformance"
_REFUSED_FROM = 400
"""Statuses from here on are refusals, which a socket's route may answer too."""


class FakeProviderSession:
    """A provider session driven by the test (`agentfield.realtime.provider.ProviderSession`)."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    async def send(self, command: Command) -> None:
        """Keep a command."""
        self.sent.append(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events that the test emits."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """End the events."""
        self._events.put_nowait(None)

    def emit(self, *events: Event) -> None:
        """Emit events."""
        for event in events:
            self._events.put_nowait(event)

    @property
    def audio(self) -> bytes:
        """The caller's audio so far."""
        return b"".join(command.data for command in self.sent if isinstance(command, AppendAudioCommand))


class _PassThroughConverter:
    """The fake session uses the format of the leg, so nothing is converted (`agentfield.realtime.bridge.leg_attachment.Converter`)."""

    def __call__(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        """Return nothing: no audio is buffered."""
        return b""


@dataclass
class HarnessTransportRuntime:
    """The transport runtime of the kit (`agentfield.realtime.transport.TransportRuntime`); it records how it is used."""

    spec: TransportSpec
    settings: Mapping[str, str]
    data_dir: Path
    logger: logging.Logger
    base: str = ""
    read: set[str] = field(default_factory=set)
    """Names of the settings that were read."""
    started: list[tuple[str, Evidence]] = field(default_factory=list)
    """Targets of started sessions, each with its evidence."""
    ended: list[str] = field(default_factory=list)
    """Reasons of ended sessions."""
    leg_ends: list[LegEnd] = field(default_factory=list)
    """How carried legs ended."""
    legs: list[CallerLeg] = field(default_factory=list)
    caller_input: list[CallerInput] = field(default_factory=list)
    """Input of callers besides audio."""
    bridge_events: list[Event] = field(default_factory=list)
    provider_session: FakeProviderSession = field(default_factory=FakeProviderSession)
    bridge: Bridge | None = None
    _sessions: dict[str, str] = field(default_factory=dict)
    _events: asyncio.Task[None] | None = None

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting.

        Raises:
            KeyError: The manifest does not name it.
        """
        if name not in self.spec.settings:
            raise KeyError(name)
        self.read.add(name)
        value = self.settings.get(name)
        return None if value is None else SecretStr(value)

    def url(self, path: str) -> str:
        """Return the URL of a route."""
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
        """Start a session; a repeated idempotency key returns the first session.

        Raises:
            NotFound: The target is not `TARGET`.
            InvalidInput: `evidence` is not an `Evidence`.
        """
        if target != TARGET:
            raise NotFound(f"No node declares {target}.")
        if not isinstance(evidence, Evidence):
            raise InvalidInput("A session is started with the evidence that verify returned.")
        if idempotency_key is not None and idempotency_key in self._sessions:
            return self._sessions[idempotency_key]
        self.started.append((target, evidence))
        session = f"{_SESSION}_{len(self.started)}"
        self._sessions[idempotency_key or session] = session
        return session

    async def carry(self, session_id: str, leg: CallerLeg) -> LegEnd:
        """Carry a leg over the bridge of agentfield-core.

        Raises:
            NotFound: The session does not exist.
            SessionEnded: The session has ended.
        """
        if session_id != _SESSION and session_id not in self._sessions.values():
            raise NotFound(f"There is no session {session_id!r}.")
        if self.ended:
            raise SessionEnded("The session is over.")
        self.legs.append(leg)
        if self.bridge is None:
            self.bridge = Bridge(
                self.provider_session,
                audio=leg.format,
                convert=lambda _from, _to: _PassThroughConverter(),
                clock=time.monotonic,
                on_input=self.caller_input.append,
            )
            self._events = asyncio.create_task(self._follow(self.bridge), name="events of the bridge")
        end = await self.bridge.attach(leg)
        self.leg_ends.append(end)
        return end

    async def _follow(self, bridge: Bridge) -> None:
        async for event in bridge.events():
            self.bridge_events.append(event)

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:  # noqa: ARG002 - there is one
        """End the session."""
        if not self.ended:
            self.ended.append(reason)
            await self.close()

    async def close(self) -> None:
        """Close the bridge and the provider session."""
        if self.bridge is not None:
            await self.bridge.close()
        if self._events is not None:
            await self._events


@dataclass
class TransportHarness:
    """An entered transport, its runtime and its caller."""

    spec: TransportSpec
    transport: Transport
    runtime: HarnessTransportRuntime
    caller: CallerPeer
    endpoint: CallEndpoint
    tasks: TaskTracker
    log: CapturedLog

    async def call(self) -> CallerLeg:
        """Let the caller call; return its leg once it is carried."""
        try:
            async with time_limit("the call is connected"):
                await self.caller.call(self.endpoint)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"the call is connected: the caller got {error!r}") from error
        await wait_until("the transport carries the caller's leg", lambda: self.runtime.legs)
        return self.runtime.legs[-1]

    async def legs_end(self) -> None:
        """Wait until no leg is carried any more: the control plane cancels `input` and `play` then."""
        runtime = self.runtime
        await wait_until(
            "input() and play() of a leg end when they are cancelled: raise asyncio.CancelledError again",
            lambda: len(runtime.leg_ends) == len(runtime.legs),
        )

    async def event(self, kind: type[Any]) -> Any:
        """Wait for an event of the bridge."""
        await wait_until(
            f"expected {kind.__name__}",
            lambda: any(isinstance(each, kind) for each in self.runtime.bridge_events),
            lambda: f"; so far: {[type(each).__name__ for each in self.runtime.bridge_events]}",
        )
        return next(each for each in self.runtime.bridge_events if isinstance(each, kind))

    async def caller_input(self, kind: type[Any]) -> Any:
        """Wait for an input of the caller."""
        await wait_until(
            f"expected {kind.__name__}",
            lambda: any(isinstance(each, kind) for each in self.runtime.caller_input),
            lambda: f"; so far: {self.runtime.caller_input}",
        )
        return next(each for each in self.runtime.caller_input if isinstance(each, kind))


@asynccontextmanager
async def transport_harness(
    spec: TransportSpec, factory: PeerFactory, data_dir: Path
) -> AsyncIterator[TransportHarness]:
    """Enter a transport and serve its routes; check at the end that no task is left and that the secret is not visible.

    Args:
        spec: The transport.
        factory: Makes the caller.
        data_dir: The transport's data folder.
    """
    tasks = TaskTracker()
    with captured_log() as log, loop_guard():
        async with tasks.tracking(), factory(SECRET) as caller:
            logger = logging.getLogger(f"agentfield.transport.{spec.name}")
            runtime = HarnessTransportRuntime(spec, caller.settings, data_dir, logger)
            async with (
                entered(spec.factory or "", runtime, tasks) as transport,
                _served(spec, transport, tasks) as runtime.base,
            ):
                endpoint = CallEndpoint(url=runtime.base, target=TARGET, session_id=_SESSION, token=_TOKEN)
                harness = TransportHarness(spec, transport, runtime, caller, endpoint, tasks, log)
                try:
                    yield harness
                finally:
                    await runtime.close()
                await harness.legs_end()
            await tasks.assert_none_left("the transport")
        facts = [str(evidence) for _, evidence in runtime.started]
        for each in (*log.lines, *facts):
            if SECRET in each:
                raise AssertionError(f"the transport's secret is visible: {each.replace(SECRET, 'THE-SECRET')}")


@asynccontextmanager
async def _served(spec: TransportSpec, transport: Transport, tasks: TaskTracker) -> AsyncIterator[str]:
    """Serve the routes on this machine; yield their base URL.

    Raises:
        AssertionError: A route did not answer as the manifest says.
    """
    faults: list[str] = []
    root = f"/api/v1/transports/{spec.name}"
    app = web.Application()
    for route in spec.routes:
        app.router.add_route(route.method, f"{root}{route.path}", _handler(route, transport, tasks, faults))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{root}"
    except AssertionError as error:  # a fault of a route is why an expectation was not met
        raise AssertionError(faults[0]) if faults else error from error.__cause__
    finally:
        await runner.cleanup()
    if faults:
        raise AssertionError(faults[0])


def _handler(
    route: RouteSpec, transport: Transport, tasks: TaskTracker, faults: list[str]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    serve = getattr(transport, route.handler, None)
    for name in (route.handler, "verify") if route.access == "verified" else (route.handler,):
        if not inspect.iscoroutinefunction(getattr(transport, name, None)):
            raise AssertionError(f"the transport has no method `async def {name}(...)`, which the manifest names")

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            with tasks.code_under_test():
                evidence = await _evidence(route, transport, request, faults)
                response: web.StreamResponse = await serve(request, evidence)  # type: ignore[misc]
        except AgentFieldError as error:
            problem = error.to_problem()
            return web.json_response(problem, status=problem["status"])
        except web.HTTPException:
            raise
        except Exception as error:
            faults.append(f"{route.handler}() raised {error!r}: errors of a transport are those of agentfield.errors")
            raise
        if isinstance(response, web.WebSocketResponse) is not route.socket and response.status < _REFUSED_FROM:
            faults.append(
                f"route {route.method} {route.path} has socket={route.socket} and answers with {type(response).__name__}: the "
                "deadline of a request ends a socket after 30 s unless the route says that it is one"
            )
        return response

    return handle


async def _evidence(route: RouteSpec, transport: Transport, request: web.Request, faults: list[str]) -> Evidence | None:
    """Verify a request as the control plane does.

    Raises:
        HTTPException: The request is refused.
    """
    if route.access != "verified":
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {_TOKEN}".encode()):
            raise web.HTTPUnauthorized
        return None
    try:
        return await transport.verify(request)
    except AgentFieldError as error:
        raise web.HTTPForbidden from error
    except Exception as error:  # a refusal too, but not a wanted one
        faults.append(
            f"verify() raised {error!r}: refuse a caller with agentfield.errors.Forbidden, whose text the caller sees"
        )
        raise web.HTTPForbidden from error
