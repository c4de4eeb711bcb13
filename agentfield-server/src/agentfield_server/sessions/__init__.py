"""Live calls: sessions are started, driven by one task each, and ended or resumed after a restart.

In: start requests, SDP offers, callers' legs, typed text, frames of handlers. Out: the calls at the providers, tool
executions, frames to handlers, events in the store and on the bus. The layers, from the bottom, in reading order:

1. `conversation`: the sans-I/O state machine of a session.
2. `clock`, `media_entry`, `price_file`: the clock, the errors of the ways in, the reader of the price file.
3. `actor`: one task per session, which performs the machine's effects; `recorded_turns`: the callers who send recordings.
4. `start` (checks before a session exists), `recovery` (state of a session from its log), `live` (the running actors),
   `handler_router` (frames of nodes to their actor).
5. `service`: the interface for everything outside this package.
"""

from __future__ import annotations

from agentfield_server.sessions.actor.provider_connection import AdapterSource
from agentfield_server.sessions.actor.tool_runner import ExecutionEngine
from agentfield_server.sessions.clock import SessionClock, SystemClock
from agentfield_server.sessions.conversation.machine import SessionMachine
from agentfield_server.sessions.service import SessionService

__all__ = ["AdapterSource", "ExecutionEngine", "SessionClock", "SessionMachine", "SessionService", "SystemClock"]
