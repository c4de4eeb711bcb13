"""Composition root: the only module that builds the control plane from its parts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfield.errors import InvalidInput
from agentfield.plugins import Registry
from agentfield.plugins.hooks.lifespan import PluginLifespans
from agentfield.plugins.hooks.observers import ObserverDispatcher
from agentfield.plugins.registry.session_checks import refused_sessions
from agentfield.realtime.gc_tuning import freeze_long_lived_objects
from agentfield_server.access.attempts import Attempts, ClientAddresses, MemoryAdmission
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.guard import AuthGuard
from agentfield_server.access.service import access_of, watched
from agentfield_server.adapter_pool import AdapterPool
from agentfield_server.api.application import build_application
from agentfield_server.api.callers.media_socket import MediaRoutes
from agentfield_server.api.callers.plugin_transports import TransportRoutes
from agentfield_server.api.callers.recorded_turns import TurnRoutes
from agentfield_server.api.http.route import Route
from agentfield_server.api.openapi import openapi_route
from agentfield_server.api.pages import PageRoutes
from agentfield_server.api.resources import executions, nodes, workflows
from agentfield_server.api.resources.access import AccessRoutes
from agentfield_server.api.resources.approvals import ApprovalRoutes
from agentfield_server.api.resources.keys import KeyRoutes
from agentfield_server.api.resources.plugins import CatalogueRoutes
from agentfield_server.api.resources.proofs import ProofRoutes
from agentfield_server.api.resources.sessions import SessionRoutes
from agentfield_server.api.resources.store import StoreRoutes
from agentfield_server.api.resources.webhooks import WebhookRoutes
from agentfield_server.bus import RECORDED, Bus
from agentfield_server.engine import Engine
from agentfield_server.engine.address_policy import AddressPolicy
from agentfield_server.engine.retention import Retention
from agentfield_server.engine.webhooks import WebhookService
from agentfield_server.listener import announce_address, listen
from agentfield_server.metrics import Gauges, Metrics
from agentfield_server.nodes import LinkedNode, LinkHub
from agentfield_server.nodes.head_feed import HeadFeed
from agentfield_server.proof.issuer_key import load_issuer_key, load_replaced_key
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.proof.secret_box import SecretBox
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.clock import SessionClock
from agentfield_server.sessions.price_file import load_prices
from agentfield_server.sessions.recorded_turns.service import RecordedTurnService
from agentfield_server.settings import Settings
from agentfield_server.store.proofs import SignedHead
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.store import SqliteStore
from agentfield_server.telemetry import ExecutionTracer, open_tracer
from agentfield_server.transports import TransportHost, TransportManager

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
        # first, so that it is exited last: the other hooks of a plugin rely on it
        await stack.enter_async_context(PluginLifespans(registry, home=settings.home, environ=environ))
        bus, metrics = Bus(), Metrics()
        observers = await stack.enter_async_context(ObserverDispatcher(registry))
        traces = open_tracer(environ, content=settings.otel_content, provider=tracer_provider)
        issuers: list[Issuer] = []
        publish = _publisher(bus, observers, metrics, traces, issuers)
        store = SqliteStore(settings.home / "agentfield.db", on_commit=publish, clock=time.time)
        await store.open()
        stack.push_async_callback(store.close)
        access = await access_of(store, settings, clock=time.time)
        if traces is not None:
            await stack.enter_async_context(traces.running(store))
        key, replaced = load_issuer_key(settings), load_replaced_key(settings)
        own_log = await OwnLog.open(store, key, clock=time.time, before=replaced)
        secrets = await SecretBox.open(store, key, before=replaced)
        hub = LinkHub(
            store, key=key, clock=time.time, refused=partial(refused_sessions, registry), declared=access.tags.propose
        )
        access.control.bind_links(lambda node_id: [link.principal for link in hub.links(node_id)])
        issuer = await stack.enter_async_context(
            Issuer(store, key, own_log, clock=time.time, signed=partial(_publish_head, bus, HeadFeed(hub)))
        )
        issuers.append(issuer)
        engine = await stack.enter_async_context(
            Engine(
                store,
                hub,
                bus,
                access=access.control,
                clock=time.time,
                max_queued=settings.max_queued,
                ended=metrics.count_execution,
            )
        )
        webhooks = await stack.enter_async_context(
            WebhookService(store, bus, AddressPolicy(settings.webhook_allow), secrets, clock=time.time)
        )
        retention = await stack.enter_async_context(Retention(store, clock=time.time, days=settings.retention_days))
        adapters = AdapterPool(registry, home=settings.home, environ=environ, concurrency=settings.provider_concurrency)
        stack.push_async_callback(adapters.close)
        prices = load_prices(settings.prices)
        sessions = SessionService(
            store,
            engine,
            hub,
            bus,
            access=access.control,
            registry=registry,
            adapters=adapters,
            prices=prices,
            clock=clock,
        )
        stack.push_async_callback(sessions.close)
        metrics.add_gauges(_gauges(hub, sessions))
        metrics.add_observer_counts(lambda: observers.counts)
        turns = RecordedTurnService(sessions, store, bus, registry)
        stack.push_async_callback(turns.close)
        tokens = BrowserTokenService(store, clock=time.time, code_ttl=settings.code_ttl)
        attempts = Attempts(MemoryAdmission(time.monotonic), ClientAddresses(settings.trusted_proxies))
        public = _PublicUrl(settings)
        transports = TransportManager(
            registry, sessions=sessions, store=store, home=settings.home, environ=environ, public_url=public.get
        )
        stack.push_async_callback(transports.close)
        routes = [
            *SessionRoutes(
                sessions=sessions,
                store=store,
                tokens=tokens,
                attempts=attempts,
                bus=bus,
                turns=turns,
                public_url=public.get,
            ).routes(),
            *TurnRoutes(turns, sessions, store).routes(),
            *MediaRoutes(sessions=sessions, bus=bus).routes(),
            *executions.routes(engine, store),
            *ApprovalRoutes(engine.approvals, store, secret=settings.webhook_secret, clock=time.time).routes(),
            *WebhookRoutes(webhooks, store).routes(),
            *workflows.routes(store, engine, bus),
            *StoreRoutes(retention, store).routes(),
            *AccessRoutes(access, hub).routes(),
            *KeyRoutes(access.keys, settings_key=settings.api_key is not None).routes(),
            *nodes.routes(hub),
            *CatalogueRoutes(registry).routes(),
            *ProofRoutes(store, issuer, public_url=public.get).routes(),
            Route(
                "GET",
                "/metrics",
                metrics.serve,
                ("operator", "reader"),
                "Metrics for Prometheus",
                media_type="text/plain",
            ),
            *TransportRoutes(transports.hosts).routes(),
        ]
        routes += [openapi_route(routes), *PageRoutes(settings.web_dir).routes()]
        guard = AuthGuard(settings, tokens, access, store, attempts)
        application = build_application(routes, guard, observe=metrics.observe_request)
        await hub.restore()
        await access.tags.propose(hub.tags())
        await stack.enter_async_context(watched(access, sessions.end_refused))
        await sessions.recover()
        url = await stack.enter_async_context(listen(application, settings))
        public.bound = url
        stack.push_async_callback(hub.close)
        stack.enter_context(announce_address(settings.home, url))
        if access.keys.development:
            _log.info(
                "no key is needed: every program on this machine, and a proxy that adds no header, may do anything"
            )
        _log.info("nodes know this control plane as %s", key.did)
        yield ControlPlane(
            url=url,
            sessions=sessions,
            engine=engine,
            hub=hub,
            registry=registry,
            observers=observers,
            issuer=issuer,
            transports=transports.hosts,
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
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InvalidInput(
            f"The data folder {home} cannot be used: {(error.strerror or type(error).__name__).lower()}.",
            code="bad_setting",
            hint="set AGENTFIELD_HOME, or --data, to a folder that can be written",
            field="home",
        ) from None


@dataclass(slots=True)
class _PublicUrl:
    """The public base URL; without a setting it is the bound URL, known only after the bind."""

    settings: Settings
    bound: str = ""

    def get(self) -> str:
        return (self.settings.public_url or self.bound).rstrip("/")


def _publish_head(
    bus: Bus, feed: HeadFeed, session_id: str | None, _head: SignedHead, event: Mapping[str, Any]
) -> None:
    if session_id is not None:
        bus.publish(f"live:{session_id}", dict(event))
        feed.send(session_id, event)


def _gauges(hub: LinkHub, sessions: SessionService) -> Gauges:
    def by_node(count: Callable[[LinkedNode], float]) -> Callable[[], Mapping[str, float]]:
        def values() -> Mapping[str, float]:
            total = Counter[str]()
            for link in hub.links():
                total[link.node_id] += int(count(link))
            return total

        return values

    return {
        "agentfield_sessions": (
            "Sessions by state; ended ones count for the minute in which their handlers may still call.",
            "state",
            sessions.states,
        ),
        "agentfield_nodes": ("Instances that are linked.", "node", by_node(lambda _: 1)),
        "agentfield_executions_held": ("Executions that instances hold.", "node", by_node(lambda link: link.running)),
    }


def _publisher(
    bus: Bus,
    observers: ObserverDispatcher,
    metrics: Metrics,
    traces: ExecutionTracer | None,
    issuers: Sequence[Issuer],
) -> Callable[[list[EventRow]], None]:
    def publish(rows: list[EventRow]) -> None:
        metrics.count_events(rows)
        if traces is not None:
            traces.record(rows)
        for issuer in issuers:  # none before the store is open
            issuer.note(rows)
        by_run: dict[str, list[EventRow]] = {}
        for row in rows:
            by_run.setdefault(row.run_id, []).append(row)
            observers.dispatch(row.type, row.canonical)
        for run_id, events in by_run.items():
            bus.publish(f"run:{run_id}", events)
        if rows:
            bus.publish(RECORDED, {row.type for row in rows})

    return publish
