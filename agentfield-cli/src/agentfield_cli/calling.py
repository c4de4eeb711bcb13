"""A whole call from the terminal, over any transport: recordings are spoken one after the other, and all that came of them is returned."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from agentfield.errors import AgentFieldError, ProviderError, Unavailable
from agentfield.plugins.install import install_hint
from agentfield_cli.dialling import dial, over
from agentfield_cli.live import Follower
from agentfield_cli.output import Output

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient
    from agentfield.wire.rest import DagView, StartResponse
    from agentfield_cli.audio import Samples
    from agentfield_cli.hearing import Call

__all__ = ["CallReport", "call_failures", "make_call", "require_caller", "turn_rows"]

_LIVE = 20.0
_ANSWER = 60.0
_END = 15.0
_QUIET = 0.8
_FAILED_ENDS = frozenset(
    {
        "handler_failed",
        "ice_failed",
        "mismatch",
        "never_connected",
        "node_lost",
        "provider_error",
        "provider_expired",
        "control_plane_restart",
    }
)
"""Ends of a session that are nobody's wish."""


@dataclass(slots=True)
class CallReport:
    """What came of a call."""

    session_id: str
    provider: str
    transport: str
    end_reason: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    usage: Mapping[str, Any] | None = None
    """What the session used in all, by kind."""
    cost: float | None = None
    """US dollars, where it is known."""
    executions: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    heard: Samples | None = None
    """What the caller recorded, 48 kHz mono."""
    dag: DagView | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the report without the audio."""
        names = ("session_id", "provider", "transport", "end_reason", "turns", "usage", "cost", "executions", "timings")
        return {name: getattr(self, name) for name in names}


def require_caller(*modules: str) -> None:
    """Check that the terminal caller's libraries are there.

    Args:
        modules: What is needed beyond reading and writing recordings.

    Raises:
        Unavailable: The extra `call` is not installed (code `caller_not_installed`).
    """
    import importlib.util

    missing = [name for name in (*modules, "av", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"Calls from the terminal need {', '.join(missing)}, which is not installed.",
            code="caller_not_installed",
            hint=install_hint("agentfield-cli", "call"),
        )


async def make_call(
    client: ControlPlaneClient,
    started: StartResponse,
    recordings: Sequence[Samples],
    out: Output,
    *,
    loopback: bool,
    texts: Sequence[str] = (),
    rate: int = 24_000,
) -> CallReport:
    """Call a session that waits for its caller, speak, type, listen, hang up.

    Args:
        client: Of the control plane that has the session.
        started: The session.
        recordings: What to say, 48 kHz mono; each waits for the answer to the one before.
        out: Where the live transcript goes.
        loopback: Whether 127.0.0.1 is offered for the media.
        texts: What to type after that, one turn each.
        rate: Samples per second that recordings are sent at, where that is not the transport's own choice.

    Raises:
        SessionEnded: The session was over before the call could be made, or failed before it had a turn.
        ProviderUnavailable: The media did not connect, or the session did not get live.
        Unavailable: The caller's libraries for this transport are not installed (code `caller_not_installed`).
    """
    follower = Follower(out)
    report = CallReport(started.session_id, started.provider, started.transport)
    conversation = _Conversation(client, started, follower, report)
    try:
        async with dial(client, started, follower, out, loopback=loopback, rate=rate) as (call, following):
            # a session of recorded turns gets live with the first; before words are typed, the answer must be listened to
            if started.turns_url is None or not recordings:
                await _live(follower, following, started.session_id)
            for samples in recordings:
                await conversation.turn(call, partial(call.speak, samples))
            for text in texts:
                await conversation.turn(call, partial(conversation.type, text))
            if follower.state == "ended" and not follower.turns and follower.reason in _FAILED_ENDS:
                await over(follower, started.session_id)
            await _hang_up(client, started)
            await _ended(follower)
            report.heard = call.recording
    except BaseException as error:
        lost = isinstance(error, AgentFieldError) and error.code == "ice_failed"
        await _hang_up(client, started, "ice_failed" if lost else "caller_hangup")
        raise
    await _complete(report, follower, client)
    return report


async def _hang_up(client: ControlPlaneClient, started: StartResponse, reason: str = "caller_hangup") -> None:
    with contextlib.suppress(AgentFieldError, TimeoutError):  # it may be over already
        async with asyncio.timeout(_END):
            await client.end_session(started.session_id, reason=reason)


async def _complete(report: CallReport, follower: Follower, client: ControlPlaneClient) -> None:
    report.end_reason = follower.reason
    report.turns = turn_rows(follower)
    report.usage, report.cost = follower.usage, follower.cost
    report.dag = await client.workflow(report.session_id)
    report.executions = [
        {"id": e.id, "kind": e.kind, "target": e.target, "parent": e.parent_id, "status": e.status}
        | ({"problem": e.problem} if e.problem else {})
        for e in report.dag.executions
    ]


async def _live(follower: Follower, following: asyncio.Task[None], session_id: str) -> None:
    waiting = asyncio.create_task(follower.until("live"))
    try:
        await asyncio.wait({waiting, following}, timeout=_LIVE, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            if following.done():
                following.result()
            raise ProviderError(
                f"The session did not get live within {_LIVE:g} s; it is {follower.state}.",
                code="not_live",
                hint=f"af session show {session_id}",
            )
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    if follower.state == "ended":
        await over(follower, session_id)


@dataclass(slots=True)
class _Conversation:
    """The turns of a call, one after the other."""

    client: ControlPlaneClient
    started: StartResponse
    follower: Follower
    report: CallReport

    async def type(self, text: str) -> float:
        """Say something in writing and return when."""
        await self.client.send_input(self.started.session_id, text, self.started.token)
        return time.monotonic()

    async def turn(self, call: Call, say: Callable[[], Awaitable[float]]) -> None:
        """Say one thing and wait for what comes of it."""
        follower, first = self.follower, not self.report.timings
        turns, known = len(follower.turns) + follower.discarded, set(follower.work)
        end = await follower.unless_ended(say())  # nobody takes the audio of a call that is over
        if end is None:
            end = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER):
                while True:
                    await follower.idle(turns=turns + 1)
                    await call.quiet(_QUIET)
                    if follower.state == "ended" or not follower.busy:
                        break
        heard = call.heard_at(end)
        called = [w for name, w in follower.work.items() if name not in known and w.kind in ("tool", "call")]
        dispatch = next((w.started_at - w.created_at for w in called if w.started_at is not None), None)
        self.report.timings.append(
            {
                "offer_to_answer_ms": _ms(call.offer_to_answer if first else None),
                "end_of_speech_to_first_audio_ms": _ms(heard - end if heard is not None else None),
                "tool_dispatch_ms": _ms(dispatch),
            }
        )


async def _ended(follower: Follower) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END):
            await follower.until("ended")


def call_failures(report: CallReport) -> list[str]:
    """Return what went wrong in a call that was made: turns whose handler failed, and an end that nobody wanted."""
    found = []
    for execution in report.executions:
        if execution["kind"] == "turn" and execution["status"] in ("failed", "timeout"):
            problem = execution.get("problem") or {}
            why = problem.get("detail") or problem.get("code") or execution["status"]
            found.append(f"a turn of {execution['target']} {execution['status']}: {why}")
    if report.end_reason in _FAILED_ENDS:
        found.append(f"the session ended with {report.end_reason}")
    return found


def turn_rows(follower: Follower) -> list[dict[str, Any]]:
    """Return the turns of a call with what was asked, generated and heard of the answers."""
    rows = []
    for turn in follower.turns:
        mine = [speech for speech in follower.speeches.values() if speech.turn_id == turn.id]
        rows.append(
            {
                "caller": turn.text,
                "asked": " ".join(s.asked for s in mine if s.asked) or None,
                "generated": " ".join(s.generated for s in mine if s.generated) or None,
                "heard_ms": sum(s.heard_ms for s in mine if s.heard_ms is not None),
            }
        )
    return rows


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
