"""Media socket: the WebSocket that carries a caller's audio; audio format, subprotocol, errors and close codes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from agentfield.errors import AgentFieldError, Conflict, InvalidInput, SessionEnded, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import LegEnd
from agentfield_server.access.guard import MEDIA_PROTOCOL
from agentfield_server.api.callers.websocket_leg import MAX_MESSAGE, WebSocketLeg
from agentfield_server.api.http.caller_view import for_caller, live_for_caller
from agentfield_server.api.http.route import Route, view_of
from agentfield_server.bus import Bus
from agentfield_server.media.convert import require_media
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.media_entry import is_retryable, wrong_media_error

__all__ = ["MediaRoutes", "requested_format"]

_HEARTBEAT = 7.5
"""Seconds without a frame after which a caller is pinged, and seconds in which it must answer."""
_CLOSE_WAIT = 2.0
_PROTOCOL = (
    f"A WebSocket. The token comes as `Authorization: Bearer`, or from a page as a second subprotocol behind "
    f"`{MEDIA_PROTOCOL}`, which is the one that is selected; it is never part of the address. "
    "`format` is pcm16 (default), pcmu or pcma; `rate` is 8000, 16000, 24000 (default) or 48000, and 8000 for the latter "
    "two. Binary frames are audio in that format, both ways. Text frames are JSON. To the caller: `ready` first, `clear`, "
    "`mark` {name}, `event` {event}, `error` {problem}, and `ended` {reason, detail} last. From the caller: `mark` {name} "
    "once a mark was played, `text` {text}, `begin` and `commit` of a turn of push to talk, `dtmf` {digit}, `hangup`. "
    "Closed with 1000 after the end, 1008 for a refusal that no retry cures, 1011 for one that may be cured, 1012 when the control plane stops. A caller whose "
    "connection breaks may come back within 10 s."
)
_RATES = (8000, 16000, 24000, 48000)
_AVAILABLE = (*(f"pcm16/{rate}" for rate in _RATES), "pcmu/8000", "pcma/8000")


def requested_format(query: Mapping[str, str]) -> AudioFormat:
    """Return the audio format that the query asks for; 16-bit samples at 24 kHz by default.

    Raises:
        InvalidInput: The format is unknown (code `unsupported_format`); the hint lists the supported ones.
    """
    codec = query.get("format", "pcm16")
    rate = query.get("rate", "24000" if codec == "pcm16" else "8000")
    name = f"{codec}/{rate}"
    match codec:
        case "pcm16" | "pcmu" | "pcma" if name in _AVAILABLE:
            return AudioFormat(codec, int(rate))
    raise InvalidInput(
        f"The audio format {name[:40]!r} is not supported.",
        code="unsupported_format",
        hint=f"formats: {', '.join(_AVAILABLE)}",
        field="format",
        available=list(_AVAILABLE),
    )


class MediaRoutes:
    """The route of the media socket, for sessions on bridged media.

    Args:
        sessions: The session service.
        bus: Source of live events.
    """

    def __init__(self, *, sessions: SessionService, bus: Bus) -> None:
        self._sessions = sessions
        self._bus = bus

    def routes(self) -> list[Route]:
        """Return the route."""
        path = "/api/v1/sessions/{session_id}/media"
        summary = "Carry the audio of a call"
        return [
            Route(
                "GET",
                path,
                self.media,
                ("token", "starter", "operator"),
                summary,
                view="caller",
                stream=True,
                socket=True,
                description=_PROTOCOL,
            )
        ]

    async def media(self, request: web.Request) -> web.StreamResponse:
        """Carry a caller's audio until the caller hangs up, the connection is lost, or the session ends."""
        session_id = request.match_info["session_id"]
        audio = requested_format(request.query)
        pair = await self._sessions.pair(session_id)
        carrier = self._sessions.carrier(pair)
        if pair.media != "bridged" or carrier is not None:
            raise wrong_media_error(pair, carrier)
        if audio not in self._sessions.formats(session_id):
            require_media()
        socket = _socket(request)
        await socket.prepare(request)
        leg = WebSocketLeg(
            socket, audio, capabilities=pair.capabilities, clock=time.monotonic, transport=request.transport
        )
        try:
            await self._carry(session_id, leg, socket, request)
        except Unavailable as error:
            if error.code != "caller_gone":
                raise
        return socket

    # --- inside

    async def _carry(
        self, session_id: str, leg: WebSocketLeg, socket: web.WebSocketResponse, request: web.Request
    ) -> None:
        audio_format = {"codec": leg.format.codec, "rate": leg.format.rate, "channels": leg.format.channels}
        await leg.send({"type": "ready", "session_id": session_id, "format": audio_format})
        everything = view_of(request) == "operator"
        with self._bus.subscribe(f"live:{session_id}") as live:
            forwarder = asyncio.create_task(
                _forward_live_events(leg, live, everything=everything), name="live events of a caller"
            )
            watchdog = asyncio.create_task(_abort_when_silent(leg, request.transport), name="silence of a caller")
            try:
                why: LegEnd | AgentFieldError = await self._sessions.connect(session_id, leg)
            except AgentFieldError as error:
                why = error
            finally:
                forwarder.cancel()
                watchdog.cancel()
                await asyncio.gather(forwarder, watchdog, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_WAIT * 2):
                await self._send_outcome(session_id, leg, socket, why, everything=everything)
        except TimeoutError:
            # the caller reads nothing any more, not even the end
            if request.transport is not None:
                request.transport.abort()
        if why == "slow" and request.transport is not None:
            request.transport.abort()

    async def _send_outcome(
        self,
        session_id: str,
        leg: WebSocketLeg,
        socket: web.WebSocketResponse,
        why: LegEnd | AgentFieldError,
        *,
        everything: bool,
    ) -> None:
        match why:
            case "slow":
                return
            case "replaced":
                error = Conflict("Another connection took over the call.", code="replaced", hint="one at a time")
                await leg.send_error(error)
                await socket.close()
            case "unconvertible":
                lost = Unavailable(
                    "The audio could not be converted.", code="audio_unconvertible", hint="connect again"
                )
                await leg.send_error(lost)
                await socket.close(code=1011)
            case AgentFieldError() if not isinstance(why, SessionEnded):
                await leg.send_error(why if everything else for_caller(why))
                await socket.close(code=1011 if is_retryable(why) else 1008)
            case _:
                await self._send_end(session_id, leg, socket, everything=everything)

    async def _send_end(
        self, session_id: str, leg: WebSocketLeg, socket: web.WebSocketResponse, *, everything: bool
    ) -> None:
        if leg.hung_up:
            await self._sessions.end(session_id, "caller_hangup")
        row = await self._sessions.settled(session_id)
        if row is not None and row.state == "ended":
            detail = row.end_detail if everything else None
            await leg.send({"type": "ended", "reason": row.end_reason, "detail": detail})
            await socket.close()
        else:
            # released by a shutdown, not ended: the caller may reconnect
            await socket.close(code=1012)


