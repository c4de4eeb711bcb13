"""Live calls: the state machine, the runtime that drives it, tools and recovery."""

from __future__ import annotations

from agentfield_server.sessions.machine import SessionMachine
from agentfield_server.sessions.manager import Sessions
from agentfield_server.sessions.seats import Adapters
from agentfield_server.sessions.times import SystemTime, Timekeeper
from agentfield_server.sessions.tools import Executions

__all__ = ["Adapters", "Executions", "SessionMachine", "Sessions", "SystemTime", "Timekeeper"]
