"""Adapter `openai/webrtc`: media flows between caller and provider; the control plane holds the key and the sideband."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agentfield.adapterkit.http import http_session
from agentfield.errors import InvalidInput, NotFound
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, CallRef, SdpAnswer
from agentfield_openai.calls import CallsClient
from agentfield_openai.codec import Codec
from agentfield_openai.provider import RealtimeProvider, openai_provider
from agentfield_openai.session import CONFIRM_TIMEOUT, RealtimeSession
from agentfield_openai.socket import RealtimeSocket

__all__ = ["RealtimeSession", "WebRtcAdapter", "webrtc"]


class WebRtcAdapter:
    """Calls over WebRTC at one provider (`agentfield.realtime.provider.DirectAdapter`).

    Args:
        provider: The service.
        calls: HTTP client of its calls.
        logger: Logger.
        clock: Returns seconds since the epoch.
        confirm_timeout: Seconds within which the provider must confirm the configuration after an attachment.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        calls: CallsClient,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        confirm_timeout: float = CONFIRM_TIMEOUT,
    ) -> None:
        self._provider = provider
        self._calls = calls
        self._logger = logger
        self._clock = clock
        self._confirm_timeout = confirm_timeout

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:
        """Create the call at the provider with the standard key.

        Raises:
            InvalidInput: The `options` of the session are invalid.
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: The provider did not answer in time.
        """
        payload = Codec(config).session_payload()
        call = await self._calls.create(offer, payload, safety_id=config.safety_id)
        return SdpAnswer(sdp=call.sdp, ref={"call_id": call.call_id})

    async def attach(self, ref: CallRef, config: SessionConfig) -> RealtimeSession:
        """Attach to an existing call, also after a restart of the control plane.

        Raises:
            InvalidInput: `ref` holds no call id, or the `options` of the session are invalid.
            NotFound: The provider does not know the call, or not any more.
            ProviderError: The provider refused the attachment or our configuration.
            ProviderUnavailable: The provider did not answer in time.
        """
        call_id = _call_id(ref)
        codec = Codec(config, dialect=self._provider.dialect)
        socket = RealtimeSocket.call(self._provider, call_id, self._logger)
        await socket.open()
        session = RealtimeSession(
            self._provider, codec, socket, self._clock, lambda: self._calls.hang_up(call_id), reattachable=True
        )
        try:
            await session.configure(self._confirm_timeout)
        except BaseException:
            await session.close()
            raise
        return session

    async def hang_up(self, ref: CallRef) -> None:
        """End the call at the provider; succeeds if the call has already ended.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """
        try:
            await self._calls.hang_up(_call_id(ref))
        except NotFound:
            return


def _call_id(ref: CallRef) -> str:
    call_id = ref.get("call_id")
    if not call_id:
        raise InvalidInput("The reference holds no call_id.", code="invalid_call_ref", field="call_id")
    return call_id


@asynccontextmanager
async def webrtc(runtime: AdapterRuntime) -> AsyncIterator[WebRtcAdapter]:
    """Yield the adapter of `openai/webrtc`.

    Args:
        runtime: Services of the control plane for adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not a usable address.
    """
    provider = openai_provider(runtime)
    async with http_session() as http:
        yield WebRtcAdapter(provider, CallsClient(provider, http), runtime.logger, runtime.clock)
