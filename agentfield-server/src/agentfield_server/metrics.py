"""What Prometheus may ask: counters fed by what is recorded, gauges read when they are asked for."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentfield.plugins.observers import Counts
from agentfield_server.store.records import EventRow, Execution

__all__ = ["Gauges", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Gauges = Mapping[str, tuple[str, str, Callable[[], Mapping[str, float]]]]
"""By name: what it is, the name of its label, and what gives the values by label."""


class Metrics:
    """The metrics of one control plane; two may live side by side."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter("agentfield_events", "Events that were recorded.", ["type"], registry=self._registry)
        self._executions = Counter(
            "agentfield_executions", "Executions that ended.", ["kind", "target", "status"], registry=self._registry
        )
        self._took = Histogram(
            "agentfield_execution_seconds",
            "From the commit of a call to the commit of its result.",
            ["target"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._waited = Histogram(
            "agentfield_execution_wait_seconds",
            "From the commit of a call until its function was entered.",
            ["target"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._sessions = Counter(
            "agentfield_sessions_ended", "Sessions that ended.", ["reason"], registry=self._registry
        )
        self._requests = Histogram(
            "agentfield_http_request_seconds",
            "Requests by route; sockets and streams count until they end.",
            ["method", "route", "status"],
            buckets=_SECONDS,
            registry=self._registry,
        )

        # finding a metric by its labels takes longer than counting
        self._event = functools.cache(self._events.labels)
        self._execution = functools.cache(self._executions.labels)
        self._execution_took = functools.cache(self._took.labels)
        self._execution_waited = functools.cache(self._waited.labels)
        self._request = functools.cache(self._requests.labels)

    def watch(self, gauges: Gauges) -> None:
        """Read these whenever somebody asks."""
        self._registry.register(_Reader(gauges))

    def observe(self, counts: Callable[[], Mapping[tuple[str, str], Counts]]) -> None:
        """Read what became of the events for each observer whenever somebody asks."""
        self._registry.register(_Observed(counts))

    def recorded(self, rows: Iterable[EventRow]) -> None:
        """Count what was recorded."""
        for kind, count in Tally(row.type for row in rows).items():
            self._event(kind).inc(count)
        for row in rows:
            if row.type == "session.state":
                body = json.loads(row.canonical)["body"]
                if body.get("state") == "ended":
                    self._sessions.labels(str(body.get("reason") or "ended")).inc()

    def execution_ended(self, done: Execution) -> None:
        """Count an execution that ended."""
        self._execution(done.kind, done.target, done.status).inc()
        if done.ended_at is not None:
            self._execution_took(done.target).observe(max(done.ended_at - done.created_at, 0.0))
        if done.started_at is not None:
            self._execution_waited(done.target).observe(max(done.started_at - done.created_at, 0.0))

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Time every request, by its route and never by its address."""
        begun, status = time.perf_counter(), 500
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            route = "unknown" if resource is None else resource.canonical
            self._request(request.method, route, str(status)).observe(time.perf_counter() - begun)

    async def serve(self, _: web.Request) -> web.Response:
        """Answer Prometheus."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


class _Observed(Collector):
    """What became of the events for plugins that look on."""

    def __init__(self, counts: Callable[[], Mapping[tuple[str, str], Counts]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the counts as they are now."""
        family = CounterMetricFamily(
            "agentfield_plugin_events",
            "Events that plugins were told of.",
            labels=["plugin", "hook", "outcome"],
        )
        for (plugin, hook), counts in self._counts().items():
            for outcome, value in asdict(counts).items():
                family.add_metric([plugin, hook, outcome], value)
        yield family


class _Reader(Collector):
    """Gauges whose values are somewhere else."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield each gauge as it is now."""
        for name, (what, label, values) in self._gauges.items():
            family = GaugeMetricFamily(name, what, labels=[label])
            for key, value in values().items():
                family.add_metric([key], value)
            yield family
