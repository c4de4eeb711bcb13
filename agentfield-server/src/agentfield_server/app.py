"""Puts the control plane together; nothing else does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agentfield.plugins import Registry
from agentfield.plugins.observers import Observers
from agentfield.plugins.registration import refused_sessions
from agentfield.realtime.heap import keep_for_good
from agentfield_server.access.guards import Door
from agentfield_server.access.tokens import TokenDesk
from agentfield_server.adapters import AdapterPool
from agentfield_server.api import executions, nodes, workflows
from agentfield_server.api.application import build_application
from agentfield_server.api.approvals import ApprovalRoutes
from agentfield_server.api.catalogue import CatalogueRoutes
from agentfield_server.api.media import MediaRoutes
from agentfield_server.api.openapi import openapi_route
from agentfield_server.api.pages import PageRoutes
from agentfield_server.api.routes import Route
from agentfield_server.api.sessions import SessionRoutes
from agentfield_server.api.store import StoreRoutes
from agentfield_server.api.transports import TransportRoutes
from agentfield_server.api.turns import TurnRoutes
from agentfield_server.api.webhooks import WebhookRoutes
from agentfield_server.bus import RECORDED, Bus
from agentfield_server.engine import Engine
from agentfield_server.engine.outbound import Allowed
from agentfield_server.engine.retention import Retention
from agentfield_server.engine.webhooks import Webhooks
from agentfield_server.listening import announced, listen
from agentfield_server.metrics import Gauges, Metrics
from agentfield_server.nodes import LinkHub, NodeLink
from agentfield_server.sessions import Sessions
from agentfield_server.sessions.prices import load_prices
from agentfield_server.sessions.times import Timekeeper
from agentfield_server.sessions.turndesk import TurnDesk
from agentfield_server.settings import Settings
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite import SqliteStore
from agentfield_server.telemetry import Traces, open_traces
from agentfield_server.transports import TransportHost, TransportRoom

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["ControlPlane", "control_plane", "run_server"]


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane that serves requests."""

    url: str
    """Where it listens."""
    sessions: Sessions
    engine: Engine
    hub: LinkHub
    registry: Registry
    observers: Observers
    transports: Mapping[str, TransportHost]
    """The transports that plugins bring, by name."""


