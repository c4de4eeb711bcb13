"""The span of an execution as plain values, without OpenTelemetry: name, times, status and attributes.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/ (names and attributes of `gen_ai.*`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield_server.redaction import redact
from agentfield_server.store.records import Execution, SessionRow

__all__ = ["Attributes", "SpanRecord", "span_of"]

Attributes = Mapping[str, str | int | float | bool]

_MAX_CONTENT = 16 * 1024
_FAILED = frozenset({"failed", "timeout"})
_NAMES = {"session": "invoke_agent", "turn": "turn", "tool": "execute_tool", "call": "call"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """A finished span."""

    run_id: str
    execution_id: str
    parent_id: str | None
    name: str
    start: int
    """Nanoseconds since the epoch."""
    end: int
    failed: str | None
    """Code of the problem, None on success; its detail may contain user data and is not exported."""
    attributes: Attributes


def span_of(
    done: Execution,
    session: SessionRow | None = None,
    used: Mapping[str, Any] | None = None,
    *,
    content: bool = False,
) -> SpanRecord:
    """Return the span of an execution that has ended.

    Args:
        done: The execution.
        session: The session that it belongs to.
        used: Usage of the session (body of `session.usage`), for the span of the session itself.
        content: Whether inputs, outputs and transcripts become attributes.
    """
    failed = None
    if done.status in _FAILED:
        failed = str((done.problem or {}).get("code") or done.status)
    attributes = {
        "agentfield.execution_id": done.id,
        "agentfield.run_id": done.run_id,
        "agentfield.session_id": done.session_id,
        "agentfield.parent_id": done.parent_id,
        "agentfield.node_id": done.target.partition(".")[0],
        "agentfield.kind": done.kind,
        "agentfield.target": done.target,
        "agentfield.status": done.status,
        "agentfield.attempt": done.attempt,
        "error.type": failed,
        **_of_kind(done),
        **(_of_session(done, session, used or {}) if session is not None else {}),
        **(_content(done) if content else {}),
    }
    ended = done.created_at if done.ended_at is None else done.ended_at
    return SpanRecord(
        run_id=done.run_id,
        execution_id=done.id,
        parent_id=done.parent_id,
        name=f"{_NAMES[done.kind]} {done.target}",
        start=_nanoseconds(done.created_at),
        end=_nanoseconds(max(ended, done.created_at)),
        failed=failed,
        attributes={name: value for name, value in attributes.items() if value is not None},
    )


def _of_kind(done: Execution) -> dict[str, Any]:
    match done.kind:
        case "session":
            return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": done.target}
        case "tool":
            return {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": done.target,
                "gen_ai.tool.type": "function",
            }
        case "turn":
            return {"agentfield.turn": done.input.get("number") if isinstance(done.input, dict) else None}
        case "call":
            # the conventions define no attributes for a called function
            return {}


def _of_session(done: Execution, session: SessionRow, used: Mapping[str, Any]) -> dict[str, Any]:
    config = session.config
    declared = config.get("declaration") or {}
    values: dict[str, Any] = {"gen_ai.conversation.id": session.id}
    if done.kind in ("session", "turn"):
        values |= {
            "gen_ai.provider.name": declared.get("provider"),
            "gen_ai.request.model": config.get("model"),
            "agentfield.transport": declared.get("transport"),
        }
    if done.kind == "session":
        sums = [kind for kind in (used.get("usage") or {}).values() if isinstance(kind, Mapping)]
        values |= {
            "agentfield.turns": session.turns,
            "agentfield.end_reason": session.end_reason,
            "agentfield.cost_usd": used.get("cost"),
            "gen_ai.usage.input_tokens": _sum(sums, "input_tokens"),
            "gen_ai.usage.output_tokens": _sum(sums, "output_tokens"),
        }
    return values


def _content(done: Execution) -> dict[str, Any]:
    given, came = _text(done.input), _text(done.output)
    if done.kind == "tool":
        return {"gen_ai.tool.call.arguments": given, "gen_ai.tool.call.result": came}
    return {"agentfield.input": given, "agentfield.output": came}


def _text(value: Any) -> str | None:
    return None if value is None else redact(json.dumps(value, ensure_ascii=False))[:_MAX_CONTENT]


def _sum(sums: list[Mapping[str, Any]], name: str) -> int | None:
    found = [int(kind[name]) for kind in sums if isinstance(kind.get(name), int | float)]
    return sum(found) if found else None


def _nanoseconds(seconds: float) -> int:
    # rounded to microseconds, the precision of the store
    return round(seconds * 1_000_000) * 1000
