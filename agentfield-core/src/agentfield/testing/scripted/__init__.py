"""A provider without a network or engine: a test scripts what the caller says and what the model answers.

In: queued answers, pauses and break-offs (`ScriptedProvider`), and what the caller does (`ScriptedCall`). Out: the events
of a provider's session, the commands that the session was given, and an `AssertionError` when script and session do not
match. To read: `provider` (the plugin object and the script), `call` (one session), `voice` (the agent's speech),
`answers`, `adapters` (the factories that the manifest names).
"""

from __future__ import annotations

from agentfield.testing.scripted.answers import AnswerLike, ModelRequest, ScriptedAnswer, ToolUse
from agentfield.testing.scripted.call import ScriptedCall
from agentfield.testing.scripted.provider import ScriptedProvider

__all__ = ["AnswerLike", "ModelRequest", "ScriptedAnswer", "ScriptedCall", "ScriptedProvider", "ToolUse"]
