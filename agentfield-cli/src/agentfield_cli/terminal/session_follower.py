"""Follows the events of a session: prints them line by line, and tells when the session is idle or has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentfield_cli.terminal.output import Output
from agentfield_cli.terminal.tree import describe_event

__all__ = ["AgentSpeech", "CallerTurn", "SessionFollower"]

T = TypeVar("T")

_FINAL_STATUSES = {"succeeded", "failed", "cancelled", "timeout"}


@dataclass(slots=True)
class AgentSpeech:
    """One speech of the agent, as recorded."""

    turn_id: str | None = None
    asked: str | None = None
    generated: str | None = None
    heard_ms: int | None = None
    ended: bool = False


@dataclass(slots=True)
class CallerTurn:
    """One committed turn of the caller."""

    id: str
    text: str | None
    text_missing: str | None = None


@dataclass(slots=True)
class Execution:
    """One execution of the session's run."""

    kind: str
    target: str
    created_at: float
    status: str
    started_at: float | None = None


@dataclass(slots=True)
class SessionFollower:
    """The state of a session, built from its events.

    `take` updates the state and wakes the waiting methods (`until`, `idle`, `unless_ended`).

    Args:
        out: Prints a line per event.
    """

    out: Output
    state: str = "created"
    reason: str | None = None
    detail: str | None = None
    turns: list[CallerTurn] = field(default_factory=list)
    discarded: int = 0
    speeches: dict[str, AgentSpeech] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)
    started_items: set[str] = field(default_factory=set)
    """Items for which the caller's speech has started (`turn.started`)."""
    finished_items: set[str] = field(default_factory=set)
    """Items that became a turn or were discarded; an item of `started_items` that is missing here is still open."""
    usage: Mapping[str, Any] | None = None
    """Total usage of the session by kind, set when the session ends."""
    cost: float | None = None
    """Total cost in US dollars, None if nothing had a price."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, events: AsyncIterator[Mapping[str, Any]]) -> None:
        """Take all events of a stream."""
        async for event in events:
            self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event. Recorded events (with `seq`) change the state; a live `turn.started` opens an item."""
        body = event.get("body")
        if "seq" in event and isinstance(body, Mapping):
            self._apply(str(event["type"]), body, event)
        elif event.get("type") == "turn.started":
            self.started_items.add(str(event.get("item")))
        self._changed.set()

    async def until(self, *states: str) -> str:
        """Wait until the session is in one of these states or has ended; return the state."""
        while self.state not in (*states, "ended"):
            await self._wait_for_change()
        return self.state

    async def idle(self, *, turns: int) -> None:
        """Wait until `turns` turns were committed or discarded and nothing is in progress, or the session has ended."""
        while self.state != "ended" and (len(self.turns) + self.discarded < turns or self.busy):
            await self._wait_for_change()

    async def unless_ended(self, action: Awaitable[T]) -> T | None:
        """Wait for an action that needs a running session; return its result, or None if the session ended first."""
        acting, ended = asyncio.ensure_future(action), asyncio.create_task(self.until("ended"))
        try:
            await asyncio.wait({acting, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            done = acting.done()
            for task in (acting, ended):
                task.cancel()
            await asyncio.gather(acting, ended, return_exceptions=True)
        return acting.result() if done else None

    @property
    def busy(self) -> bool:
        """Whether a turn of the caller is open, a speech has not ended, or an execution is running."""
        working = any(
            execution.status not in _FINAL_STATUSES
            for execution in self.executions.values()
            if execution.kind != "session"
        )
        speaking = any(not speech.ended for speech in self.speeches.values())
        return working or speaking or not self.started_items <= self.finished_items

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _apply(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        match kind:
            case "session.state":
                self._state(body)
            case "turn.committed":
                self._turn(body)
            case "turn.discarded":
                self.discarded += 1
                self.finished_items.add(str(body.get("item")))
                self.out.line(f"  (a turn was discarded: {body.get('why')})", style="dim")
            case "turn.transcript" if body.get("late"):
                self.out.line(f"  caller  {body.get('text')} (transcribed late)", style="bold cyan")
            case "speech.started" | "speech.ended":
                self._speech(kind, body)
            case "execution.created" | "execution.started" | "execution.ended":
                self._execution(kind, body, event)
            case "execution.retrying" | "execution.returned" | "approval.requested" | "approval.decided":
                self._progress(kind, body, event)
            case "backchannel":
                self.out.line("  (backchannel: the agent continues)", style="dim")
            case "dtmf":
                self.out.line(f"  caller  presses {body.get('digit')}", style="bold cyan")
            case "session.usage":
                self._usage(body)
            case "tool.refused":
                self.out.line(f"  tool    {body.get('name')} refused: {body.get('why')}", style="red")
            case "handler.failed" | "warning":
                self.out.line(f"  {kind.partition('.')[0]} {body.get('message')}", style="yellow")

    def _state(self, body: Mapping[str, Any]) -> None:
        self.state = str(body.get("state"))
        self.reason, self.detail = body.get("reason"), body.get("detail")
        because = f" ({self.reason})" if self.reason else ""
        self.out.line(f"  session {self.state}{because}", style="dim")

    def _usage(self, body: Mapping[str, Any]) -> None:
        self.usage, self.cost = body.get("usage"), body.get("cost")
        if self.cost is not None:
            more = ", plus usage without a price" if body.get("unpriced") else ""
            self.out.line(f"  cost    {self.cost:.4f} US dollars{more}", style="dim")

    def _turn(self, body: Mapping[str, Any]) -> None:
        turn = CallerTurn(str(body.get("turn_id")), body.get("text"), body.get("text_missing"))
        self.turns.append(turn)
        self.finished_items.add(str(body.get("item")))
        self.out.line(f"  caller  {turn.text or f'(no transcript: {turn.text_missing})'}", style="bold cyan")

    def _speech(self, kind: str, body: Mapping[str, Any]) -> None:
        speech = self.speeches.setdefault(str(body.get("speech_id")), AgentSpeech())
        if kind == "speech.started":
            speech.turn_id, speech.asked = body.get("turn_id"), body.get("asked")
            return
        speech.ended = True
        speech.asked = body.get("asked") or speech.asked
        speech.generated, speech.heard_ms = body.get("generated"), body.get("heard_ms")
        how = next((word for word in ("interrupted", "stale", "failed") if body.get(word)), None)
        if how is None and body.get("verbatim") is False:
            how = "other words than asked for"
        nothing = "(called a tool)" if body.get("tool_calls") else "(nothing was generated)"
        words = speech.generated or speech.asked or nothing
        self.out.line(f"  agent   {words}{f' ({how})' if how else ''}", style="bold green")

    def _progress(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        execution = self.executions.get(str(event.get("execution_id")))
        if execution is None:
            return
        self.out.line(f"  waits   {execution.target} {describe_event(kind, body)}", style="yellow")
        if kind == "approval.requested":
            self.out.line(f"  hint    af approvals show {body.get('approval_id')}", style="dim")

    def _execution(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        name, at = str(event.get("execution_id")), float(event["at"])
        if kind == "execution.created":
            self.executions[name] = Execution(
                str(body.get("kind")), str(body.get("target")), at, str(body.get("status"))
            )
            if body.get("kind") in ("tool", "call"):
                self.out.line(f"  calls   {body.get('target')}", style="magenta")
            return
        execution = self.executions.get(name)
        if execution is None:
            return
        if kind == "execution.started":
            execution.started_at = float(body.get("entered_at", at))
            return
        execution.status = str(body.get("status"))
        if execution.kind in ("tool", "call"):
            took = f" in {(at - (execution.started_at or execution.created_at)) * 1000:.0f} ms"
            self.out.line(f"  done    {execution.target} {execution.status}{took}", style="magenta")
        problem = body.get("problem")
        if problem:
            self.out.line(f"  failed  {execution.target}: {problem.get('detail', problem)}", style="red")
            if problem.get("hint"):
                self.out.line(f"  hint    {problem['hint']}", style="dim")
