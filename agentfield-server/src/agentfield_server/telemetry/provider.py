"""Finds who exports the spans: the process's own tracer provider, or one made as the OTEL_* variables ask."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentfield.plugins.install import install_hint
from agentfield_server.telemetry.feed import Traces

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["open_traces"]

_log = logging.getLogger("agentfield.telemetry")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def open_traces(environ: Mapping[str, str], *, content: bool, provider: TracerProvider | None = None) -> Traces | None:
    """Return what writes spans, None when nobody wants any.

    Args:
        environ: Where the OTEL_* variables are looked up.
        content: Whether inputs, outputs and words are attributes.
        provider: Who exports the spans; the process's own, or one as the variables ask, when None.
    """
    asked = _asked(environ)
    # a provider that is not there cannot have been set: without one OpenTelemetry is not even imported
    if provider is None and not asked and "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    from agentfield_server.telemetry.pen import ApiPen

    present = provider or trace.get_tracer_provider()
    if not isinstance(present, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return Traces(ApiPen(present), content=content)
    return _own(content=content) if asked else None


def _asked(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "none", "otlp"):
        _log.warning("OTEL_TRACES_EXPORTER=%s: the control plane itself knows otlp and none only", exporter)
        return False
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in _ENDPOINTS))


def _own(*, content: bool) -> Traces | None:
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
    from agentfield_server.telemetry.pen import ApiPen

    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        # neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES named it
        resource = Resource.create({"service.name": "agentfield"})
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(ApiPen(provider, provider.shutdown), content=content)
