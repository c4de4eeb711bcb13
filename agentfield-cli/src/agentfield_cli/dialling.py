"""Places a call over whatever transport a session has, and follows the session meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Never

from agentfield.errors import SessionEnded

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient
    from agentfield.wire.rest import StartResponse
    from agentfield_cli.hearing import Call
    from agentfield_cli.live import Follower
    from agentfield_cli.output import Output

__all__ = ["dial", "over"]


async def over(follower: Follower, session_id: str) -> Never:
    """Wait until the session has ended and raise why.

    Raises:
        SessionEnded: Always.
    """
    await follower.until("ended")
    raise SessionEnded(
        f"The session ended before a word was said: {follower.reason}"
        f"{f' ({follower.detail})' if follower.detail else ''}.",
        hint=f"af session workflows {session_id}",
        reason=follower.reason,
    )


@asynccontextmanager
async def dial(
    client: ControlPlaneClient,
    started: StartResponse,
    follower: Follower,
    out: Output,
    *,
    loopback: bool,
    rate: int,
) -> AsyncIterator[tuple[Call, asyncio.Task[None]]]:
    """Call a session over its transport; yields the call and the task that follows the session.

    Args:
        client: Of the control plane that has the session.
        started: The session.
        follower: Takes the session's events.
        out: Where refusals in the middle of the call are shown.
        loopback: Whether 127.0.0.1 is offered for media of WebRTC.
        rate: Samples per second that recordings are sent at on the other transports.

    Raises:
        AgentFieldError: The call could not be made.
    """
    if started.turns_url is not None:
        placing = _turns(client, started, follower, rate)
    elif started.media_url is not None:
        placing = _websocket(client, started, follower, out, rate)
    else:
        placing = _webrtc(client, started, follower, loopback=loopback)
    async with placing as each:
        yield each


@asynccontextmanager
async def _following(follower: Follower, events: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(follower.follow(events))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _webrtc(
    client: ControlPlaneClient, started: StartResponse, follower: Follower, *, loopback: bool
) -> AsyncIterator[tuple[Call, asyncio.Task[None]]]:
    from agentfield_cli.calling import require_caller

    require_caller("aiortc")
    from agentfield_cli.caller import place_call

    session_id, token = started.session_id, started.token
    async with (
        _following(follower, client.session_events(session_id, token=token)) as following,
        place_call(
            lambda sdp: client.offer(session_id, sdp, token),
            loopback=loopback,
            over=lambda: over(follower, session_id),
        ) as call,
    ):
        yield call, following


@asynccontextmanager
async def _websocket(
    client: ControlPlaneClient, started: StartResponse, follower: Follower, out: Output, rate: int
) -> AsyncIterator[tuple[Call, asyncio.Task[None]]]:
    from agentfield_cli.caller_websocket import place_media_call

    session_id, token = started.session_id, started.token
    config = (await client.get_session(session_id)).config
    async with (
        _following(follower, client.session_events(session_id, token=token)) as following,
        place_media_call(
            partial(client.media, session_id, token, rate=rate),
            rate=rate,
            manual="turn_detection" in config and config["turn_detection"] is None,
            tell=lambda text: out.line(f"  refused {text}", style="yellow"),
        ) as call,
    ):
        yield call, following


@asynccontextmanager
async def _turns(
    client: ControlPlaneClient, started: StartResponse, follower: Follower, rate: int
) -> AsyncIterator[tuple[Call, asyncio.Task[None]]]:
    from agentfield_cli.caller_turns import TurnsCall, place_turns_call

    session_id, token = started.session_id, started.token

    async def heard(call: TurnsCall) -> AsyncIterator[Mapping[str, Any]]:
        async for event in client.session_events(session_id, token=token, audio=True):
            call.take(event, "session")
            yield event

    def post(recording: bytes, media_type: str, key: str) -> AsyncIterator[Mapping[str, Any]]:
        return client.turn(session_id, recording, media_type, token=token, idempotency_key=key)

    async with (
        place_turns_call(post, rate=rate) as call,
        _following(follower, heard(call)) as following,
    ):
        yield call, following
