"""Writes spans with the OpenTelemetry API; trace and span ids are derived from the ids of run and execution."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    set_span_in_context,
)

from agentfield.wire.trace_context import span_id, trace_id
from agentfield_server.telemetry.spans import SpanRecord

__all__ = ["OtelSpanWriter", "RunIds"]

_CLOSE = 5.0
"""Timeout in seconds for flushing the exporter at the end."""

_next: ContextVar[tuple[int, int]] = ContextVar("agentfield_span")


class RunIds:
    """An `IdGenerator` of the SDK that returns the ids of the span being written."""

    def generate_trace_id(self) -> int:
        """Return the trace of the run."""
        return _next.get()[0]

    def generate_span_id(self) -> int:
        """Return the span of the execution."""
        return _next.get()[1]

    def is_trace_id_random(self) -> bool:
        """Return whether the last 56 bits are random, as those of a UUIDv7 are (W3C Trace Context level 2)."""
        return True


class OtelSpanWriter:
    """Writes spans to a tracer provider.

    Args:
        provider: The tracer provider that exports them.
        close: Blocking function that flushes the provider; None where the host program owns the provider.
    """

    def __init__(self, provider: TracerProvider, close: Callable[[], object] | None = None) -> None:
        # the API gives no access to ids and sampler; the tracers of the SDK have them as attributes
        self._tracer = cast("Any", provider.get_tracer("agentfield"))
        self._tracer.id_generator = RunIds()
        self._close = close

    def write(self, span: SpanRecord, link: str | None) -> None:
        """Write a span."""
        trace, own = int(trace_id(span.run_id), 16), int(span_id(span.execution_id), 16)
        root = span.parent_id is None
        context = Context()
        if span.parent_id is not None:
            above = SpanContext(
                trace, int(span_id(span.parent_id), 16), is_remote=False, trace_flags=self._flags(trace)
            )
            context = set_span_in_context(NonRecordingSpan(above), context)
        token = _next.set((trace, own))
        try:
            made = self._tracer.start_span(
                span.name,
                context=context,
                kind=SpanKind.SERVER if root else SpanKind.INTERNAL,
                attributes=dict(span.attributes),
                links=[_link(link)] if link else [],
                start_time=span.start,
            )
        finally:
            _next.reset(token)
        if span.failed is not None:
            made.set_status(Status(StatusCode.ERROR, span.failed))
        elif span.attributes.get("agentfield.status") == "succeeded":
            made.set_status(Status(StatusCode.OK))
        made.end(end_time=span.end)

    async def close(self) -> None:
        """Flush the exporter in a daemon thread; give up after a timeout, so that a hanging exporter does not block the exit."""
        if self._close is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        close = self._close

        def work() -> None:
            try:
                close()
            finally:
                _tell(loop, done)

        threading.Thread(target=work, name="agentfield-telemetry-close", daemon=True).start()
        try:
            async with asyncio.timeout(_CLOSE):
                await done.wait()
        except TimeoutError:
            return

    def _flags(self, trace: int) -> TraceFlags:
        """Return the sampling decision of the trace's root, which its descendants follow."""
        sampler = getattr(self._tracer, "sampler", None)
        if sampler is None:
            return TraceFlags(TraceFlags.SAMPLED)
        sampled = sampler.should_sample(Context(), trace, "agentfield").decision.is_sampled()
        return TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)


def _link(traceparent: str) -> Link:
    _, trace, span, flags = traceparent.split("-")
    return Link(SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))))


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(done.set)
