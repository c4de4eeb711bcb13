"""The services of a control plane, built from its settings in the order in which they depend on each other."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agentfield.identity import NodeKey
from agentfield.plugins import Registry
from agentfield.plugins.hooks.lifespan import PluginLifespans
from agentfield.plugins.hooks.observers import ObserverDispatcher
from agentfield.plugins.registry.session_checks import refused_sessions
from agentfield_server.access.attempts import Attempts, ClientAddresses, MemoryAdmission
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.service import AccessService, access_of
from agentfield_server.adapter_pool import AdapterPool
from agentfield_server.bus import RECORDED, Bus
from agentfield_server.engine import Engine
from agentfield_server.engine.address_policy import AddressPolicy
from agentfield_server.engine.retention import Retention
from agentfield_server.engine.webhooks import WebhookService
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
from agentfield_server.transports import TransportManager

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["PublicUrl", "Services", "open_services"]


@dataclass(slots=True)
class PublicUrl:
    """The public base URL; without a setting it is the bound URL, known only after the bind."""

    settings: Settings
    bound: str = ""

    def get(self) -> str:
        """Return it without a slash at the end."""
        return (self.settings.public_url or self.bound).rstrip("/")


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a control plane that its routes stand on."""

    settings: Settings
    registry: Registry
    key: NodeKey
    """The issuer's key, whose DID nodes know this control plane by."""
    bus: Bus
    metrics: Metrics
    observers: ObserverDispatcher
    store: SqliteStore
    access: AccessService
    hub: LinkHub
    issuer: Issuer
    engine: Engine
    webhooks: WebhookService
    retention: Retention
    sessions: SessionService
    turns: RecordedTurnService
    tokens: BrowserTokenService
    attempts: Attempts
    transports: TransportManager
    public_url: PublicUrl


@asynccontextmanager
async def open_services(
    settings: Settings,
    registry: Registry,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: SessionClock | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[Services]:
    """Build the services and close them in the reverse order; nothing is served and nothing is recovered yet.

    Arguments and errors as of `agentfield_server.app.control_plane`.
    """
    async with AsyncExitStack() as stack:
        # first, so that it is exited last: the other hooks of a plugin rely on it
        await stack.enter_async_context(PluginLifespans(registry, home=settings.home, environ=environ))
        bus, metrics = Bus(), Metrics()
        observers = await stack.enter_async_context(ObserverDispatcher(registry))
        metrics.add_observer_counts(lambda: observers.counts)
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
            store, key=key, clock=time.time, refused=partial(refused_sessions, registry), declared=access.note_link
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
        sessions = SessionService(
            store,
            engine,
            hub,
            bus,
            access=access.control,
            registry=registry,
            adapters=adapters,
            prices=load_prices(settings.prices),
            clock=clock,
        )
        stack.push_async_callback(sessions.close)
        metrics.add_gauges(_gauges(hub, sessions))
        turns = RecordedTurnService(sessions, store, bus, registry)
        stack.push_async_callback(turns.close)
        public = PublicUrl(settings)
        transports = TransportManager(
            registry, sessions=sessions, store=store, home=settings.home, environ=environ, public_url=public.get
        )
        stack.push_async_callback(transports.close)
        yield Services(
            settings=settings,
            registry=registry,
            key=key,
            bus=bus,
            metrics=metrics,
            observers=observers,
            store=store,
            access=access,
            hub=hub,
            issuer=issuer,
            engine=engine,
            webhooks=webhooks,
            retention=retention,
            sessions=sessions,
            turns=turns,
            tokens=BrowserTokenService(store, clock=time.time, code_ttl=settings.code_ttl),
            attempts=Attempts(MemoryAdmission(time.monotonic), ClientAddresses(settings.trusted_proxies)),
            transports=transports,
            public_url=public,
        )


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
