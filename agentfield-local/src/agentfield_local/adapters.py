"""The `local/*` adapters: those of `openai` and `openrouter`, for a server that is found or started on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.urls import check_base_url
from agentfield.errors import NotFound
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, BridgedAdapter, CallRef, ProviderSession, SdpAnswer
from agentfield_local.process.reconnecting_client import reconnecting_session
from agentfield_local.process.supervisor import Supervisor, local_provider
from agentfield_openai.calls import CallsClient
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.refusals import call_not_found
from agentfield_openai.webrtc_adapter import RealtimeSession, WebRtcAdapter
from agentfield_openai.websocket_adapter import FORMATS, WebSocketAdapter
from agentfield_openrouter.adapter import FORMAT, MAX_CONNECTIONS, AudioTurnsAdapter

__all__ = ["LocalBridgedAdapter", "LocalWebRtcAdapter", "audio_turns", "webrtc", "websocket"]

SPEECH_MODEL = "piper-joe"
"""Model of exact speech."""


class LocalWebRtcAdapter:
    """Calls to a local server that ends when it is idle (`agentfield.realtime.provider.DirectAdapter`).

    Args:
        supervisor: Finds or starts the server.
        runtime: Runtime services of the control plane.
        http: Connections, owned by the caller.
    """

    def __init__(self, supervisor: Supervisor, runtime: AdapterRuntime, http: aiohttp.ClientSession) -> None:
        self._supervisor = supervisor
        self._runtime = runtime
        self._http = http

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:
        """Create a call; start the server if none is running.

        Raises:
            InvalidInput: The `options` of the session are invalid.
            SpeechUnavailable: The speech engines are not installed, or do not support this system.
            ProviderError: The server refused.
            ProviderUnavailable: The server did not start, or did not answer in time.
        """
        return await self._at(await self._supervisor.ensure()).negotiate(offer, config)

    async def attach(self, ref: CallRef, config: SessionConfig) -> RealtimeSession:
        """Attach to an existing call; the calls of a server that has ended do not exist any more.

        Raises:
            NotFound: There is no such call.
            ProviderUnavailable: The server did not answer in time.
        """
        provider = await self._supervisor.find()
        if provider is None:
            raise _call_not_found(ref)
        return await self._at(provider).attach(ref, config)

    async def hang_up(self, ref: CallRef) -> None:
        """End the call; succeed if it has ended already.

        Raises:
            ProviderUnavailable: The server did not answer in time.
        """
        provider = await self._supervisor.find()
        if provider is not None:
            await self._at(provider).hang_up(ref)

    def _at(self, provider: RealtimeProvider) -> WebRtcAdapter:
        return WebRtcAdapter(provider, CallsClient(provider, self._http), self._runtime.logger, self._runtime.clock)


class LocalBridgedAdapter:
    """Sessions at a local server that ends when it is idle (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        supervisor: Finds or starts the server.
        formats: The formats that a session can be opened with.
        at: Returns the adapter of a server.
    """

    def __init__(
        self, supervisor: Supervisor, formats: Sequence[AudioFormat], at: Callable[[RealtimeProvider], BridgedAdapter]
    ) -> None:
        self._supervisor = supervisor
        self._formats = tuple(formats)
        self._at = at

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The formats that a session can be opened with, the best one first."""
        return self._formats

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ProviderSession:
        """Open a new, empty session; start the server if none is running.

        Raises:
            InvalidInput: The `options` of the session are invalid.
            SpeechUnavailable: The speech engines are not installed, or do not support this system.
            ProviderError: The server refused.
            ProviderUnavailable: The server did not start, or did not answer in time.
        """
        return await self._at(await self._supervisor.ensure()).open(config, audio)


@asynccontextmanager
async def webrtc(runtime: AdapterRuntime) -> AsyncIterator[WebRtcAdapter | LocalWebRtcAdapter]:
    """Yield the adapter of `local/webrtc`, for the server at AGENTFIELD_LOCAL_URL, or else a supervised one.

    Args:
        runtime: Runtime services of the control plane.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not a usable address.
        SpeechUnavailable: The speech engines are not installed, or do not support this system.
        ProviderUnavailable: The server did not start.
    """
    async with http_session() as http:
        if runtime.base_url:
            provider = _configured_provider(runtime)
            yield WebRtcAdapter(provider, CallsClient(provider, http), runtime.logger, runtime.clock)
            return
        async with _supervised(runtime, http) as supervisor:
            yield LocalWebRtcAdapter(supervisor, runtime, http)


@asynccontextmanager
async def websocket(runtime: AdapterRuntime) -> AsyncIterator[BridgedAdapter]:
    """Yield the adapter of `local/websocket`, for the server at AGENTFIELD_LOCAL_URL, or else a supervised one.

    Args:
        runtime: Runtime services of the control plane.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not a usable address.
        SpeechUnavailable: The speech engines are not installed, or do not support this system.
        ProviderUnavailable: The server did not start.
    """
    async with http_session() as http:

        def at(provider: RealtimeProvider) -> WebSocketAdapter:
            return WebSocketAdapter(provider, http, runtime.logger, runtime.clock, speech_model=SPEECH_MODEL)

        if runtime.base_url:
            yield at(_configured_provider(runtime))
            return
        async with _supervised(runtime, http) as supervisor:
            yield LocalBridgedAdapter(supervisor, FORMATS, at)


@asynccontextmanager
async def audio_turns(runtime: AdapterRuntime) -> AsyncIterator[BridgedAdapter]:
    """Yield the adapter of `local/audio_turns`, for the server at AGENTFIELD_LOCAL_URL, or else a supervised one.

    A supervised server that has ended between two turns of a session is started again.

    Args:
        runtime: Runtime services of the control plane.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not a usable address.
        SpeechUnavailable: The speech engines are not installed, or do not support this system.
        ProviderUnavailable: The server did not start.
    """
    if runtime.base_url:
        async with http_session(MAX_CONNECTIONS) as http:
            yield AudioTurnsAdapter(
                _configured_provider(runtime), http, runtime.logger, runtime.clock, words_first=True
            )
        return
    async with (
        http_session() as supervisor_http,
        _supervised(runtime, supervisor_http) as supervisor,
        reconnecting_session(supervisor) as http,
    ):

        def at(provider: RealtimeProvider) -> AudioTurnsAdapter:
            return AudioTurnsAdapter(provider, http, runtime.logger, runtime.clock, words_first=True)

        yield LocalBridgedAdapter(supervisor, (FORMAT,), at)


@asynccontextmanager
async def _supervised(runtime: AdapterRuntime, http: aiohttp.ClientSession) -> AsyncIterator[Supervisor]:
    """Yield a supervisor whose server is running."""
    supervisor = Supervisor(runtime, http)
    try:
        await supervisor.ensure()
        yield supervisor
    finally:
        await supervisor.close()


def _configured_provider(runtime: AdapterRuntime) -> RealtimeProvider:
    """Return the configured server."""
    url = check_base_url(runtime.base_url, "AGENTFIELD_LOCAL_URL").removesuffix("/v1")
    return local_provider(f"{url}/v1", None if runtime.key is None else runtime.key.get_secret_value())


def _call_not_found(ref: CallRef) -> NotFound:
    return call_not_found(local_provider("", None), ref.get("call_id", ""))
