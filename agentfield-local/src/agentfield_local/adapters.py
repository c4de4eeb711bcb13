"""The `local/*` adapters: those of the Realtime protocol, pointed at a server that is found or started when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from agentfield.errors import NotFound
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, Answer, CallRef
from agentfield_local.supervisor import Supervisor, local_provider
from agentfield_openai.calls import Calls, http_session
from agentfield_openai.network import check_base_url
from agentfield_openai.refusals import Provider, call_not_found
from agentfield_openai.webrtc import RealtimeSession, WebRtcAdapter

__all__ = ["LocalWebRtcAdapter", "webrtc"]


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

    def _at(self, provider: Provider) -> WebRtcAdapter:
        return WebRtcAdapter(provider, Calls(provider, self._http), self._runtime.logger, self._runtime.clock)


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
            url = check_base_url(runtime.base_url, "AGENTFIELD_LOCAL_URL").removesuffix("/v1")
            key = None if runtime.key is None else runtime.key.get_secret_value()
            provider = local_provider(f"{url}/v1", key)
            yield WebRtcAdapter(provider, Calls(provider, http), runtime.logger, runtime.clock)
            return
        supervisor = Supervisor(runtime, http)
        try:
            await supervisor.ensure()
            yield LocalWebRtcAdapter(supervisor, runtime, http)
        finally:
            await supervisor.close()


def _gone(ref: CallRef) -> NotFound:
    return call_not_found(local_provider("", None), ref.get("call_id", ""))
