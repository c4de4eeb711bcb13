"""Async client of the control plane's REST API, used by `af`, web backends and scripts.

Method calls go in; the models of `agentfield.wire.rest`, event iterators or an `AgentFieldError` come out. Read `connection`
(requests and errors), then `streams` (events, recorded turns, audio WebSocket), then `client` (one method a route).
"""

from __future__ import annotations

from agentfield.client.client import ControlPlaneClient
from agentfield.settings import discover_api_key, discover_url

__all__ = ["ControlPlaneClient", "discover_api_key", "discover_url"]
