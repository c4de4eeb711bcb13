"""Frames of nodes that change executions: the results of attempts, and calls.

Both are handled where they are read, without a task each: a write is submitted, and its commit is followed by a callback that
answers the node. What has to wait first (a large body, a read of the store) is done by a task. Read `results` (`NodeResults`),
then `calls` (`NodeCalls`).
"""

from __future__ import annotations

from agentfield_server.engine.node_frames.calls import NodeCalls
from agentfield_server.engine.node_frames.results import NodeResults

__all__ = ["NodeCalls", "NodeResults"]
