"""A complete call from the terminal over any transport: speaks recordings one after the other and returns a report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from agentfield.errors import AgentFieldError, ProviderError
from agentfield_cli.call.place_call import place_call, raise_session_ended
from agentfield_cli.terminal.output import Output
from agentfield_cli.terminal.session_follower import SessionFollower

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient
    from agentfield.wire.rest import DagView, StartResponse
    from agentfield_cli.call.audio_io import TerminalCall
    from agentfield_cli.call.recordings import Samples

__all__ = ["CallReport", "call_failures", "make_call", "turn_rows"]

_LIVE_TIMEOUT = 20.0
_ANSWER_TIMEOUT = 60.0
_END_TIMEOUT = 15.0
_QUIET = 0.8
"""Seconds of silence after which an answer counts as complete."""
_FAILURE_REASONS = frozenset(
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
"""End reasons of a session that count as a failure of the call."""


@dataclass(slots=True)
class CallReport:
    """Result of a call."""

    session_id: str
    provider: str
    transport: str
    end_reason: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    usage: Mapping[str, Any] | None = None
    """Total usage of the session by kind."""
    cost: float | None = None
    """Total cost in US dollars, None if unknown."""
    executions: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    heard: Samples | None = None
    """Audio that the caller heard, 48 kHz mono."""
    dag: DagView | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the report without the audio."""
        names = ("session_id", "provider", "transport", "end_reason", "turns", "usage", "cost", "executions", "timings")
        return {name: getattr(self, name) for name in names}


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
    """Call a started session: speak, type, listen, hang up.

    Args:
        client: Client of the control plane that runs the session.
        started: The session.
        recordings: Recordings to speak, 48 kHz mono; each waits for the answer to the previous one.
        out: Prints the live transcript.
        loopback: Whether to offer 127.0.0.1 for the media.
        texts: Texts to type after the recordings, one turn each.
        rate: Samples per second of the sent recordings, on transports other than WebRTC.

    Raises:
        SessionEnded: The session ended before the call was placed, or failed before its first turn.
        ProviderUnavailable: The media did not connect.
        ProviderError: The session did not become live (code `not_live`).
        Unavailable: The caller's libraries for this transport are not installed (code `caller_not_installed`).
    """
    follower = SessionFollower(out)
    report = CallReport(started.session_id, started.provider, started.transport)
    conversation = _Conversation(client, started, follower, report)
    try:
        async with place_call(client, started, follower, out, loopback=loopback, rate=rate) as (call, following):
            # a session of recorded turns becomes live with its first recording, so only a call that merely types may wait
            if started.turns_url is None or not recordings:
                await _wait_until_live(follower, following, started.session_id)
            for samples in recordings:
                await conversation.turn(call, partial(call.speak, samples))
            for text in texts:
                await conversation.turn(call, partial(conversation.type, text))
            if follower.state == "ended" and not follower.turns and follower.reason in _FAILURE_REASONS:
                await raise_session_ended(follower, started.session_id)
            await _hang_up(client, started)
            await _wait_until_ended(follower)
            report.heard = call.recording
    except BaseException as error:
        lost = isinstance(error, AgentFieldError) and error.code == "ice_failed"
        await _hang_up(client, started, "ice_failed" if lost else "caller_hangup")
        raise
    await _fill_report(report, follower, client)
    return report


async def _hang_up(client: ControlPlaneClient, started: StartResponse, reason: str = "caller_hangup") -> None:
    with contextlib.suppress(AgentFieldError, TimeoutError):  # the session may have ended already
        async with asyncio.timeout(_END_TIMEOUT):
            await client.end_session(started.session_id, reason=reason)


async def _fill_report(report: CallReport, follower: SessionFollower, client: ControlPlaneClient) -> None:
    report.end_reason = follower.reason
    report.turns = turn_rows(follower)
    report.usage, report.cost = follower.usage, follower.cost
    report.dag = await client.workflow(report.session_id)
    report.executions = [
        {"id": e.id, "kind": e.kind, "target": e.target, "parent": e.parent_id, "status": e.status}
        | ({"problem": e.problem} if e.problem else {})
        for e in report.dag.executions
    ]


async def _wait_until_live(follower: SessionFollower, following: asyncio.Task[None], session_id: str) -> None:
    waiting = asyncio.create_task(follower.until("live"))
    try:
        await asyncio.wait({waiting, following}, timeout=_LIVE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            if following.done():
                following.result()
            raise ProviderError(
                f"The session did not become live within {_LIVE_TIMEOUT:g} s; it is {follower.state}.",
                code="not_live",
                hint=f"af session show {session_id}",
            )
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    if follower.state == "ended":
        await raise_session_ended(follower, session_id)


@dataclass(slots=True)
class _Conversation:
    """Runs the turns of a call one after the other and adds their timings to the report."""

    client: ControlPlaneClient
    started: StartResponse
    follower: SessionFollower
    report: CallReport

    async def type(self, text: str) -> float:
        """Type `text` and return the time at which it was sent."""
        await self.client.send_input(self.started.session_id, text, self.started.token)
        return time.monotonic()

    async def turn(self, call: TerminalCall, say: Callable[[], Awaitable[float]]) -> None:
        """Speak or type one turn and wait until its answer is complete.

        An answer is complete once the session is idle and the caller heard nothing for `_QUIET` seconds; a tool or a
        handler may start new work during that silence, so both are checked again.
        """
        follower, first = self.follower, not self.report.timings
        turns, known = len(follower.turns) + follower.discarded, set(follower.executions)
        end = await follower.unless_ended(say())  # after its end the session takes no audio
        if end is None:
            end = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                while True:
                    await follower.idle(turns=turns + 1)
                    await call.wait_for_quiet(_QUIET)
                    if follower.state == "ended" or not follower.busy:
                        break
        heard = call.first_heard_at(end)
        called = [e for name, e in follower.executions.items() if name not in known and e.kind in ("tool", "call")]
        dispatch = next((e.started_at - e.created_at for e in called if e.started_at is not None), None)
        self.report.timings.append(
            {
                "offer_to_answer_ms": _ms(call.offer_to_answer if first else None),
                "end_of_speech_to_first_audio_ms": _ms(heard - end if heard is not None else None),
                "tool_dispatch_ms": _ms(dispatch),
            }
        )


async def _wait_until_ended(follower: SessionFollower) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_TIMEOUT):
            await follower.until("ended")


def call_failures(report: CallReport) -> list[str]:
    """Return the failures of a completed call: turns whose handler failed, and an end reason that means failure."""
    found = []
    for execution in report.executions:
        if execution["kind"] == "turn" and execution["status"] in ("failed", "timeout"):
            problem = execution.get("problem") or {}
            why = problem.get("detail") or problem.get("code") or execution["status"]
            found.append(f"a turn of {execution['target']} {execution['status']}: {why}")
    if report.end_reason in _FAILURE_REASONS:
        found.append(f"the session ended with {report.end_reason}")
    return found


def turn_rows(follower: SessionFollower) -> list[dict[str, Any]]:
    """Return a row per turn: the caller's words, and the asked, generated and heard parts of the answers."""
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
