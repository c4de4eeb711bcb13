"""Durable execution: every call of a target is committed to the store before a node is asked to run it.

In come calls over REST and from sessions (`Engine.submit`, `Engine.run`), calls and results of nodes (`EnginePort`), and
decisions about approvals. Out go invocations and cancellations to nodes, closed executions to waiters and the bus, and
webhook deliveries.

Read `engine` (`Engine`: one execution from submission to its end), then its parts: `admission` (checks before the commit),
`dispatch` (leases and invocations), `results` (verification of a node's result), `leases` (nodes that return or are lost),
`node_frames` (results and calls of nodes), `approvals`, `deadlines`, `waiters`, `backoff` and `tasks`. `webhooks` (with
`address_policy`) and `retention` stand beside the engine and use only `backoff` and `tasks`.
"""

from __future__ import annotations

from agentfield_server.engine.admission import MAX_INPUT
from agentfield_server.engine.engine import Engine
from agentfield_server.engine.waiters import FINAL

__all__ = ["FINAL", "MAX_INPUT", "Engine"]
