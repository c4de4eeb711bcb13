"""OpenTelemetry: one span for each execution, written from the store after the execution has ended.

In come recorded events (`ExecutionTracer.record`), out go spans to the tracer provider of the process or to an OTLP
exporter. No execution waits for telemetry, and OpenTelemetry is imported only when tracing is configured.

Read `tracer` (`ExecutionTracer`: queue and reads from the store), `spans` (`SpanRecord`: name and attributes, without
OpenTelemetry), `otel_writer` (`OtelSpanWriter`: spans with the ids of run and execution) and `provider` (which exporter).
"""

from __future__ import annotations

from agentfield_server.telemetry.tracer import ExecutionTracer
from agentfield_server.telemetry.tracer_provider import open_tracer

__all__ = ["ExecutionTracer", "open_tracer"]
