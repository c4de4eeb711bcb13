"""Transports from plugins: entered on first use, restricted to their runtime, isolated from the rest of the process.

In: the manifests' `TransportInfo`, requests from `agentfield_server.api.callers.plugin_transports`. Out: sessions that the
transports start and legs that they carry. Reading order: `runtime` (what a transport's factory gets), `host` (the lifetime
and the calls of one transport), `manager` (the hosts of all transports).
"""

from __future__ import annotations

from agentfield_server.transports.host import TransportHost
from agentfield_server.transports.manager import TransportManager

__all__ = ["TransportHost", "TransportManager"]
