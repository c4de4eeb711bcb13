"""Recovery of sessions after a restart: the machine's snapshot from the event log, and the end of an unrecoverable session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.values import load_canonical
from agentfield_server.sessions.conversation.history import with_caller_words
from agentfield_server.sessions.conversation.inputs import OpenCallSnapshot, OpenTurnSnapshot, Snapshot
from agentfield_server.sessions.conversation.usage.totals import UsageTotals
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewEvent, SessionRow

__all__ = ["end_unrecoverable", "read_snapshot"]

_PAGE = 500
_HISTORY = 400


@dataclass(slots=True)
class _LogState:
    """State accumulated from the event log."""

    history: list[Mapping[str, Any]] = field(default_factory=list)
    turns: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: dict[str, OpenCallSnapshot] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    speaking: dict[str, str | None] = field(default_factory=dict)
    used: UsageTotals = field(default_factory=UsageTotals)

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        """Apply one event."""
        match kind:
            case "turn.committed":
                self.turns[body["turn_id"]] = body
                self.history.append({"role": "caller", "turn_id": body["turn_id"], "text": body["text"]})
            case "turn.transcript":
                self.turns[body["turn_id"]] = {**body, "text_missing": None}
                self.history[:] = with_caller_words(self.history, body["turn_id"], body["text"])
            case "speech.started":
                self.speaking[body["speech_id"]] = body["asked"]
            case "speech.ended":
                self.speaking.pop(body["speech_id"], None)
                if body["generated"]:
                    said = {name: body[name] for name in ("speech_id", "asked", "generated", "heard_text")}
                    self.history.append({"role": "agent", **said})
            case "tool.requested":
                call_id = body["call_id"]
                self.calls[call_id] = OpenCallSnapshot(
                    call_id=call_id, target=body["target"], args=body.get("arguments", {})
                )
            case "usage":
                self.used.add(body["kind"], body["usage"], body["cost"])
            case "tool.answered" | "tool.cancelled":
                self.answered.add(body["call_id"])
            case "tool.refused":
                self.refused.add(body["call_id"])


async def read_snapshot(store: Store, row: SessionRow, *, now: float) -> Snapshot:
    """Read the snapshot from which a machine resumes a session.

    Args:
        store: The store.
        row: The session.
        now: Seconds since the epoch.
    """
    log = _LogState()
    async for kind, body in _events(store, row.run_id):
        log.add(kind, body)
    open_turns = [
        await _full_execution(store, x) for x in await store.open_executions(session_id=row.id) if x.kind == "turn"
    ]
    return Snapshot(
        handler_epoch=row.handler_epoch,
        turns=row.turns,
        tool_calls=len(log.calls),
        live_for=max(0.0, now - row.live_at) if row.live_at is not None else 0.0,
        open_turns=tuple(_open_turn(execution, log) for execution in open_turns),
        open_calls=tuple(call for call_id, call in log.calls.items() if call_id not in log.answered),
        call_ids=(*log.calls, *log.refused),
        history=tuple(log.history[-_HISTORY:]),
        history_count=len(log.history),
        open_speeches=tuple(log.speaking.items()),
        used=log.used,
    )


async def end_unrecoverable(store: Store, row: SessionRow, error: AgentFieldError) -> None:
    """End a session that cannot be resumed: its adapter, a capability of it, or its key is missing.

    Args:
        store: The store.
        row: The session; this process owns it.
        error: Why it cannot be resumed.
    """
    detail = f"the control plane was restarted and cannot resume the session: {error.message}"
    body = {"state": "ended", "reason": "control_plane_restart", "detail": detail}
    for execution in await store.open_executions(session_id=row.id):
        if execution.kind in ("session", "turn"):
            problem = error.to_problem()
            await store.complete_execution(execution.id, attempt=None, status="cancelled", problem=problem)
    await store.update_session(
        row.id,
        epoch=row.epoch,
        state="ended",
        end_reason="control_plane_restart",
        end_detail=detail,
        events=(NewEvent(type="session.state", body=body),),
    )


async def _events(store: Store, run_id: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    after = 0
    while rows := await store.read_events(run_id, after=after, limit=_PAGE):
        for row in rows:
            yield row.type, load_canonical(row.canonical)["body"]
            after = row.seq


async def _full_execution(store: Store, execution: Execution) -> Execution:
    return (await store.get_execution(execution.id) if execution.left_out else None) or execution


def _open_turn(execution: Execution, log: _LogState) -> OpenTurnSnapshot:
    known = execution.input if isinstance(execution.input, dict) else {}
    committed = log.turns.get(execution.id, known)
    text = committed.get("text")
    missing = committed.get("text_missing") or (None if text is not None else "control_plane_restart")
    return OpenTurnSnapshot(
        turn_id=execution.id,
        item=str(known.get("item", execution.id)),
        number=int(known.get("number", 0)),
        text=text,
        text_missing=missing,
    )
