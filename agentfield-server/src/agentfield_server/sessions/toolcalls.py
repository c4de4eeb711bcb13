"""The records behind the tool desk: a call, the calls of one reply, the wish that the model go on; and their texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_server.sessions.turns import TurnRecord

__all__ = ["Batch", "Call", "Wish", "arguments_of", "as_text", "refusal"]


@dataclass(slots=True, eq=False)
class Call:
    """One call of a tool by the model."""

    call_id: str
    target: str
    turn: TurnRecord | None
    on_interrupt: Literal["keep", "cancel"]
    state: Literal["running", "pending", "done"] = "running"
    execution_id: str | None = None
    output: str | None = None
    """The result as the model was given it."""
    note: dict[str, Any] = field(default_factory=dict)
    """What the handler is told of the call."""

    def in_words(self) -> str:
        """Return what a conversation that does not hold the call is told of it."""
        if self.output is None:
            return f"{self.target} (call {self.call_id}) was called; its result is pending and follows."
        return f"{self.target} (call {self.call_id}) was called; its result is: {self.output}"


@dataclass(slots=True, eq=False)
class Batch:
    """The calls of one reply."""

    reply: str
    turn: TurnRecord | None
    calls: list[Call] = field(default_factory=list)
    results: int = 0
    flush_at: float = 0.0
    answered: bool = False
    """Whether every call has an answer and the model may be asked to go on."""


@dataclass(slots=True, eq=False)
class Wish:
    """The model should speak about results; asked once, when it can."""

    turn: TurnRecord | None
    replies: list[str]


def arguments_of(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call, None when they are no JSON object."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def as_text(value: Any, problem: Mapping[str, Any] | None) -> str:
    """Return a result, or the error that took its place, as the JSON text that the model reads."""
    if problem is not None:
        error = {"code": problem.get("code", "error"), "message": problem.get("detail", "")}
        value = {"error": error}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_WHY = {
    "not_listed": "there is no such tool",
    "not_offered": "this tool may not be used now",
    "bad_arguments": "the arguments are not a JSON object",
    "duplicate_call_id": "this call id was used before",
    "limit": "no more tools may be used in this session",
    "too_many_open": "too many tools run already",
    "session_ending": "the session is ending",
}


def refusal(why: str, name: str) -> str:
    """Return what the model reads when a call is refused."""
    return as_text(None, {"code": why, "detail": f"{name}: {_WHY.get(why, why)}"})
