"""The WebSocket on which the control plane carries a caller's audio: format, access, errors and the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from agentfield.errors import AgentFieldError, Conflict, InvalidInput, SessionEnded, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.player import LineEnd
from agentfield_server.access.guards import MEDIA_PROTOCOL
from agentfield_server.api.medialeg import MAX_MESSAGE, WebSocketLeg
from agentfield_server.api.routes import Route
from agentfield_server.bus import Bus
from agentfield_server.media.convert import require_media
from agentfield_server.sessions import Sessions
from agentfield_server.sessions.ways import may_be_cured, wrong_media

__all__ = ["MediaRoutes", "asked_format"]

_HEARTBEAT = 7.5
"""Seconds of silence after which a caller is pinged, and in which it answers."""
_CLOSE_WAIT = 2.0
_PROTOCOL = (
    f"A WebSocket. The token comes as `Authorization: Bearer`, or from a page as a second subprotocol behind "
    f"`{MEDIA_PROTOCOL}`, which is the one that is selected; it is never part of the address. "
    "`format` is pcm16 (default), pcmu or pcma; `rate` is 8000, 16000, 24000 (default) or 48000, and 8000 for the latter "
    "two. Binary frames are audio in that format, both ways. Text frames are JSON. To the caller: `ready` first, `clear`, "
    "`mark` {name}, `event` {event}, `error` {problem}, and `ended` {reason, detail} last. From the caller: `mark` {name} "
    "once a mark was played, `text` {text}, `commit`, `dtmf` {digit}, `hangup`. Closed with 1000 after the end, 1008 for a "
    "refusal that no retry cures, 1011 for one that may be cured, 1012 when the control plane stops. A caller whose "
    "connection breaks may come back within 10 s."
)
_RATES = (8000, 16000, 24000, 48000)
_AVAILABLE = (*(f"pcm16/{rate}" for rate in _RATES), "pcmu/8000", "pcma/8000")


def asked_format(query: Mapping[str, str]) -> AudioFormat:
    """Return the format that a caller asks for; 16-bit samples at 24 kHz when it does not.

    Raises:
        InvalidInput: There is no such format (code `unsupported_format`); the message says what there is.
    """
    codec = query.get("format", "pcm16")
    rate = query.get("rate", "24000" if codec == "pcm16" else "8000")
    name = f"{codec}/{rate}"
    match codec:
        case "pcm16" | "pcmu" | "pcma" if name in _AVAILABLE:
            return AudioFormat(codec, int(rate))
    raise InvalidInput(
        f"There is no audio format {name[:40]!r} here.",
        code="unsupported_format",
        hint=f"formats: {', '.join(_AVAILABLE)}",
        field="format",
        available=list(_AVAILABLE),
    )


class MediaRoutes:
    """The media socket of sessions whose audio the control plane carries.

    Args:
        sessions: The live calls.
        bus: Live events.
    """

    def __init__(self, *, sessions: Sessions, bus: Bus) -> None:
        self._sessions = sessions
        self._bus = bus

    def routes(self) -> list[Route]:
        """Return the route."""
        path = "/api/v1/sessions/{session_id}/media"
        summary = "Carry the audio of a call"
        return [Route("GET", path, self.media, "session", summary, stream=True, socket=True, description=_PROTOCOL)]

    async def media(self, request: web.Request) -> web.StreamResponse:
        """Carry a caller's audio until it hangs up, its connection breaks, or the session ends."""
        session_id = request.match_info["session_id"]
        audio = asked_format(request.query)
        pair = await self._sessions.pair(session_id)
        carrier = self._sessions.carrier(pair)
        if pair.media != "bridged" or carrier is not None:
            raise wrong_media(pair, carrier)
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
        form = {"codec": leg.format.codec, "rate": leg.format.rate, "channels": leg.format.channels}
        await leg.send({"type": "ready", "session_id": session_id, "format": form})
        with self._bus.subscribe(f"live:{session_id}") as live:
            pump = asyncio.create_task(_pump(leg, live), name="live events of a caller")
            watch = asyncio.create_task(_watch(leg, request.transport), name="silence of a caller")
            try:
                why: LineEnd | AgentFieldError = await self._sessions.connect(session_id, leg)
            except AgentFieldError as error:
                why = error
            finally:
                pump.cancel()
                watch.cancel()
                await asyncio.gather(pump, watch, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_WAIT * 2):
                await self._finish(session_id, leg, socket, why)
        except TimeoutError:
            # it takes nothing any more, not even the end
            if request.transport is not None:
                request.transport.abort()
        if why == "slow" and request.transport is not None:
            request.transport.abort()

    async def _finish(
        self, session_id: str, leg: WebSocketLeg, socket: web.WebSocketResponse, why: LineEnd | AgentFieldError
    ) -> None:
        match why:
            case "slow":
                return
            case "replaced":
                error = Conflict("Another connection took over the call.", code="replaced", hint="one at a time")
                await leg.tell(error)
                await socket.close()
            case "unconvertible":
                lost = Unavailable(
                    "The audio could not be converted.", code="audio_unconvertible", hint="connect again"
                )
                await leg.tell(lost)
                await socket.close(code=1011)
            case AgentFieldError() if not isinstance(why, SessionEnded):
                await leg.tell(why)
                await socket.close(code=1011 if may_be_cured(why) else 1008)
            case _:
                await self._say_goodbye(session_id, leg, socket)

    async def _say_goodbye(self, session_id: str, leg: WebSocketLeg, socket: web.WebSocketResponse) -> None:
        if leg.hung_up:
            await self._sessions.end(session_id, "caller_hangup")
        row = await self._sessions.settled(session_id)
        if row is not None and row.state == "ended":
            await leg.send({"type": "ended", "reason": row.end_reason, "detail": row.end_detail})
            await socket.close()
        else:
            # let go, not ended: the caller may come back
            await socket.close(code=1012)


def _socket(request: web.Request) -> web.WebSocketResponse:
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
    if offered and MEDIA_PROTOCOL not in offered:
        # refused before the library looks at them: it would log what it does not know, a token for instance
        raise InvalidInput(
            "None of the subprotocols is spoken here.",
            code="unsupported_protocol",
            hint=f"offer {MEDIA_PROTOCOL}, and the token behind it",
        )
    socket = web.WebSocketResponse(
        protocols=(MEDIA_PROTOCOL,),
        autoping=False,  # the leg does it, and knows who is silent without a timer that is set anew with each frame
        max_msg_size=MAX_MESSAGE,
        timeout=_CLOSE_WAIT,
        compress=False,
    )
    if not socket.can_prepare(request):
        error = InvalidInput(
            "Audio goes over a WebSocket.", code="websocket_required", hint="open the address as ws:// or wss://"
        )
        error.status = 426
        raise error
    return socket


async def _watch(leg: WebSocketLeg, transport: asyncio.Transport | None) -> None:
    await leg.silence(_HEARTBEAT)
    if transport is not None:
        transport.abort()


async def _pump(leg: WebSocketLeg, live: AsyncIterator[object]) -> None:
    try:
        while True:
            # the iteration ends once when the reader lagged; what was lost was live only
            async for event in live:
                if isinstance(event, dict) and event.get("type") != "reply.audio":
                    await leg.send({"type": "event", "event": event})
    except Unavailable:
        return  # the caller is gone, which its input tells as well
