"""Composition root: builds the control plane from its services and its routes, and runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentfield.errors import InvalidInput
from agentfield.plugins import Registry
from agentfield.plugins.hooks.observers import ObserverDispatcher
from agentfield.realtime.gc_tuning import freeze_long_lived_objects
from agentfield.settings import private_folder
from agentfield_server.access.guard import AuthGuard
from agentfield_server.access.service import watched
from agentfield_server.api.application import build_application
from agentfield_server.api.http.protocol import HttpProtocol
from agentfield_server.api.http.route import Route
from agentfield_server.engine import Engine
from agentfield_server.listener import announce_address, listen
from agentfield_server.nodes import LinkHub
from agentfield_server.proof.issuing import Issuer
from agentfield_server.route_table import route_table
from agentfield_server.services import open_services
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.clock import SessionClock
from agentfield_server.settings import Settings
from agentfield_server.transports import TransportHost

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["ControlPlane", "control_plane", "run_server"]

_log = logging.getLogger("agentfield.server")


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane."""

    url: str
    """The bound URL."""
    sessions: SessionService
    engine: Engine
    hub: LinkHub
    registry: Registry
    observers: ObserverDispatcher
    issuer: Issuer
    transports: Mapping[str, TransportHost]
    """The hosts of plugin transports, by name."""
    routes: Sequence[Route]
    """The route table that is served."""


@asynccontextmanager
async def control_plane(
    settings: Settings,
    *,
    registry: Registry | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: SessionClock | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[ControlPlane]:
    """Run a control plane inside an existing event loop.

    Args:
        settings: The settings.
        registry: The plugins; the installed ones by default.
        environ: Source of the providers' keys and addresses and of the transports' settings.
        clock: The clock of the sessions; the operating system's by default.
        tracer_provider: Exports the OpenTelemetry spans; the process's own provider, or one configured by OTEL_*, by
            default.

    Raises:
        InvalidInput: A non-loopback bind without a key, or a folder or an address that cannot be used.
        Conflict: The port is in use.
        Unavailable: Another process holds the store.
        PluginBroken: A plugin does not start, or declares an invalid tool middleware.
    """
    registry = registry or Registry.discover()
    _create_data_folder(settings.home)
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(
            open_services(settings, registry, environ=environ, clock=clock, tracer_provider=tracer_provider)
        )
        access, hub, sessions = parts.access, parts.hub, parts.sessions
        routes = route_table(parts)
        guard = AuthGuard(settings, parts.tokens, access, parts.store, parts.attempts)
        application = build_application(routes, guard, observe=parts.metrics.observe_request)
        await hub.restore()
        await access.tags.propose(hub.tags())
        await stack.enter_async_context(watched(access, sessions.end_refused))
        await sessions.recover()
        url = await stack.enter_async_context(listen(application, settings, protocol=HttpProtocol))
        parts.public_url.bound = url
        stack.push_async_callback(hub.close)
        stack.enter_context(announce_address(settings.home, url))
        if access.keys.development:
            _log.info(
                "no key is needed: every program on this machine, and a proxy that adds no header, may do anything"
            )
        _log.info("nodes and verifiers of proofs know this control plane as %s", parts.key.did)
        yield ControlPlane(
            url=url,
            sessions=sessions,
            engine=parts.engine,
            hub=hub,
            registry=registry,
            observers=parts.observers,
            issuer=parts.issuer,
            transports=parts.transports.hosts,
            routes=routes,
        )


async def run_server(
    settings: Settings, *, registry: Registry | None = None, ready: Callable[[ControlPlane], None] | None = None
) -> None:
    """Run a control plane until SIGINT or SIGTERM.

    Args:
        settings: The settings.
        registry: The plugins; the installed ones by default.
        ready: Called once requests are served.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        async with control_plane(settings, registry=registry) as plane:
            freeze_long_lived_objects()
            if ready is not None:
                ready(plane)
            await stop.wait()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


def _create_data_folder(home: Path) -> None:
    try:
        private_folder(home)
    except OSError as error:
        raise InvalidInput(
            f"The data folder {home} cannot be used: {(error.strerror or type(error).__name__).lower()}.",
            code="bad_setting",
            hint="set AGENTFIELD_HOME, or --data, to a folder that can be written",
            field="home",
        ) from None
