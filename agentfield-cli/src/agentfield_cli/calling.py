"""A whole call from the terminal: recordings are spoken one after the other, and all that came of them is returned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Never

from agentfield.errors import AgentFieldError, ProviderError, SessionEnded, Unavailable
from agentfield.plugins.install import install_hint
from agentfield_cli.live import Follower
from agentfield_cli.output import Output

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient
    from agentfield.wire.rest import DagView, StartResponse
    from agentfield_cli.audio import Samples
    from agentfield_cli.caller import Call

__all__ = ["CallReport", "make_call", "require_caller", "turn_rows"]

_LIVE = 20.0
_ANSWER = 60.0
_END = 15.0
_QUIET = 0.8


@dataclass(slots=True)
class CallReport:
    """What came of a call."""

    session_id: str
    provider: str
    transport: str
    end_reason: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)
    executions: list[dict[str, Any]] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    heard: Samples | None = None
    """What the caller recorded, 48 kHz mono."""
    dag: DagView | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the report without the audio."""
        names = ("session_id", "provider", "transport", "end_reason", "turns", "executions", "timings")
        return {name: getattr(self, name) for name in names}


def require_caller() -> None:
    """Check that the terminal caller's libraries are there.

    Raises:
        Unavailable: The extra `call` is not installed (code `caller_not_installed`).
    """
    import importlib.util

    missing = [name for name in ("aiortc", "av", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"Calls from the terminal need {', '.join(missing)}, which is not installed.",
            code="caller_not_installed",
            hint=install_hint("agentfield-cli", "call"),
        )


async def make_call(
    client: ControlPlaneClient, started: StartResponse, recordings: Sequence[Samples], out: Output, *, loopback: bool
) -> CallReport:
    """Call a session that waits for its caller, speak, listen, hang up.

    Args:
        client: Of the control plane that has the session.
        started: The session.
        recordings: What to say, 48 kHz mono; each waits for the answer to the one before.
        out: Where the live transcript goes.
        loopback: Whether 127.0.0.1 is offered for the media.

    Raises:
        SessionEnded: The session was over before the call could be made.
        ProviderUnavailable: The media did not connect, or the session did not get live.
    """
    from agentfield_cli.caller import place_call

    follower = Follower(out)
    report = CallReport(started.session_id, started.provider, started.transport)
    events = client.session_events(started.session_id, token=started.token)
    following = asyncio.create_task(follower.follow(events))
    try:
        async with place_call(
            lambda sdp: client.offer(started.session_id, sdp, started.token),
            loopback=loopback,
            over=lambda: _over(follower, started.session_id),
        ) as call:
            await _live(follower, following, started.session_id)
            for number, samples in enumerate(recordings):
                await _turn(call, samples, follower, report, first=number == 0)
            with contextlib.suppress(AgentFieldError):  # it may be over already
                await client.end_session(started.session_id, reason="caller_hangup")
            await _ended(follower)
            report.heard = call.recording
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    report.end_reason = follower.reason
    report.turns = turn_rows(follower)
    report.dag = await client.workflow(started.session_id)
    report.executions = [
        {"id": e.id, "kind": e.kind, "target": e.target, "parent": e.parent_id, "status": e.status}
        | ({"problem": e.problem} if e.problem else {})
        for e in report.dag.executions
    ]
    return report


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
        await _over(follower, session_id)


async def _over(follower: Follower, session_id: str) -> Never:
    """Wait until the session has ended and raise why."""
    await follower.until("ended")
    raise SessionEnded(
        f"The session ended before a word was said: {follower.reason}"
        f"{f' ({follower.detail})' if follower.detail else ''}.",
        hint=f"af session workflows {session_id}",
        reason=follower.reason,
    )


async def _turn(call: Call, samples: Samples, follower: Follower, report: CallReport, *, first: bool) -> None:
    """Speak one recording and wait for what comes of it."""
    turns, known = len(follower.turns) + follower.discarded, set(follower.work)
    end = await call.speak(samples)
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
    report.timings.append(
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
