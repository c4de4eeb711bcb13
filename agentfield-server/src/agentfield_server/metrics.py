"""Prometheus metrics: counters of recorded events and executions, and gauges that are read at each scrape."""

from __future__ import annotations

import functools
import json
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agentfield.plugins.hooks.observers import DeliveryCounts
from agentfield_server.store.records import EventRow, Execution

__all__ = ["Gauges", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Gauges = Mapping[str, tuple[str, str, Callable[[], Mapping[str, float]]]]
"""By metric name: help text, label name, and a function that returns the values by label."""


class Metrics:
    """The metrics of one control plane, in a registry of its own."""

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

        # looking up a child metric by its labels takes longer than incrementing it
        self._event = functools.cache(self._events.labels)
        self._execution = functools.cache(self._executions.labels)
        self._execution_took = functools.cache(self._took.labels)
        self._execution_waited = functools.cache(self._waited.labels)
        self._request = functools.cache(self._requests.labels)

    def add_gauges(self, gauges: Gauges) -> None:
        """Register gauges that are read at each scrape."""
        self._registry.register(_GaugeCollector(gauges))

    def add_observer_counts(self, counts: Callable[[], Mapping[tuple[str, str], DeliveryCounts]]) -> None:
        """Register the delivery counts of observers, which are read at each scrape."""
        self._registry.register(_ObserverCollector(counts))

    def count_events(self, rows: Iterable[EventRow]) -> None:
        """Count recorded events."""
        for kind, count in Tally(row.type for row in rows).items():
            self._event(kind).inc(count)
        for row in rows:
            if row.type == "session.state":
                body = json.loads(row.canonical)["body"]
                if body.get("state") == "ended":
                    self._sessions.labels(str(body.get("reason") or "ended")).inc()

    def count_execution(self, done: Execution) -> None:
        """Count a closed execution with its duration and waiting time."""
        self._execution(done.kind, done.target, done.status).inc()
        if done.ended_at is not None:
            self._execution_took(done.target).observe(max(done.ended_at - done.created_at, 0.0))
        if done.started_at is not None:
            self._execution_waited(done.target).observe(max(done.started_at - done.created_at, 0.0))

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request with its duration."""
        self._request(method, route, str(status)).observe(seconds)

    async def serve(self, _: web.Request) -> web.Response:
        """Serve ``GET /metrics``."""
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


class _ObserverCollector(Collector):
    """Collects the delivery counts of observers."""

    def __init__(self, counts: Callable[[], Mapping[tuple[str, str], DeliveryCounts]]) -> None:
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


class _GaugeCollector(Collector):
    """Collects gauges by calling their functions."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield each gauge as it is now."""
        for name, (what, label, values) in self._gauges.items():
            family = GaugeMetricFamily(name, what, labels=[label])
            for key, value in values().items():
                family.add_metric([key], value)
            yield family
