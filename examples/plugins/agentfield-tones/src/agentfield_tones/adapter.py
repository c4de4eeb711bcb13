"""The adapter of `tones/websocket`: it opens one connection to the service for each session."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.options import read_options
from agentfield.adapterkit.refusals import refusal_error, retry_seconds, unreachable_error
from agentfield.adapterkit.urls import check_base_url, proxy_for, socket_url
from agentfield.errors import CapabilityMissing
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import ServerVad, SessionConfig
from agentfield.realtime.provider import AdapterRuntime
from agentfield_tones.keys import RATE
from agentfield_tones.options import TonesOptions
from agentfield_tones.session import TonesSession

__all__ = ["TonesAdapter", "tones"]

_FORMAT = AudioFormat("pcm16", RATE)
_OPEN_TIMEOUT = 10.0
_HINTS = {401: "check TONES_KEY", 403: "check TONES_KEY", 429: "try again later"}


class TonesAdapter:
    """Opens sessions at a tone service (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        endpoint: The service.
        http: Opens the connections.
        logger: Logs the adapter's messages.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self,
        endpoint: ProviderEndpoint,
        http: aiohttp.ClientSession,
        logger: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self._endpoint = endpoint
        self._http = http
        self._logger = logger
        self._clock = clock

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The only format of the service."""
        return (_FORMAT,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> TonesSession:
        """Open a session.

        Raises:
            CapabilityMissing: The format, the tools or the turn detection are not supported.
            InvalidInput: The session's `options` are invalid.
            ProviderError: The service refused.
            ProviderUnavailable: The service did not answer in time.
        """
        if audio != _FORMAT:
            raise CapabilityMissing(f"Tones are {_FORMAT.name}, not {audio.name}.", hint=f"open with {_FORMAT.name}")
        if config.tools:
            raise CapabilityMissing(
                "A tone service calls no tools.", hint="call them in the handler: session.call(...)"
            )
        if not isinstance(config.turn_detection, ServerVad):
            raise CapabilityMissing(
                "A tone service finds the end of a turn by silence.", hint="leave out turn_detection"
            )
        pace = read_options(TonesOptions, config).pace
        socket = await self._connect()
        wanted = {
            "op": "open",
            "model": config.model,
            "silence_ms": config.turn_detection.silence_duration_ms,
            "tone_ms": 120 if pace == "slow" else 60,
        }
        await socket.send_str(json.dumps(wanted))
        return TonesSession(socket, self._endpoint, self._clock)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        what, url = "open a line", f"{socket_url(self._endpoint.base_url)}/talk"
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                return await self._http.ws_connect(
                    url,
                    headers=self._endpoint.bearer(),
                    proxy=proxy_for(self._endpoint.base_url),
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                )
        except aiohttp.WSServerHandshakeError as error:
            wait = retry_seconds(error.headers.get("Retry-After") if error.headers else None)
            code, hint = f"http_{error.status}", _HINTS.get(error.status)
            raise refusal_error(self._endpoint, what, error.status, code, hint=hint, retry_after=wait) from None
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise unreachable_error(self._endpoint, what, error) from None


@asynccontextmanager
async def tones(runtime: AdapterRuntime) -> AsyncIterator[TonesAdapter]:
    """Yield the adapter.

    Args:
        runtime: The adapter runtime of the control plane.

    Raises:
        InvalidInput: TONES_URL is not a valid base URL.
    """
    endpoint = ProviderEndpoint(
        title="Tones",
        base_url=check_base_url(runtime.base_url, "TONES_URL"),
        key=runtime.key,
        key_setting="TONES_KEY",
        url_setting="TONES_URL",
    )
    async with http_session() as http:
        yield TonesAdapter(endpoint, http, runtime.logger, runtime.clock)
