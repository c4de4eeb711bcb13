"""OpenTelemetry: a span of each execution, made from what is recorded once it has ended, away from all calls."""

from __future__ import annotations

from agentfield_server.telemetry.feed import Traces
from agentfield_server.telemetry.provider import open_traces

__all__ = ["Traces", "open_traces"]
