"""The routes of the transport: the voice webhook, and the media stream of a call."""

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

__all__ = ["TwilioTransport", "connect_twiml", "twilio"]

_START_TIMEOUT = 10.0
"""Seconds within which a stream must send `start`."""
_CLOSE_TIMEOUT = 2.0
_MAX_ENDED_CALLS = 1000
_RESERVED_PARAMETERS = ("target", "caller")
_HANG_UP = '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Hangup/></Response>'
_REFUSED, _FAILED = 1008, 1011


@asynccontextmanager
async def twilio(runtime: TransportRuntime) -> AsyncIterator[TwilioTransport]:
    """Yield the transport."""
    yield TwilioTransport(runtime)


def connect_twiml(stream_url: str, parameters: Mapping[str, str]) -> str:
    """Return the TwiML that connects a call to a stream.

    Args:
        stream_url: URL of the stream, ``wss://…``.
        parameters: Parameters of the stream's `start`; name and value have at most 500 characters together.
    """
    elements = "".join(f"<Parameter name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in parameters.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Response><Connect><Stream url={quoteattr(stream_url)}>{elements}</Stream></Connect></Response>"
    )


class TwilioTransport:
    """The two routes of the transport.

    Args:
        runtime: Services of the control plane.
    """

    def __init__(self, runtime: TransportRuntime) -> None:
        self._runtime = runtime
        self._ended_calls: OrderedDict[str, None] = OrderedDict()
        """Calls whose sessions have ended, in order; they are not connected again."""

    async def verify(self, request: web.Request) -> Evidence:
        """Accept a request that is signed with the account's token.

        Raises:
            Forbidden: The signature is missing or wrong, or no token is configured.
        """
        token = self._runtime.setting("TWILIO_AUTH_TOKEN")
        if token is None:
            raise Forbidden(
                "This control plane has no Twilio token, so it refuses all requests.",
                code="twilio_token_missing",
                hint="start it with TWILIO_AUTH_TOKEN set to the Auth Token of the Twilio account",
            )
        form = [(name, str(value)) for name, value in (await request.post()).items()]
        given = request.headers.get("X-Twilio-Signature", "")
        if not is_signed(token.get_secret_value(), given, self._signed_url(request), form):
            raise Forbidden(
                "The request is not signed by Twilio for this address.",
                code="twilio_signature",
                hint="AGENTFIELD_PUBLIC_URL must be the address that Twilio was given, TWILIO_AUTH_TOKEN its account's",
            )
        known = {name: value for name, value in form if name in ("AccountSid", "CallSid", "From", "To")}
        return Evidence("twilio-signature", known)

    async def voice(self, request: web.Request, evidence: Evidence) -> web.Response:
        """Answer an incoming call: connect it to the stream, which then starts the session."""
        call = evidence.facts.get("CallSid")
        if call is None:
            raise InvalidInput("A call has a CallSid.", field="CallSid", hint="this is the voice webhook of a number")
        if call in self._ended_calls:
            # redirected here after its session ended, for instance by a <Redirect>; connecting it again would loop
            return web.Response(text=_HANG_UP, content_type="text/xml")
        parameters = {"target": request.match_info["target"], "caller": evidence.facts.get("From", "")[:256]}
        text = connect_twiml(_socket(self._runtime.url("/media")), parameters)
        return web.Response(text=text, content_type="text/xml")

    async def media(self, request: web.Request, evidence: Evidence) -> web.WebSocketResponse:
        """Carry the audio of a call until it ends."""
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, timeout=_CLOSE_TIMEOUT, compress=False)
        if not socket.can_prepare(request):
            raise InvalidInput("A media stream is a WebSocket.", code="websocket_required")
        await socket.prepare(request)
        stream = Stream()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                started = await _receive_start(socket, stream)
            session_id = await self._start(started, evidence)
        except (BadMessage, AgentFieldError, TimeoutError) as error:
            await self._refuse(socket, error)
            return socket
        leg = TwilioLeg(socket, stream, logger=self._runtime.logger, transport=request.transport)
        await self._carry(session_id, started, socket, leg)
        return socket

    # --- inside

    def _signed_url(self, request: web.Request) -> str:
        """Return the URL that Twilio signed: the public root of the transport, and the path and query of this request.

        The request's own host is not used: behind a proxy it is not the public one.
        """
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
        others = {name: value for name, value in started.parameters.items() if name not in _RESERVED_PARAMETERS}
        return await self._runtime.start_session(
            target,
            evidence=Evidence(evidence.method, facts),
            caller=started.parameters.get("caller") or None,
            metadata={**others, "call_sid": started.call},
            idempotency_key=started.call,
        )

    async def _carry(self, session_id: str, started: Started, socket: web.WebSocketResponse, leg: TwilioLeg) -> None:
        try:
            end = await self._runtime.carry(session_id, leg)
        except AgentFieldError as error:
            if isinstance(error, SessionEnded):
                self._remember_ended(started.call)
            await self._refuse(socket, error)
            return
        if end == "closed":
            self._remember_ended(started.call)
        if end != "slow":
            await socket.close()

    async def _refuse(self, socket: web.WebSocketResponse, error: Exception) -> None:
        reason = error.message if isinstance(error, AgentFieldError) else str(error) or "the stream did not begin"
        self._runtime.logger.warning("a media stream is not carried: %s", reason)
        code = _FAILED if isinstance(error, AgentFieldError) and error.status >= 500 else _REFUSED
        await socket.close(code=code, message=reason.encode()[:100])

    def _remember_ended(self, call: str) -> None:
        self._ended_calls[call] = None
        while len(self._ended_calls) > _MAX_ENDED_CALLS:
            self._ended_calls.popitem(last=False)


async def _receive_start(socket: web.WebSocketResponse, stream: Stream) -> Started:
    """Receive messages up to `start`, and return it.

    Raises:
        BadMessage: The stream ends or is invalid before.
    """
    while stream.started is None:
        message = await socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise BadMessage("the stream ended before 'start'")
        stream.receive(message.data)
    return stream.started


def _socket(url: str) -> str:
    return "ws" + url.removeprefix("http")
