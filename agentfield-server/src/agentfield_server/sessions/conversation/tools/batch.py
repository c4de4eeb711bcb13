"""Records of the tool call tracker: a call, the batch of calls of one reply, a follow-up request; and their texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from agentfield.errors import InvalidInput
from agentfield.values import parse
from agentfield_server.sessions.conversation.state import TurnRecord

__all__ = ["FollowUpRequest", "ToolCall", "ToolCallBatch", "ToolCallState", "arguments_of", "as_text", "refusal"]


class ToolCallState(StrEnum):
    """Where a tool call of the model stands."""

    RUNNING = "running"
    """It runs, and the model awaits its result."""
    PENDING = "pending"
    """It runs, and the model was told that the result follows."""
    DONE = "done"
    """It has ended, or its result is no longer of use."""
    TAKEN_BACK = "taken_back"
    """The provider took it back: it has no result."""


@dataclass(slots=True, eq=False)
class ToolCall:
    """One tool call of the model."""

    call_id: str
    target: str
    turn: TurnRecord | None
    on_interrupt: Literal["keep", "cancel"]
    state: ToolCallState = ToolCallState.RUNNING
    execution_id: str | None = None
    output: str | None = None
    """The result as sent to the model."""
    note: dict[str, Any] = field(default_factory=dict)
    """The call as the handler receives it, JSON."""

    def as_context(self) -> str:
        """Return the text that tells a conversation without this call about it."""
        if self.output is None:
            return f"{self.target} (call {self.call_id}) was called; its result is pending and follows."
        return f"{self.target} (call {self.call_id}) was called; its result is: {self.output}"


@dataclass(slots=True, eq=False)
class ToolCallBatch:
    """The tool calls of one reply."""

    reply: str
    turn: TurnRecord | None
    calls: list[ToolCall] = field(default_factory=list)
    results: int = 0
    flush_at: float = 0.0
    """When calls without a result are answered as pending, seconds of the machine's clock."""
    answered: bool = False
    """Whether every call has an answer, so that the model may be asked to continue."""


@dataclass(slots=True, eq=False)
class FollowUpRequest:
    """A request that the model speak about results, sent once, when the slot is free."""

    turn: TurnRecord | None
    replies: list[str]
    """The replies whose tools returned."""
    since: float
    """When the last of the results was sent, seconds of the machine's clock."""
    number: int
    """Number of the last command that was sent then."""
    by_provider: bool = False
    """Whether the model goes on by itself, so that it is awaited and not asked."""


def arguments_of(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as they are carried.

    Args:
        text: The arguments as the model wrote them.
        schema: JSON Schema of the tool's input.

    Raises:
        InvalidInput: They are not a JSON object (code `bad_arguments`), or hold a value that cannot be carried (code
            `unrepresentable`).
    """
    try:
        value = parse(text, name="input", schema=schema).value if text.strip() else {}
    except InvalidInput as error:
        if error.code == "malformed_json":
            raise InvalidInput(error.message, code="bad_arguments", hint=_OBJECT) from None
        raise
    if not isinstance(value, dict):
        raise InvalidInput("The arguments are not a JSON object.", code="bad_arguments", hint=_OBJECT)
    return value


def as_text(value: Any, problem: Mapping[str, Any] | None) -> str:
    """Return a result, or the error instead of it, as the JSON text for the model."""
    if problem is not None:
        error = {"code": problem.get("code", "error"), "message": problem.get("detail", "")}
        value = {"error": error}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_OBJECT = "Write one JSON object with a value for each parameter."
_WHY = {
    "not_listed": "there is no such tool",
    "not_offered": "this tool may not be used now",
    "duplicate_call_id": "this call id was used before",
    "limit": "no more tools may be used in this session",
    "too_many_open": "too many tools run already",
    "session_ending": "the session is ending",
    "middleware_failed": "a plugin failed at the call",
}


def refusal(why: str, name: str, error: InvalidInput | None = None) -> str:
    """Return the JSON text for the model when a call is refused; `error` says what is wrong with its arguments."""
    if error is not None:
        detail = f"{name} was not called: {error.message}{f' {error.hint}' if error.hint else ''}"
        return as_text(None, {"code": why, "detail": detail})
    return as_text(None, {"code": why, "detail": f"{name}: {_WHY.get(why, why)}"})
