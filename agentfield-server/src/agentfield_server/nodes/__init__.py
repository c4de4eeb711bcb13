"""Node links: every agent node dials in over one WebSocket, all its work flows there."""

from __future__ import annotations

from agentfield_server.nodes.hub import LinkHub
from agentfield_server.nodes.link import Held, NodeLink, declaration_hash
from agentfield_server.nodes.ports import EnginePort, SessionPort

__all__ = ["EnginePort", "Held", "LinkHub", "NodeLink", "SessionPort", "declaration_hash"]
