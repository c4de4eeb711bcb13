"""The live conversation that a handler sees: `Session`, and the `Turn`, `Speech`, `Spoken` and `Reply` that it deals in.

A `SessionOpen` frame and a `CommandSender` go in; session commands come out through the port, and their answers resolve
what the handler awaits. Nothing here knows a socket or a task. Read `turns` (the records) before `session`.
"""

from __future__ import annotations

from agentfield.session.session import CommandSender, Session, Speech
from agentfield.session.turns import Reply, Spoken, Turn

__all__ = ["CommandSender", "Reply", "Session", "Speech", "Spoken", "Turn"]