@asynccontextmanager
async def control_plane(
    settings: Settings,
    *,
    registry: Registry | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Timekeeper | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[ControlPlane]:
    """Run a control plane inside an existing event loop.

    Args:
        settings: How it runs.
        registry: The plugins; those that are installed when None.
        environ: Where keys and addresses of providers, and settings of transports, are read from.
        clock: The time of sessions and their limits; this machine's when None.
        tracer_provider: Who exports OpenTelemetry's spans; the process's own, or as OTEL_* ask, when None.

    Raises:
        InvalidInput: It was to be reachable by others without a key.
        Conflict: The port is in use.
        Unavailable: Another process holds the store.
        PluginBroken: A plugin does not say what its tool middleware is.
    """
    settings.require_safe_bind()
    registry = registry or Registry.discover()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        bus, metrics = Bus(), Metrics()
        observers = await stack.enter_async_context(Observers(registry))
        traces = open_traces(environ, content=settings.otel_content, provider=tracer_provider)
        publish = _publisher(bus, observers, metrics, traces)
        store = SqliteStore(settings.home / "agentfield.db", on_commit=publish, clock=time.time)
        await store.open()
        stack.push_async_callback(store.close)
        if traces is not None:
            await stack.enter_async_context(traces.running(store))
        hub = LinkHub(store, clock=time.time, refused=partial(refused_sessions, registry))
        engine = await stack.enter_async_context(
            Engine(store, hub, bus, clock=time.time, max_queued=settings.max_queued, ended=metrics.execution_ended)
        )
        webhooks = await stack.enter_async_context(
            Webhooks(store, bus, Allowed(settings.webhook_allow), clock=time.time)
        )
        retention = await stack.enter_async_context(Retention(store, clock=time.time, days=settings.retention_days))
        adapters = AdapterPool(registry, home=settings.home, environ=environ, concurrency=settings.provider_concurrency)
        stack.push_async_callback(adapters.close)
        prices = load_prices(settings.prices)
        sessions = Sessions(store, engine, hub, bus, registry=registry, adapters=adapters, prices=prices, time=clock)
        stack.push_async_callback(sessions.close)
        metrics.watch(_gauges(hub, sessions))
        metrics.observe(lambda: observers.counts)
        turns = TurnDesk(sessions, store, bus, registry)
        stack.push_async_callback(turns.close)
        tokens = TokenDesk(store, clock=time.time, code_ttl=settings.code_ttl)
        public = _PublicUrl(settings)
        transports = TransportRoom(
            registry, sessions=sessions, store=store, home=settings.home, environ=environ, public_url=public.get
        )
        stack.push_async_callback(transports.close)
        routes = [
            *SessionRoutes(
                sessions=sessions, store=store, tokens=tokens, bus=bus, turns=turns, public_url=public.get
            ).routes(),
            *TurnRoutes(turns, sessions, store).routes(),
            *MediaRoutes(sessions=sessions, bus=bus).routes(),
            *executions.routes(engine, store),
            *ApprovalRoutes(engine.approvals, store, secret=settings.webhook_secret, clock=time.time).routes(),
            *WebhookRoutes(webhooks, store).routes(),
            *workflows.routes(store, engine, bus),
            *StoreRoutes(retention, store).routes(),
            *nodes.routes(hub),
            *CatalogueRoutes(registry).routes(),
            Route("GET", "/metrics", metrics.serve, "operator", "Metrics for Prometheus", media_type="text/plain"),
            *TransportRoutes(transports.hosts).routes(),
        ]
        routes += [openapi_route(routes), *PageRoutes(settings.web_dir).routes()]
        application = build_application(routes, Door(settings, tokens), middlewares=[metrics.middleware])
        await hub.recall()
        await sessions.recover()
        url = await stack.enter_async_context(listen(application, settings))
        public.bound = url
        stack.push_async_callback(hub.close)
        stack.enter_context(announced(settings.home, url))
        yield ControlPlane(
            url=url,
            sessions=sessions,
            engine=engine,
            hub=hub,
            registry=registry,
            observers=observers,
            transports=transports.hosts,
        )


async def run_server(
    settings: Settings, *, registry: Registry | None = None, ready: Callable[[ControlPlane], None] | None = None
) -> None:
    """Run a control plane until SIGINT or SIGTERM.

    Args:
        settings: How it runs.
        registry: The plugins; those that are installed when None.
        ready: Called once it serves requests.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        async with control_plane(settings, registry=registry) as plane:
            keep_for_good()
            if ready is not None:
                ready(plane)
            await stop.wait()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


@dataclass(slots=True)
class _PublicUrl:
    """The address for browsers; known only once the port is."""

    settings: Settings
    bound: str = ""

    def get(self) -> str:
        return (self.settings.public_url or self.bound).rstrip("/")


def _gauges(hub: LinkHub, sessions: Sessions) -> Gauges:
    def by_node(count: Callable[[NodeLink], float]) -> Callable[[], Mapping[str, float]]:
        def values() -> Mapping[str, float]:
            total = Counter[str]()
            for link in hub.links():
                total[link.node_id] += int(count(link))
            return total

        return values

    return {
        "agentfield_sessions": ("Sessions that have not ended.", "state", sessions.states),
        "agentfield_nodes": ("Instances that are linked.", "node", by_node(lambda _: 1)),
        "agentfield_executions_held": ("Executions that instances hold.", "node", by_node(lambda link: link.running)),
    }


def _publisher(
    bus: Bus, observers: Observers, metrics: Metrics, traces: Traces | None
) -> Callable[[list[EventRow]], None]:
    def publish(rows: list[EventRow]) -> None:
        metrics.recorded(rows)
        if traces is not None:
            traces.feed(rows)
        by_run: dict[str, list[EventRow]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
            observers.feed(row.type, row.canonical)
        for run_id, events in by_run.items():
            bus.publish(f"run:{run_id}", events)
        if rows:
            bus.publish(RECORDED, {row.type for row in rows})

    return publish
