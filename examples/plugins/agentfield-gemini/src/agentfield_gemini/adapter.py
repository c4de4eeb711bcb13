"""The adapter of `gemini/websocket`: it opens one connection to the Live API for each session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.options import read_options
from agentfield.adapterkit.refusals import refusal_error, retry_seconds, unreachable_error
from agentfield.adapterkit.urls import check_base_url, proxy_for, socket_url
from agentfield.errors import AgentFieldError, CapabilityMissing, NotFound, ProviderError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SemanticVad, SessionConfig
from agentfield.realtime.events import Event
from agentfield.realtime.provider import AdapterRuntime
from agentfield_gemini.commands import INPUT
from agentfield_gemini.options import GeminiOptions
from agentfield_gemini.protocol import LiveProtocol
from agentfield_gemini.session import GeminiSession, write

__all__ = ["GeminiAdapter", "websocket"]

_PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
_OPEN_TIMEOUT = 15.0
_MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes."""
_PING = 20.0
_OPEN = "open a session"
_HINTS = {
    400: "check the model and the options of the session",
    401: "check GEMINI_API_KEY",
    403: "check GEMINI_API_KEY",
    404: "check the model of the session: af adapters --provider gemini",
    429: "try again later, or raise the quota of the key",
}


@asynccontextmanager
async def websocket(runtime: AdapterRuntime) -> AsyncIterator[GeminiAdapter]:
    """Yield the adapter: entered at its first use, exited when the control plane stops.

    Args:
        runtime: The adapter runtime of the control plane.

    Raises:
        InvalidInput: GEMINI_BASE_URL is not a valid base URL.
    """
    endpoint = ProviderEndpoint(
        title="Gemini Live",
        base_url=check_base_url(runtime.base_url, "GEMINI_BASE_URL"),
        key=runtime.key,
        key_setting="GEMINI_API_KEY",
        url_setting="GEMINI_BASE_URL",
    )
    async with http_session() as http:
        yield GeminiAdapter(endpoint, http, runtime.clock)


class GeminiAdapter:
    """Opens sessions (`agentfield.realtime.provider.BridgedAdapter`, `ResumableAdapter`).

    Args:
        endpoint: The provider.
        http: Opens the connections.
        clock: Returns seconds since the epoch.
    """

    def __init__(self, endpoint: ProviderEndpoint, http: aiohttp.ClientSession, clock: Callable[[], float]) -> None:
        self._endpoint = endpoint
        self._http = http
        self._clock = clock

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The only format of the caller's audio."""
        return (INPUT,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> GeminiSession:
        """Open a new session.

        Raises:
            CapabilityMissing: The format or the turn detection is not supported.
            InvalidInput: The session's `options` are invalid.
            ProviderError: The Live API refused.
            ProviderUnavailable: It did not answer in time.
        """
        return await self._open(config, audio, None)

    async def resume(self, config: SessionConfig, audio: AudioFormat, handle: str) -> GeminiSession:
        """Open a session that continues a conversation.

        Raises:
            NotFound: The handle is unknown, or older than two hours.
            ProviderError: The Live API refused.
            ProviderUnavailable: It did not answer in time.
        """
        return await self._open(config, audio, handle)

    async def _open(self, config: SessionConfig, audio: AudioFormat, handle: str | None) -> GeminiSession:
        if audio != INPUT:
            raise CapabilityMissing(f"Gemini Live hears {INPUT.name}, not {audio.name}.", hint=f"use {INPUT.name}")
        if isinstance(config.turn_detection, SemanticVad):
            raise CapabilityMissing("Gemini Live has no semantic turn detection.", hint="leave out turn_detection")
        options = read_options(GeminiOptions, config)
        protocol = LiveProtocol(config, options, self._clock, self._endpoint.clean)
        socket = await self._connect()
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                await write(socket, protocol.start(handle))
                events = await self._wait_until_ready(socket, protocol, resuming=handle is not None)
        except BaseException as error:
            await socket.close()
            if isinstance(error, OSError | TimeoutError | aiohttp.ClientError):
                raise unreachable_error(self._endpoint, _OPEN, error) from None
            raise
        return GeminiSession(socket, self._endpoint, protocol, events)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        url = f"{socket_url(self._endpoint.base_url)}{_PATH}"
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                return await self._http.ws_connect(
                    url,
                    headers={"x-goog-api-key": self._key()},
                    proxy=proxy_for(self._endpoint.base_url),
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                    heartbeat=_PING,
                    max_msg_size=_MAX_MESSAGE,
                )
        except aiohttp.WSServerHandshakeError as error:
            wait = retry_seconds(error.headers.get("Retry-After") if error.headers else None)
            raise self._refusal(error.status, f"http_{error.status}", wait=wait) from None
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise unreachable_error(self._endpoint, _OPEN, error) from None

    async def _wait_until_ready(
        self, socket: aiohttp.ClientWebSocketResponse, protocol: LiveProtocol, *, resuming: bool
    ) -> list[Event]:
        events: list[Event] = []
        while not protocol.ready:
            message = await socket.receive()
            match message.type:
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                    events += protocol.receive(message.data)
                case aiohttp.WSMsgType.CLOSE:
                    raise self._closing(message.data, str(message.extra or ""), resuming=resuming)
                case aiohttp.WSMsgType.CLOSED | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.ERROR:
                    raise unreachable_error(self._endpoint, _OPEN, ConnectionError())
        return events

    def _closing(self, code: int, reason: str, *, resuming: bool) -> AgentFieldError:
        """Return the error of a refusal: the server accepts the connection, and closes it with a code and a text."""
        said = reason.lower()
        match code:
            case _ if "api key" in said or "api_key" in said or "unregistered callers" in said:
                status = 401
            case _ if "quota" in said or ("resource" in said and "exhausted" in said):
                status = 429
            case _ if "not found" in said and "model" in said:
                status = 404
            case 1003 | 1007 | 1008 | 1009 if resuming:
                return NotFound(
                    f"{self._endpoint.title} does not know the conversation, or no longer.", hint="open a new one"
                )
            case 1003 | 1007 | 1008 | 1009:
                status = 400
            case _:
                status = 503
        return self._refusal(status, f"close_{code}", reason=self._endpoint.clean(reason))

    def _refusal(
        self, status: int, code: str, *, reason: str | None = None, wait: float | None = None
    ) -> ProviderError:
        return refusal_error(
            self._endpoint, _OPEN, status, code, reason=reason, hint=_HINTS.get(status), retry_after=wait
        )

    def _key(self) -> str:
        key = self._endpoint.key.get_secret_value() if self._endpoint.key else ""
        if key:
            return key
        raise ProviderError(
            f"{self._endpoint.title} needs a key and there is none.",
            code="key_missing",
            hint="set GEMINI_API_KEY",
            provider_code="key_missing",
        )
