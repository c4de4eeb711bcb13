"""Node links: every agent node connects to the control plane over one WebSocket, which carries all of its work.

In come the frames of the nodes (hello, accepted, result, progress, call, session commands); out go invocations, session
frames and acknowledgements. `LinkHub` accepts links and picks the instance for a piece of work; what a frame means is
decided by the engine and the sessions, which bind themselves as `EnginePort` and `SessionPort`.

Read `hub` (`LinkHub`: accept, serve and end links, pick an instance), `handshake` (challenge and hello), `identities`
(`NodeIdentities`: which keys may link as a node id), `linked_node`
(`LinkedNode`: one linked instance, its assigned attempts and its outbox), `liveness` (`NodeLiveness`: nodes whose event loop
is blocked), `connection` (`LinkConnection`: the read, write and ping loops), `registry` (`NodeRegistry`: declarations that
outlive a link) and `protocols`.
"""

from __future__ import annotations

from agentfield_server.nodes.hub import LinkHub
from agentfield_server.nodes.identities import DEVELOPMENT, LinkCredential, NodeIdentities
from agentfield_server.nodes.linked_node import AssignedAttempt, LinkedNode, declaration_hash
from agentfield_server.nodes.protocols import EnginePort, Handled, SessionPort

__all__ = [
    "DEVELOPMENT",
    "AssignedAttempt",
    "EnginePort",
    "Handled",
    "LinkCredential",
    "LinkHub",
    "LinkedNode",
    "NodeIdentities",
    "SessionPort",
    "declaration_hash",
]
