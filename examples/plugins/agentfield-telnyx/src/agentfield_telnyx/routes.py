"""The routes of the transport: the webhook of calls, and the media stream of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.urls import check_base_url, socket_url
from agentfield.errors import AgentFieldError, Forbidden, InvalidInput, ProviderError, ProviderUnavailable
from agentfield.realtime.transport import Evidence, TransportRuntime
from agentfield_telnyx.call_control import API_URL, CallControl
from agentfield_telnyx.leg import TelnyxLeg
from agentfield_telnyx.protocol import MAX_MESSAGE, BadMessage, Started, Stream
from agentfield_telnyx.token import StreamTokens
from agentfield_telnyx.webhook import CallEvent, is_signed, read_event

__all__ = ["TelnyxTransport", "telnyx"]

_START_TIMEOUT = 10.0
"""Seconds within which a stream must send `start`."""
_CLOSE_TIMEOUT = 2.0
_HEARTBEAT = 20.0
"""Seconds between the pings by which a lost connection is noticed."""
_MAX_HANG_UPS = 1000
_REFUSED, _FAILED = 1008, 1011
_TOKEN_HEADER = "x-telnyx-streaming-auth-token"  # noqa: S105 - its name


@asynccontextmanager
async def telnyx(runtime: TransportRuntime) -> AsyncIterator[TelnyxTransport]:
    """Yield the transport; at the end calls that were carried are hung up.

    Raises:
        InvalidInput: TELNYX_API_URL is not a valid base URL.
    """
    url, key = runtime.setting("TELNYX_API_URL"), runtime.setting("TELNYX_API_KEY")
    endpoint = ProviderEndpoint(
        title="Telnyx",
        base_url=check_base_url(API_URL if url is None else url.get_secret_value(), "TELNYX_API_URL", example=API_URL),
        key=key,
        key_setting="TELNYX_API_KEY",
        url_setting="TELNYX_API_URL",
    )
    tokens = StreamTokens("" if key is None else key.get_secret_value())
    async with http_session() as http, asyncio.TaskGroup() as tasks:
        yield TelnyxTransport(runtime, CallControl(endpoint, http), tokens, tasks)


class TelnyxTransport:
    """The two routes of the transport.

    Args:
        runtime: Services of the control plane.
        calls: Sends commands to calls.
        tokens: Makes and checks the tokens of streams.
        tasks: Owns the tasks that hang up.
    """

    def __init__(
        self, runtime: TransportRuntime, calls: CallControl, tokens: StreamTokens, tasks: asyncio.TaskGroup
    ) -> None:
        self._runtime = runtime
        self._calls = calls
        self._tokens = tokens
        self._tasks = tasks
        self._hanging_up: set[str] = set()
        """Calls with a task that hangs them up."""

    async def verify(self, request: web.Request) -> Evidence:
        """Accept a webhook that Telnyx signed, and a stream with the token that its call was given.

        Raises:
            Forbidden: The signature or the token is wrong, or a setting is missing.
        """
        for name in ("TELNYX_PUBLIC_KEY", "TELNYX_API_KEY"):
            if self._setting(name) is None:
                raise Forbidden(
                    f"This control plane has no {name}, so it refuses all requests of Telnyx.",
                    code="telnyx_settings_missing",
                    hint=f"start it with {name} of the Telnyx account set",
                )
        if request.method == "GET":
            return self._verify_stream(request)
        return await self._verify_webhook(request)

    async def voice(self, request: web.Request, evidence: Evidence) -> web.Response:  # noqa: ARG002 - recorded with the stream
        """Handle an event of a call: answer it, then start its stream, which starts the session."""
        event = read_event(await request.read())
        if event is None:
            raise InvalidInput("The event is not one of a call.", hint="this is the webhook of a Voice API application")
        try:
            await self._handle(event, request.match_info["target"])
        except ProviderUnavailable:
            raise  # the request fails, and Telnyx delivers the event again
        except ProviderError as error:
            self._runtime.logger.warning("a call is not connected: %s", error.message)
            if event.ours:
                self._hang_up(event.call)  # it was answered, and would go on in silence
        return web.Response()

    async def media(self, request: web.Request, evidence: Evidence) -> web.WebSocketResponse:
        """Carry the audio of a call until it ends."""
        call = evidence.facts["call_control_id"]
        socket = web.WebSocketResponse(
            max_msg_size=MAX_MESSAGE, timeout=_CLOSE_TIMEOUT, heartbeat=_HEARTBEAT, compress=False
        )
        if not socket.can_prepare(request):
            raise InvalidInput("A media stream is a WebSocket.", code="websocket_required")
        replaced = False
        try:
            await socket.prepare(request)
            replaced = await self._carry(socket, request, evidence, lambda: self._hang_up(call))
        finally:
            if not replaced:
                self._hang_up(call)
        return socket

    # --- inside

    def _setting(self, name: str) -> str | None:
        value = self._runtime.setting(name)
        return (value.get_secret_value() or None) if value is not None else None

    async def _verify_webhook(self, request: web.Request) -> Evidence:
        signature = request.headers.get("telnyx-signature-ed25519", "")
        timestamp = request.headers.get("telnyx-timestamp", "")
        public_key = self._setting("TELNYX_PUBLIC_KEY") or ""
        try:
            signed = is_signed(public_key, signature, timestamp, await request.read(), self._runtime.clock())
        except ValueError:
            raise Forbidden(
                "TELNYX_PUBLIC_KEY is no public key of Telnyx, so all its requests are refused.",
                code="telnyx_public_key",
                hint="copy the public key of the account from Mission Control: 44 characters of base64",
            ) from None
        if not signed:
            raise Forbidden(
                "The request is not signed by Telnyx, or was signed more than five minutes ago.",
                code="telnyx_signature",
                hint="TELNYX_PUBLIC_KEY must be the account's, and the clock of the control plane right",
            )
        return Evidence("telnyx-signature")

    def _verify_stream(self, request: web.Request) -> Evidence:
        token = request.headers.get(_TOKEN_HEADER, "")
        call = self._tokens.accept(token, request.match_info["target"], self._runtime.clock())
        if call is None:
            raise Forbidden(
                "The stream has no valid token: each is accepted once, for one call, within a minute.",
                code="telnyx_stream_token",
                hint="streams are opened by Telnyx, for calls that this control plane answered",
            )
        return Evidence("telnyx-stream-token", {"call_control_id": call})

    async def _handle(self, event: CallEvent, target: str) -> None:
        if event.kind == "call.initiated" and event.incoming:
            await self._calls.answer(event.call)
        elif not event.ours:
            return  # a call that the application made, or that something else answered
        elif event.kind == "call.answered":
            token = self._tokens.issue(target, event.call, self._runtime.clock())
            url = socket_url(self._runtime.url(f"/media/{target}"))
            await self._calls.start_streaming(event.call, url, token)
        elif event.kind in ("streaming.failed", "streaming.stopped"):
            # without a stream nobody hears the caller; also the end of calls whose control plane was lost
            if event.kind == "streaming.failed":
                self._runtime.logger.warning("Telnyx could not open a media stream: %s", event.reason[:200])
            self._hang_up(event.call)

    async def _carry(
        self, socket: web.WebSocketResponse, request: web.Request, evidence: Evidence, hang_up: Callable[[], None]
    ) -> bool:
        """Carry a stream until it ends; return whether another stream of the call replaced it."""
        stream = Stream()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                started = await _receive_start(socket, stream, evidence.facts["call_control_id"])
            session_id = await self._start(started, request.match_info["target"], evidence)
            leg = TelnyxLeg(socket, stream, hang_up=hang_up, logger=self._runtime.logger, transport=request.transport)
            end = await self._runtime.carry(session_id, leg)
        except (BadMessage, AgentFieldError, TimeoutError) as error:
            await self._refuse(socket, error)
            return False
        if end != "slow":  # to a slow connection not even the close can be written
            await socket.close()
        return end == "replaced"

    async def _start(self, started: Started, target: str, evidence: Evidence) -> str:
        facts = {**evidence.facts, "stream_id": started.stream}
        if started.session is not None:
            facts["call_session_id"] = started.session
        return await self._runtime.start_session(
            target,
            evidence=Evidence(evidence.method, facts),
            caller=started.caller and started.caller[:256],
            metadata={"call_control_id": started.call},
            idempotency_key=started.call,
        )

    async def _refuse(self, socket: web.WebSocketResponse, error: Exception) -> None:
        reason = error.message if isinstance(error, AgentFieldError) else str(error) or "the stream did not begin"
        self._runtime.logger.warning("a media stream is not carried: %s", reason)
        code = _FAILED if isinstance(error, AgentFieldError) and error.status >= 500 else _REFUSED
        await socket.close(code=code, message=reason.encode()[:100])

    def _hang_up(self, call: str) -> None:
        """Hang up in a task, since the caller of this may be cancelled; a call is hung up by one at a time."""
        if call not in self._hanging_up and len(self._hanging_up) < _MAX_HANG_UPS:
            self._hanging_up.add(call)
            self._tasks.create_task(self._hang_up_now(call), name="hang up a call of Telnyx")

    async def _hang_up_now(self, call: str) -> None:
        try:
            await self._calls.hang_up(call)
        except AgentFieldError as error:
            # usually it is over already: the caller hung up first
            self._runtime.logger.info("a call was not hung up: %s", error.message)
        finally:
            self._hanging_up.discard(call)


async def _receive_start(socket: web.WebSocketResponse, stream: Stream, call: str) -> Started:
    """Receive messages up to `start`, and return it.

    Raises:
        BadMessage: The stream ends or is invalid before, or is that of another call.
    """
    while stream.started is None:
        message = await socket.receive()
        if message.type is not WSMsgType.TEXT:
            raise BadMessage("the stream ended before 'start'")
        stream.receive(message.data)
    if stream.started.call != call:
        raise BadMessage("a stream of another call")
    return stream.started