def _socket(request: web.Request) -> web.WebSocketResponse:
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
    if offered and MEDIA_PROTOCOL not in offered:
        # rejected before aiohttp reads them: it logs unknown subprotocols, which may be a token
        raise InvalidInput(
            "None of the offered subprotocols is supported.",
            code="unsupported_protocol",
            hint=f"offer {MEDIA_PROTOCOL}, and the token behind it",
        )
    socket = web.WebSocketResponse(
        protocols=(MEDIA_PROTOCOL,),
        autoping=False,  # the leg answers pings, and detects a silent caller without re-arming a timer per frame
        max_msg_size=MAX_MESSAGE,
        timeout=_CLOSE_WAIT,
        compress=False,
    )
    if not socket.can_prepare(request):
        error = InvalidInput(
            "This route carries audio over a WebSocket.",
            code="websocket_required",
            hint="open the address as ws:// or wss://",
        )
        error.status = 426
        raise error
    return socket


async def _abort_when_silent(leg: WebSocketLeg, transport: asyncio.Transport | None) -> None:
    await leg.wait_silent(_HEARTBEAT)
    if transport is not None:
        transport.abort()


async def _forward_live_events(leg: WebSocketLeg, live: AsyncIterator[object], *, everything: bool) -> None:
    try:
        while True:
            # the iteration ends after an overflow; only live events were lost, so it is simply resumed
            async for event in live:
                if isinstance(event, dict) and event.get("type") != "reply.audio":
                    shown = event if everything else live_for_caller(event)
                    if shown is not None:
                        await leg.send({"type": "event", "event": shown})
    except Unavailable:
        return  # the caller is gone; the leg's input reports it as well
