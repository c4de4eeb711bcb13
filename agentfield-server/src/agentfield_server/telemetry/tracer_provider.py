"""Chooses the tracer provider: the one of the process, or one configured by the OTEL_* variables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentfield.plugins.install import install_hint
from agentfield_server.telemetry.tracer import ExecutionTracer

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["open_tracer"]

_log = logging.getLogger("agentfield.telemetry")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_tracer(
    environ: Mapping[str, str], *, content: bool, provider: TracerProvider | None = None
) -> ExecutionTracer | None:
    """Return the tracer, None when tracing is not configured.

    Args:
        environ: Environment with the OTEL_* variables.
        content: Whether inputs, outputs and transcripts become attributes.
        provider: Tracer provider; None takes the one of the process, or one configured by the variables.
    """
    asked = _asked(environ)
    # without the SDK in `sys.modules` no provider can be set: OpenTelemetry is not imported in vain
    if provider is None and not asked and "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    from agentfield_server.telemetry.otel_writer import OtelSpanWriter

    present = provider or trace.get_tracer_provider()
    if not isinstance(present, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return ExecutionTracer(OtelSpanWriter(present), content=content)
    return _own(content=content) if asked else None


def _asked(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "none", "otlp"):
        _log.warning("OTEL_TRACES_EXPORTER=%s: the control plane itself knows otlp and none only", exporter)
        return False
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in _ENDPOINTS))


def _own(*, content: bool) -> ExecutionTracer | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning(
            "the OTEL_* variables ask for spans, which need more packages: %s",
            install_hint("agentfield-server", "otel"),
        )
        return None
    from agentfield_server.telemetry.otel_writer import OtelSpanWriter

    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        # neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES is set
        resource = Resource.create({"service.name": "agentfield"})
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return ExecutionTracer(OtelSpanWriter(provider, provider.shutdown), content=content)
