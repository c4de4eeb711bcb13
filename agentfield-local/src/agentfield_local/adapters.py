"""The `local/*` adapters: those of `openai` and `openrouter`, pointed at a server that is found or started when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.network import check_base_url
from agentfield.errors import NotFound
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, Answer, BridgedAdapter, CallRef, ProviderSession
from agentfield_local.following import following_session
from agentfield_local.supervisor import Supervisor, local_provider
from agentfield_openai.account import RealtimeProvider
from agentfield_openai.calls import Calls
from agentfield_openai.refusals import call_not_found
from agentfield_openai.webrtc import RealtimeSession, WebRtcAdapter
from agentfield_openai.websocket import FORMATS, WebSocketAdapter
from agentfield_openrouter.turns import CONNECTIONS, FORMAT, TurnsAdapter

__all__ = ["LocalBridgedAdapter", "LocalWebRtcAdapter", "audio_turns", "webrtc", "websocket"]

SPEECH_MODEL = "piper-joe"
"""What speaks an exact say."""


class LocalWebRtcAdapter:
    """Calls to a local server that may end when nobody uses it (`agentfield.realtime.provider.DirectAdapter`).

    Args:
        supervisor: Finds or starts the server.
        runtime: What the control plane gives to adapters.
        http: Connections, owned by the caller.
    """

    def __init__(self, supervisor: Supervisor, runtime: AdapterRuntime, http: aiohttp.ClientSession) -> None:
        self._supervisor = supervisor
        self._runtime = runtime
        self._http = http

    async def negotiate(self, offer: str, config: SessionConfig) -> Answer:
        """Create a call, starting the server if there is none.

        Raises:
            InvalidInput: The session's `options` do not fit.
            SpeechUnavailable: The speech engines are not installed, or not for this system.
            ProviderError: The server refused.
            ProviderUnavailable: It did not get ready, or did not answer in time.
        """
        return await self._at(await self._supervisor.ensure()).negotiate(offer, config)

    async def attach(self, ref: CallRef, config: SessionConfig) -> RealtimeSession:
        """Attach to a call that exists; a server that has ended took its calls with it.

        Raises:
            NotFound: There is no such call (any more).
            ProviderUnavailable: The server did not answer in time.
        """
        provider = await self._supervisor.find()
        if provider is None:
            raise _gone(ref)
        return await self._at(provider).attach(ref, config)

    async def hang_up(self, ref: CallRef) -> None:
        """End the call; one that is over already is a success.

        Raises:
            ProviderUnavailable: The server did not answer in time.
        """
        provider = await self._supervisor.find()
        if provider is not None:
            await self._at(provider).hang_up(ref)

    def _at(self, provider: RealtimeProvider) -> WebRtcAdapter:
        return WebRtcAdapter(provider, Calls(provider, self._http), self._runtime.logger, self._runtime.clock)


class LocalBridgedAdapter:
    """Sessions at a local server that may end when nobody uses it (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        supervisor: Finds or starts the server.
        formats: The formats that a session can be opened with.
        at: Returns the adapter for a server.
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
        """Open a new, empty session, starting the server if there is none.

        Raises:
            InvalidInput: The session's `options` do not fit.
            SpeechUnavailable: The speech engines are not installed, or not for this system.
            ProviderError: The server refused.
            ProviderUnavailable: It did not get ready, or did not answer in time.
        """
        return await self._at(await self._supervisor.ensure()).open(config, audio)


@asynccontextmanager
async def webrtc(runtime: AdapterRuntime) -> AsyncIterator[WebRtcAdapter | LocalWebRtcAdapter]:
    """Yield the adapter of `local/webrtc`: at AGENTFIELD_LOCAL_URL if that is set, else at a server of our own.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not an address that can be used.
        SpeechUnavailable: The speech engines are not installed, or not for this system.
        ProviderUnavailable: The server did not get ready.
    """
    async with http_session() as http:
        if runtime.base_url:
            provider = _declared(runtime)
            yield WebRtcAdapter(provider, Calls(provider, http), runtime.logger, runtime.clock)
            return
        async with _supervised(runtime, http) as supervisor:
            yield LocalWebRtcAdapter(supervisor, runtime, http)


@asynccontextmanager
async def websocket(runtime: AdapterRuntime) -> AsyncIterator[BridgedAdapter]:
    """Yield the adapter of `local/websocket`: at AGENTFIELD_LOCAL_URL if that is set, else at a server of our own.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not an address that can be used.
        SpeechUnavailable: The speech engines are not installed, or not for this system.
        ProviderUnavailable: The server did not get ready.
    """
    async with http_session() as http:

        def at(provider: RealtimeProvider) -> WebSocketAdapter:
            return WebSocketAdapter(provider, http, runtime.logger, runtime.clock, speech_model=SPEECH_MODEL)

        if runtime.base_url:
            yield at(_declared(runtime))
            return
        async with _supervised(runtime, http) as supervisor:
            yield LocalBridgedAdapter(supervisor, FORMATS, at)


@asynccontextmanager
async def audio_turns(runtime: AdapterRuntime) -> AsyncIterator[BridgedAdapter]:
    """Yield the adapter of `local/audio_turns`: at AGENTFIELD_LOCAL_URL if that is set, else at a server of our own.

    A server of our own that has ended between two turns of a session is started again.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: AGENTFIELD_LOCAL_URL is not an address that can be used.
        SpeechUnavailable: The speech engines are not installed, or not for this system.
        ProviderUnavailable: The server did not get ready.
    """
    if runtime.base_url:
        async with http_session(CONNECTIONS) as http:
            yield TurnsAdapter(_declared(runtime), http, runtime.logger, runtime.clock)
        return
    async with (
        http_session() as looking,
        _supervised(runtime, looking) as supervisor,
        following_session(supervisor) as http,
    ):

        def at(provider: RealtimeProvider) -> TurnsAdapter:
            return TurnsAdapter(provider, http, runtime.logger, runtime.clock)

        yield LocalBridgedAdapter(supervisor, (FORMAT,), at)


@asynccontextmanager
async def _supervised(runtime: AdapterRuntime, http: aiohttp.ClientSession) -> AsyncIterator[Supervisor]:
    """Yield a supervisor whose server is there."""
    supervisor = Supervisor(runtime, http)
    try:
        await supervisor.ensure()
        yield supervisor
    finally:
        await supervisor.close()


def _declared(runtime: AdapterRuntime) -> RealtimeProvider:
    """Return the server that the settings name."""
    url = check_base_url(runtime.base_url, "AGENTFIELD_LOCAL_URL").removesuffix("/v1")
    return local_provider(f"{url}/v1", None if runtime.key is None else runtime.key.get_secret_value())


def _gone(ref: CallRef) -> NotFound:
    return call_not_found(local_provider("", None), ref.get("call_id", ""))
