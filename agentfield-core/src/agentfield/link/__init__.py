"""The node's end of its link to the control plane.

Reasoners, sessions and a key go in; the node registers, runs attempts and handlers, and reports their results, across any
number of connections. Read `state` (the sans-I/O bookkeeping, with its `effects`), then `node_link`, which applies the effects
through `socket` (one WebSocket, opened again whenever it is lost), `attempt_runner` and `handler_runner`. Signatures are in
`greetings` (the handshake, with `known_control_planes`) and `results` (one signature for the results of a message).
"""

from __future__ import annotations

from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.link.node_link import LinkListener, NodeLink

__all__ = ["KnownControlPlanes", "LinkListener", "NodeLink"]
