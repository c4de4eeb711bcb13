"""Transports that plugins bring: entered when their first caller comes, given no more than their runtime, isolated from the rest."""

from __future__ import annotations

from agentfield_server.transports.host import TransportHost
from agentfield_server.transports.room import TransportRoom

__all__ = ["TransportHost", "TransportRoom"]
