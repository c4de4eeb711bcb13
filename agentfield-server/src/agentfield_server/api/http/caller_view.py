"""What a caller sees of its session: own words, the agent's words, names and states of tools, and neutral errors.

Instructions, metadata, costs, inputs and outputs, nested calls and the texts of errors are the operator's. An event of a type that
is not listed here is not shown, so that a new type reveals nothing before somebody has decided about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, Literal

from agentfield.errors import AgentFieldError, SessionEnded, error_from_problem
from agentfield.ids import new_id
from agentfield.wire.rest import DagView, ExecutionView, SessionView
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, SessionRow

__all__ = ["CallerView", "for_caller", "live_for_caller", "session_for_caller"]

_log = logging.getLogger("agentfield.server")

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "session.created": ("target", "provider", "transport", "model", "voice", "floor", "caller"),
    "session.state": ("state", "reason"),
    "provider.attached": ("model", "voice", "verified"),
    "turn.committed": ("turn_id", "item", "text", "text_missing"),
    "turn.discarded": ("item", "why"),
    "turn.transcript": ("turn_id", "item", "text", "late"),
    "turn.unanswered": ("turn_id", "item"),
    "backchannel": ("item",),
    "dtmf": ("digit",),
    "speech.started": ("speech_id", "turn_id", "kind", "interruptible"),
    "speech.ended": (
        "speech_id",
        "generated",
        "verbatim",
        "interrupted",
        "stale",
        "heard_ms",
        "heard_text",
        "heard_method",
        "remaining",
    ),
    "handler.failed": (),
}
"""Recorded events of a conversation, with the fields of their bodies that are shown; ``*`` for all."""

_FAILED = {"handler.failed": "message", "speech.ended": "failed"}
"""Events with the text of an error, and the field that has it: the caller gets the number of the event instead."""

_TOOLS: Mapping[str, tuple[str, ...]] = {
    "execution.created": ("kind", "target", "parent_id", "status"),
    "execution.started": ("kind", "target", "attempt", "entered_at"),
    "execution.ended": ("kind", "target", "status"),
    "execution.retrying": ("attempt", "status"),
    "execution.returned": ("attempt",),
    "approval.requested": (),
    "approval.decided": ("status",),
    "tool.requested": ("call_id", "target", "turn_id"),
    "tool.answered": ("call_id", "execution_id", "pending"),
    "tool.cancelled": ("call_id", "execution_id"),
    "tool.refused": ("call_id", "name"),
}
"""Recorded events about turns, and about tools unless the session is declared with `show_tools=False`."""

_LIVE: Mapping[str, tuple[str, ...]] = {
    "turn.started": ("item", "at_ms"),
    "turn.stopped": ("item", "at_ms"),
    "turn.transcript": ("item", "text", "final", "failed", "late"),
    "turn.committed": ("item",),
    "turn.discarded": ("item", "why"),
    "reply.started": ("reply", "speech_id", "turn_id"),
    "reply.audio": ("reply", "data", "rate", "speech_id", "turn_id"),
    "reply.transcript": ("reply", "text", "final", "speech_id", "turn_id"),
    "reply.ended": ("reply", "status", "speech_id", "turn_id"),
    "interrupted": ("reply", "heard_ms", "method", "speech_id", "turn_id"),
    "playout.started": ("reply", "speech_id", "turn_id"),
    "playout.stopped": ("reply", "speech_id", "turn_id"),
    "playout.cleared": ("reply", "speech_id", "turn_id"),
    "dtmf": ("digit",),
    "log.head": ("*",),
    "error": ("fatal",),
}
"""Live events, with the fields that are shown."""

_OWN_WARNINGS: Mapping[str, tuple[str, ...]] = {"audio_dropped": ("code", "message")}
"""Live warnings of this control plane about the caller's own stream, by code."""

_What = Literal["turn", "tool", "other", "none"]

_REMEMBERED = 4096
"""Executions that a view remembers."""


