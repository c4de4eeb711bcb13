"""What Twilio asks of us: what to do with a call that comes in, and to take its audio."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from xml.sax.saxutils import quoteattr

from aiohttp import WSMsgType, web

from agentfield.errors import AgentFieldError, Forbidden, InvalidInput, SessionEnded
from agentfield.realtime.transport import Evidence, TransportRuntime
from agentfield_twilio.leg import TwilioLeg
from agentfield_twilio.protocol import MAX_MESSAGE, BadMessage, Started, Stream
from agentfield_twilio.signature import is_signed

__all__ = ["TwilioTransport", "answer", "twilio"]

_BEGIN_WAIT = 10.0
"""Seconds within which a stream must have said `start`."""
_CLOSE_WAIT = 2.0
_REMEMBERED = 1000
_OWN = ("target", "caller")
_HANG_UP = '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Hangup/></Response>'
_REFUSED, _FAILED = 1008, 1011


@asynccontextmanager
async def twilio(runtime: TransportRuntime) -> AsyncIterator[TwilioTransport]:
    """Serve the transport; it holds nothing but its calls."""
    yield TwilioTransport(runtime)


def answer(stream_url: str, parameters: Mapping[str, str]) -> str:
    """Return the TwiML that connects a call to a stream.

    Args:
        stream_url: Where the stream goes, ``wss://…``.
        parameters: What the stream's `start` is to say; names and values together at most 500 characters each.
    """
    told = "".join(f"<Parameter name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in parameters.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Connect><Stream url={quoteattr(stream_url)}>{told}</Stream></Connect></Response>"
    )


class TwilioTransport:
    """The two routes of the transport.

    Args:
        runtime: What the control plane gives.
    """

    def __init__(self, runtime: TransportRuntime) -> None:
        self._runtime = runtime
        self._over: OrderedDict[str, None] = OrderedDict()
        """Calls whose sessions are over: they are not connected again."""

    async def verify(self, request: web.Request) -> Evidence:
        """Believe what is signed with the account's token.

        Raises:
            Forbidden: It is not signed, or no token is set, which believes nobody.
        """
        token = self._runtime.setting("TWILIO_AUTH_TOKEN")
        if token is None:
            raise Forbidden(
                "This control plane has no token of Twilio, so it believes nobody.",
                code="twilio_token_missing",
                hint="start it with TWILIO_AUTH_TOKEN set to the Auth Token of the Twilio account",
            )
        form = [(name, str(value)) for name, value in (await request.post()).items()]
        given = request.headers.get("X-Twilio-Signature", "")
        if not is_signed(token.get_secret_value(), given, self._asked(request), form):
            raise Forbidden(
                "The request is not signed by Twilio for this address.",
                code="twilio_signature",
                hint="AGENTFIELD_PUBLIC_URL must be the address that Twilio was given, TWILIO_AUTH_TOKEN its account's",
            )
        known = {name: value for name, value in form if name in ("AccountSid", "CallSid", "From", "To")}
        return Evidence("twilio-signature", known)

    async def voice(self, request: web.Request, evidence: Evidence) -> web.Response:
        """Answer a call that comes in: its audio goes to our stream, which then starts the session."""
        call = evidence.facts.get("CallSid")
        if call is None:
            raise InvalidInput("A call has a CallSid.", field="CallSid", hint="this is the voice webhook of a number")
        if call in self._over:
            # sent here again after its end, by a <Redirect> for instance; connecting it would go round in circles
            return web.Response(text=_HANG_UP, content_type="text/xml")
        parameters = {"target": request.match_info["target"], "caller": evidence.facts.get("From", "")[:256]}
        text = answer(_socket(self._runtime.url("/media")), parameters)
        return web.Response(text=text, content_type="text/xml")

    async def media(self, request: web.Request, evidence: Evidence) -> web.WebSocketResponse:
        """Carry the audio of a call until it is over."""
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, timeout=_CLOSE_WAIT, compress=False)
        if not socket.can_prepare(request):
            raise InvalidInput("A media stream is a WebSocket.", code="websocket_required")
        await socket.prepare(request)
        stream = Stream()
        try:
            async with asyncio.timeout(_BEGIN_WAIT):
                started = await _begun(socket, stream)
            session_id = await self._start(started, evidence)
        except (BadMessage, AgentFieldError, TimeoutError) as error:
            await self._refuse(socket, error)
            return socket
        leg = TwilioLeg(socket, stream, logger=self._runtime.logger, transport=request.transport)
        await self._carry(session_id, started, socket, leg)
        return socket

    # --- inside

    def _asked(self, request: web.Request) -> str:
        """Return the address that Twilio asked for: ours outside, and what this request says below it."""
        root = self._runtime.url("")
        _, _, below = request.rel_url.raw_path.partition("/transports/twilio")
        query = request.rel_url.raw_query_string
        url = f"{root}{below}{'?' if query else ''}{query}"
        return _socket(url) if "Sec-WebSocket-Key" in request.headers else url

    async def _start(self, started: Started, evidence: Evidence) -> str:
        target = started.parameters.get("target")
        if not target:
            raise InvalidInput(
                "The stream does not say which session it is for.",
                hint='give it a <Parameter name="target" value="…"/>',
            )
        facts = {"AccountSid": started.account, "CallSid": started.call, "StreamSid": started.stream}
        others = {name: value for name, value in started.parameters.items() if name not in _OWN}
        return await self._runtime.start_session(
            target,
            evidence=Evidence(evidence.method, facts),
            caller=started.parameters.get("caller") or None,
            metadata={**others, "call_sid": started.call},
            idempotency_key=started.call,
        )

    async def _carry(self, session_id: str, started: Started, socket: web.WebSocketResponse, leg: TwilioLeg) -> None:
        try:
            why = await self._runtime.carry(session_id, leg)
        except AgentFieldError as error:
            if isinstance(error, SessionEnded):
                self._end(started.call)
            await self._refuse(socket, error)
            return
        if why == "closed":
            self._end(started.call)
        if why != "slow":
            await socket.close()

    async def _refuse(self, socket: web.WebSocketResponse, error: Exception) -> None:
        told = error.message if isinstance(error, AgentFieldError) else str(error) or "the stream did not begin"
        self._runtime.logger.warning("a media stream is not carried: %s", told)
        code = _FAILED if isinstance(error, AgentFieldError) and error.status >= 500 else _REFUSED
        await socket.close(code=code, message=told.encode()[:100])

    def _end(self, call: str) -> None:
        self._over[call] = None
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)


async def _begun(socket: web.WebSocketResponse, stream: Stream) -> Started:
    """Return how a stream starts.

    Raises:
        BadMessage: It does not.
    """
    while stream.started is None:
        message = await socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise BadMessage("the stream ended before 'start'")
        stream.receive(message.data)
    return stream.started


def _socket(url: str) -> str:
    return "ws" + url.removeprefix("http")
