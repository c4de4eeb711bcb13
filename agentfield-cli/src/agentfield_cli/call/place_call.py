"""Places a call over the transport of a session, and follows the events of the session during the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Never

from agentfield.errors import SessionEnded, Unavailable
from agentfield.plugins.install import install_hint

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient
    from agentfield.wire.rest import StartResponse
    from agentfield_cli.call.audio_io import TerminalCall
    from agentfield_cli.terminal.output import Output
    from agentfield_cli.terminal.session_follower import SessionFollower

__all__ = ["place_call", "raise_session_ended", "require_call_libraries"]


def require_call_libraries(*modules: str) -> None:
    """Check that the libraries of the terminal caller are installed.

    Args:
        modules: Modules that are needed besides those that read and write recordings.

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


async def raise_session_ended(follower: SessionFollower, session_id: str) -> Never:
    """Wait until the session has ended, then raise with its end reason.

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
async def place_call(
    client: ControlPlaneClient,
    started: StartResponse,
    follower: SessionFollower,
    out: Output,
    *,
    loopback: bool,
    rate: int,
) -> AsyncIterator[tuple[TerminalCall, asyncio.Task[None]]]:
    """Call a session over its transport; yields the call and the task that follows the events.

    Args:
        client: Client of the control plane that runs the session.
        started: The session.
        follower: Receives the events of the session.
        out: Prints refusals during the call.
        loopback: Whether to offer 127.0.0.1 for WebRTC media.
        rate: Samples per second of the sent recordings, on transports other than WebRTC.

    Raises:
        AgentFieldError: The call could not be placed.
    """
    if started.turns_url is not None:
        placing = _recorded_turns(client, started, follower, rate)
    elif started.media_url is not None:
        placing = _websocket(client, started, follower, out, rate)
    else:
        placing = _webrtc(client, started, follower, loopback=loopback)
    async with placing as call_and_task:
        yield call_and_task


@asynccontextmanager
async def _following(
    follower: SessionFollower, events: AsyncIterator[Mapping[str, Any]]
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(follower.follow(events))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _webrtc(
    client: ControlPlaneClient, started: StartResponse, follower: SessionFollower, *, loopback: bool
) -> AsyncIterator[tuple[TerminalCall, asyncio.Task[None]]]:
    require_call_libraries("aiortc")
    from agentfield_cli.call.webrtc import place_webrtc_call

    session_id, token = started.session_id, started.token
    async with (
        _following(follower, client.session_events(session_id, token=token)) as following,
        place_webrtc_call(
            lambda sdp: client.offer(session_id, sdp, token),
            loopback=loopback,
            session_ended=lambda: raise_session_ended(follower, session_id),
        ) as call,
    ):
        yield call, following


@asynccontextmanager
async def _websocket(
    client: ControlPlaneClient, started: StartResponse, follower: SessionFollower, out: Output, rate: int
) -> AsyncIterator[tuple[TerminalCall, asyncio.Task[None]]]:
    from agentfield_cli.call.websocket import place_websocket_call

    session_id, token = started.session_id, started.token
    config = (await client.get_session(session_id)).config
    async with (
        _following(follower, client.session_events(session_id, token=token)) as following,
        place_websocket_call(
            partial(client.media, session_id, token, rate=rate),
            rate=rate,
            manual="turn_detection" in config and config["turn_detection"] is None,
            on_refusal=lambda text: out.line(f"  refused {text}", style="yellow"),
        ) as call,
    ):
        yield call, following


@asynccontextmanager
async def _recorded_turns(
    client: ControlPlaneClient, started: StartResponse, follower: SessionFollower, rate: int
) -> AsyncIterator[tuple[TerminalCall, asyncio.Task[None]]]:
    from agentfield_cli.call.recorded_turns import RecordedTurnsCall, place_recorded_turns_call

    session_id, token = started.session_id, started.token

    # the session's event stream carries the audio of replies that no posted turn caused
    async def events_with_audio(call: RecordedTurnsCall) -> AsyncIterator[Mapping[str, Any]]:
        async for event in client.session_events(session_id, token=token, audio=True):
            call.take(event, "session")
            yield event

    def post(recording: bytes, media_type: str, key: str) -> AsyncIterator[Mapping[str, Any]]:
        return client.turn(session_id, recording, media_type, token=token, idempotency_key=key)

    async with (
        place_recorded_turns_call(post, rate=rate) as call,
        _following(follower, events_with_audio(call)) as following,
    ):
        yield call, following