class CallerView:
    """The caller's view of one session; one for each stream of events.

    Args:
        store: Tells which executions are tools of the conversation.
        row: The session.
    """

    def __init__(self, store: Store, row: SessionRow) -> None:
        self._store = store
        self._tools = bool(row.config.get("declaration", {}).get("show_tools", True))
        self._known: dict[str, _What] = {}

    async def message(self, event: str, data: str) -> str | None:
        """Return a message of an answer to a recorded turn as a caller gets it, None if it gets none of it."""
        match event:
            case "turn":
                return data
            case "live":
                return _live_text(data)
            case "problem":
                return json.dumps(for_caller(error_from_problem(json.loads(data))).to_problem())
        return await self.recorded(data)

    async def recorded(self, text: str) -> str | None:
        """Return a recorded event, in its canonical form, as a caller gets it, None if it gets none of it."""
        event = json.loads(text)
        kind, number, execution_id, hidden = event["type"], event["id"], event.get("execution_id"), event["body"]
        fields = _FIELDS.get(kind)
        if fields is None:
            what = await self._what(execution_id)
            if what == "turn" or (self._tools and what != "other"):
                fields = _TOOLS.get(kind)
        if fields is None:
            return None
        body = _only(hidden, fields)
        if self._tools and hidden.get("tool_calls"):
            body["tool_calls"] = hidden["tool_calls"]
        if (text_of_error := _FAILED.get(kind)) is not None and hidden.get(text_of_error):
            body[text_of_error] = _neutral(number)
        if kind == "execution.ended" and "problem" in hidden:
            body["problem"] = {"code": "failed", "detail": _neutral(number)}
        return json.dumps({**event, "body": body}, separators=(",", ":"), ensure_ascii=False)

    async def dag(self, page: DagView) -> DagView:
        """Return a page of the executions with the tools of the conversation only, by name and state."""
        shown = [
            _named(execution)
            for execution in page.executions
            if self._tools and await self._what(execution.id) == "tool"
        ]
        return page.model_copy(update={"executions": tuple(shown)})

    async def _what(self, execution_id: str | None) -> _What:
        """Return what an execution is to a caller: a turn, a call of the conversation itself, or another, such as a tool's."""
        if execution_id is None:
            return "none"
        if (known := self._known.get(execution_id)) is not None:
            return known
        row = await self._store.get_execution(execution_id)
        what: _What = "other"
        if row is not None and row.kind == "turn":
            what = "turn"
        elif row is not None and await self._is_called_by_conversation(row):
            what = "tool"
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[execution_id] = what
        return what

    async def _is_called_by_conversation(self, row: Execution) -> bool:
        if row.kind == "tool":
            return True
        if row.kind != "call" or row.parent_id is None:
            return False
        parent = await self._store.get_execution(row.parent_id)
        return parent is not None and parent.kind in ("session", "turn")


def live_for_caller(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a live event as a caller gets it, None if it gets none of it."""
    kind = str(event.get("type"))
    fields = _LIVE.get(kind) or _OWN_WARNINGS.get(str(event.get("code")))
    if fields is None:
        return None
    shown = {"type": kind, **_only(event, fields)}
    if kind == "error":
        shown |= {"code": "provider_error", "message": "The call failed."}
    if shown.get("failed"):
        shown["failed"] = "failed"
    return shown


def session_for_caller(view: SessionView) -> SessionView:
    """Return the view of a session without what is the operator's."""
    return view.model_copy(
        update={
            "end_detail": None,
            "metadata": {},
            "turns_by_state": None,
            "usage": None,
            "cost": None,
            "evidence": None,
            "config": {},
        }
    )


def for_caller(error: AgentFieldError) -> AgentFieldError:
    """Return an error as a caller may see it; what a provider, a node or this process said is logged with a number instead."""
    if isinstance(error, SessionEnded) and "why" in error.data:
        reason = error.data.get("reason", "ended")
        return SessionEnded(f"The session is over: {reason}.", hint="start another one", reason=reason)
    status = error.to_problem()["status"]
    if status < 500:
        return error
    incident = new_id("evt")
    _log.warning("a caller was told of the error %s: %s (%s)", incident, error.message, error.code)
    shown = AgentFieldError(
        f"The call failed ({incident}).", code=error.code, hint="try again; the operator finds the reason by the number"
    )
    shown.status = status
    if (retry_after := error.data.get("retry_after")) is not None:
        shown.data["retry_after"] = retry_after
    return shown


def _live_text(text: str) -> str | None:
    shown = live_for_caller(json.loads(text))
    return None if shown is None else json.dumps(shown, separators=(",", ":"), ensure_ascii=False)


def _named(view: ExecutionView) -> ExecutionView:
    problem = None if view.problem is None else {"code": "failed", "detail": _neutral(view.id)}
    return view.model_copy(
        update={
            "input": None,
            "output": None,
            "problem": problem,
            "progress": None,
            "left_out": None,
            "node_id": view.target.partition(".")[0],
            "instance_id": None,
            "history": (),
        }
    )


def _neutral(number: str) -> str:
    return f"it failed ({number})"


def _only(body: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    if fields == ("*",):
        return dict(body)
    return {name: body[name] for name in fields if name in body}
