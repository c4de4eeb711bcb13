"""Follows a session while it happens: prints it line by line and knows whether something is still going on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentfield_cli.output import Output
from agentfield_cli.tree import happened

__all__ = ["Follower", "Speech", "Turn"]

T = TypeVar("T")

_OVER = {"succeeded", "failed", "cancelled", "timeout"}


@dataclass(slots=True)
class Speech:
    """One utterance of the agent, as recorded."""

    turn_id: str | None = None
    asked: str | None = None
    generated: str | None = None
    heard_ms: int | None = None
    over: bool = False


@dataclass(slots=True)
class Turn:
    """One turn of the caller."""

    id: str
    text: str | None
    text_missing: str | None = None


@dataclass(slots=True)
class Work:
    """One execution."""

    kind: str
    target: str
    created_at: float
    status: str
    started_at: float | None = None


@dataclass(slots=True)
class Follower:
    """What is known of a session from its events.

    Args:
        out: Where its lines go.
    """

    out: Output
    state: str = "created"
    reason: str | None = None
    detail: str | None = None
    turns: list[Turn] = field(default_factory=list)
    discarded: int = 0
    speeches: dict[str, Speech] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    """Items of the caller that were begun and not yet taken or discarded."""
    settled: set[str] = field(default_factory=set)
    usage: Mapping[str, Any] | None = None
    """What the session used in all, by kind, once it ended."""
    cost: float | None = None
    """US dollars, where everything or some of it had a price."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, events: AsyncIterator[Mapping[str, Any]]) -> None:
        """Take events until there are no more."""
        async for event in events:
            self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event, recorded or live; live ones only wake those who wait."""
        body = event.get("body")
        if "seq" in event and isinstance(body, Mapping):
            self._recorded(str(event["type"]), body, event)
        elif event.get("type") == "turn.started":
            self.begun.add(str(event.get("item")))
        self._news.set()

    async def until(self, *states: str) -> str:
        """Wait until the session is in one of these states, or over, and return the state."""
        while self.state not in (*states, "ended"):
            await self._next()
        return self.state

    async def idle(self, *, turns: int) -> None:
        """Wait until so many turns were taken (or discarded) and nothing of them goes on, or the session is over."""
        while self.state != "ended" and (len(self.turns) + self.discarded < turns or self.busy):
            await self._next()

    async def unless_ended(self, action: Awaitable[T]) -> T | None:
        """Wait for something that only a session under way lets happen; returns what came of it, None where the session was over first."""
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
        """Whether the caller is still being understood, or the agent speaks or works."""
        working = any(work.status not in _OVER for work in self.work.values() if work.kind != "session")
        speaking = any(not speech.over for speech in self.speeches.values())
        return working or speaking or not self.begun <= self.settled

    async def _next(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _recorded(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        match kind:
            case "session.state":
                self._state(body)
            case "turn.committed":
                self._turn(body)
            case "turn.discarded":
                self.discarded += 1
                self.settled.add(str(body.get("item")))
                self.out.line(f"  (a turn was discarded: {body.get('why')})", style="dim")
            case "speech.started" | "speech.ended":
                self._speech(kind, body)
            case "execution.created" | "execution.started" | "execution.ended":
                self._execution(kind, body, event)
            case "execution.retrying" | "approval.requested" | "approval.decided":
                self._on_the_way(kind, body, event)
            case "backchannel":
                self.out.line("  (the caller listens along: the agent goes on)", style="dim")
            case "dtmf":
                self.out.line(f"  caller  presses {body.get('digit')}", style="bold cyan")
            case "session.usage":
                self._used(body)
            case "tool.refused":
                self.out.line(f"  tool    {body.get('name')} refused: {body.get('why')}", style="red")
            case "handler.failed" | "warning":
                self.out.line(f"  {kind.partition('.')[0]} {body.get('message')}", style="yellow")

    def _state(self, body: Mapping[str, Any]) -> None:
        self.state = str(body.get("state"))
        self.reason, self.detail = body.get("reason"), body.get("detail")
        because = f" ({self.reason})" if self.reason else ""
        self.out.line(f"  session {self.state}{because}", style="dim")

    def _used(self, body: Mapping[str, Any]) -> None:
        self.usage, self.cost = body.get("usage"), body.get("cost")
        if self.cost is not None:
            more = ", and more that has no price" if body.get("unpriced") else ""
            self.out.line(f"  cost    {self.cost:.4f} US dollars{more}", style="dim")

    def _turn(self, body: Mapping[str, Any]) -> None:
        turn = Turn(str(body.get("turn_id")), body.get("text"), body.get("text_missing"))
        self.turns.append(turn)
        self.settled.add(str(body.get("item")))
        self.out.line(f"  caller  {turn.text or f'(no words: {turn.text_missing})'}", style="bold cyan")

    def _speech(self, kind: str, body: Mapping[str, Any]) -> None:
        speech = self.speeches.setdefault(str(body.get("speech_id")), Speech())
        if kind == "speech.started":
            speech.turn_id, speech.asked = body.get("turn_id"), body.get("asked")
            return
        speech.over = True
        speech.asked = body.get("asked") or speech.asked
        speech.generated, speech.heard_ms = body.get("generated"), body.get("heard_ms")
        how = next((word for word in ("interrupted", "stale", "failed") if body.get(word)), None)
        self.out.line(
            f"  agent   {speech.generated or speech.asked or ''}{f' ({how})' if how else ''}", style="bold green"
        )

    def _on_the_way(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        work = self.work.get(str(event.get("execution_id")))
        if work is None:
            return
        self.out.line(f"  waits   {work.target} {happened(kind, body)}", style="yellow")
        if kind == "approval.requested":
            self.out.line(f"  hint    af approvals show {body.get('approval_id')}", style="dim")

    def _execution(self, kind: str, body: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        name, at = str(event.get("execution_id")), float(event["at"])
        if kind == "execution.created":
            self.work[name] = Work(str(body.get("kind")), str(body.get("target")), at, str(body.get("status")))
            if body.get("kind") in ("tool", "call"):
                self.out.line(f"  calls   {body.get('target')}", style="magenta")
            return
        work = self.work.get(name)
        if work is None:
            return
        if kind == "execution.started":
            work.started_at = float(body.get("entered_at", at))
            return
        work.status = str(body.get("status"))
        if work.kind in ("tool", "call"):
            took = f" in {(at - (work.started_at or work.created_at)) * 1000:.0f} ms"
            self.out.line(f"  done    {work.target} {work.status}{took}", style="magenta")
        problem = body.get("problem")
        if problem:
            self.out.line(f"  failed  {work.target}: {problem.get('detail', problem)}", style="red")
            if problem.get("hint"):
                self.out.line(f"  hint    {problem['hint']}", style="dim")
