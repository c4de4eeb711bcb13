"""The `openai/webrtc` adapter: media flows between caller and provider, the control plane holds the key and the sideband."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agentfield.adapterkit.http import http_session
from agentfield.errors import InvalidInput, NotFound
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime, Answer, CallRef
from agentfield_openai.account import RealtimeProvider, openai_account
from agentfield_openai.calls import Calls
from agentfield_openai.codec import Codec
from agentfield_openai.session import CONFIRM_TIMEOUT, RealtimeSession
from agentfield_openai.socket import RealtimeSocket

__all__ = ["RealtimeSession", "WebRtcAdapter", "webrtc"]


class WebRtcAdapter:
    """Calls over WebRTC at one provider (`agentfield.realtime.provider.DirectAdapter`).

    Args:
        provider: Whom to talk to.
        calls: Its HTTP side.
        logger: Where to report.
        clock: Seconds since the epoch.
        confirm_timeout: Seconds that the provider has to confirm the configuration after an attachment.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        calls: Calls,
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

    async def negotiate(self, offer: str, config: SessionConfig) -> Answer:
        """Create the call at the provider with the standard key.

        Raises:
            InvalidInput: The session's `options` do not fit.
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: It did not answer in time.
        """
        payload = Codec(config).session_payload()
        call = await self._calls.create(offer, payload, safety_id=config.safety_id)
        return Answer(sdp=call.sdp, ref={"call_id": call.call_id})

    async def attach(self, ref: CallRef, config: SessionConfig) -> RealtimeSession:
        """Attach to a call that exists, also after a restart.

        Raises:
            InvalidInput: `ref` names no call, or the session's `options` do not fit.
            NotFound: The provider has no such call (any more).
            ProviderError: The provider refused us or our configuration.
            ProviderUnavailable: It did not answer in time.
        """
        call_id = _call_id(ref)
        codec = Codec(config, dialect=self._provider.dialect)
        socket = RealtimeSocket.call(self._provider, call_id, self._logger)
        await socket.open()
        session = RealtimeSession(
            self._provider, codec, socket, self._clock, lambda: self._calls.hang_up(call_id), outlives=True
        )
        try:
            await session.configure(self._confirm_timeout)
        except BaseException:
            await session.close()
            raise
        return session

    async def hang_up(self, ref: CallRef) -> None:
        """End the call at the provider; a call that is over already is a success.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time.
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
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not an address that can be used.
    """
    provider = openai_account(runtime)
    async with http_session() as http:
        yield WebRtcAdapter(provider, Calls(provider, http), runtime.logger, runtime.clock)
