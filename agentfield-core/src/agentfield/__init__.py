"""Realtime voice agents whose every turn is orchestrated, traced and signed.

    from agentfield import Agent

The public names are imported on first use, so that ``import agentfield`` stays fast. Further public modules: `agentfield.client`
(the REST client), `agentfield.context` (the running execution), `agentfield.errors`, `agentfield.plugins` and
`agentfield.testing`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfield.agent import Agent
    from agentfield.attempt_state import Decision
    from agentfield.errors import AgentFieldError, ExecutionError, SessionEnded
    from agentfield.realtime.config import Limits, Say, SemanticVad, ServerVad
    from agentfield.session import Reply, Session, Speech, Spoken, Turn

__all__ = [
    "Agent",
    "AgentFieldError",
    "Decision",
    "ExecutionError",
    "Limits",
    "Reply",
    "Say",
    "SemanticVad",
    "ServerVad",
    "Session",
    "SessionEnded",
    "Speech",
    "Spoken",
    "Turn",
]

_MODULES = {
    "Agent": "agentfield.agent",
    "AgentFieldError": "agentfield.errors",
    "Decision": "agentfield.attempt_state",
    "ExecutionError": "agentfield.errors",
    "Limits": "agentfield.realtime.config",
    "Reply": "agentfield.session",
    "Say": "agentfield.realtime.config",
    "SemanticVad": "agentfield.realtime.config",
    "ServerVad": "agentfield.realtime.config",
    "Session": "agentfield.session",
    "SessionEnded": "agentfield.errors",
    "Speech": "agentfield.session",
    "Spoken": "agentfield.session",
    "Turn": "agentfield.session",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        from importlib_metadata import version

        return version("agentfield-core")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
