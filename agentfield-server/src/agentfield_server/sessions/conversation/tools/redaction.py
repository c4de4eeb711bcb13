"""Redaction of a call's input before anything of it is recorded; the tool middleware of plugins decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentfield_server.sessions.conversation.effects import RecordEvent, RunTool

__all__ = ["Redacted", "Redactor", "unredacted"]


@dataclass(frozen=True, slots=True)
class Redacted:
    """A call's input that may be recorded and passed on."""

    args: Mapping[str, Any]
    notes: tuple[RecordEvent, ...] = ()
    """Events to record: which plugins changed it."""
    problem: Mapping[str, Any] | None = None
    """Why the call must not run: a plugin failed, so nothing of its input may be recorded."""


Redactor = Callable[[RunTool], Redacted]
"""Returns the redacted input of a call."""


def unredacted(call: RunTool) -> Redacted:
    """Return the input unchanged."""
    return Redacted(call.args)
