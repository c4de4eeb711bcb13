"""Durable execution: every call of a target is a row before it is work."""

from __future__ import annotations

from agentfield_server.engine.engine import FINAL, Engine
from agentfield_server.engine.targets import MAX_INPUT

__all__ = ["FINAL", "MAX_INPUT", "Engine"]
