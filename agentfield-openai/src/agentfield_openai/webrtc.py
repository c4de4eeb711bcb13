"""The `openai/webrtc` adapter: media flows between caller and provider, the control plane holds the key and the sideband."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agentfield.errors import AgentFieldError, InvalidInput, NotFound, ProviderError
from agentfield.realtime.commands import Command, End
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event, SessionClosed, Warned
from agentfield.realtime.provider import AdapterRuntime, Answer, CallRef
from agentfield_openai.calls import Calls, http_session
from agentfield_openai.codec import Codec
from agentfield_openai.network import check_base_url
from agentfield_openai.refusals import Provider
from agentfield_openai.socket import Dropped, Sideband

__all__ = ["RealtimeSession", "WebRtcAdapter", "webrtc"]

_CONFIRM_TIMEOUT = 5.0
_MAX_REATTACH = 5
_REATTACH_WINDOW = 60.0


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
        provider: Provider,
        calls: Calls,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        confirm_timeout: float = _CONFIRM_TIMEOUT,
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
        codec = Codec(config)
        sideband = Sideband(self._provider, call_id, self._logger)
        await sideband.open()
        session = RealtimeSession(self._provider, codec, sideband, self._clock, lambda: self._calls.hang_up(call_id))
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


class RealtimeSession:
    """One attached call (`agentfield.realtime.provider.ProviderSession`).

    It has no task of its own: whoever iterates `events` drives it, a dropped sideband included.

    Args:
        provider: Whom it is with.
        codec: The translation of this call.
        sideband: The open connection.
        clock: Seconds since the epoch.
        hang_up: Ends the call at the provider.
    """

    def __init__(
        self,
        provider: Provider,
        codec: Codec,
        sideband: Sideband,
        clock: Callable[[], float],
        hang_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._codec = codec
        self._sideband = sideband
        self._clock = clock
        self._hang_up = hang_up
        self._sending = asyncio.Lock()
        self._early: deque[Event] = deque()
        self._reattached: deque[float] = deque(maxlen=_MAX_REATTACH)

    async def configure(self, timeout: float) -> None:  # noqa: ASYNC109 - passing it is not a failure
        """Send our configuration and wait for the provider's word on it; what happens meanwhile is kept for `events`.

        Raises:
            ProviderError: The provider refused it.
            ProviderUnavailable: The connection went away.
        """
        await self._sideband.send_now(self._codec.join())
        try:
            async with asyncio.timeout(timeout):
                while not self._codec.configured and self._codec.refused is None and not self._codec.ended:
                    self._early.extend(self._decode(await self._sideband.receive(), self._clock()))
        except TimeoutError:
            message = f"{self._provider.title} did not confirm the configuration within {timeout:g} s."
            self._early.append(Warned(code="configuration_unconfirmed", message=message))
        except Dropped:
            return  # `events` attaches again, or says that it is over
        if self._codec.refused is not None:
            fault = self._codec.refused
            raise ProviderError(
                f"{self._provider.title} refused the session's configuration ({fault.code}): {fault.message}",
                hint="check options=, turn_detection=, transcription= and voice= of the session's declaration",
                provider_code=fault.code,
            )
        self._early.extend(self._codec.assume_ready())

    async def send(self, command: Command) -> None:
        """Do `command`; returns when it is on its way.

        Raises:
            CapabilityMissing: The pair cannot do it.
            InvalidInput: A reply names a tool that the session does not declare.
            ProviderUnavailable: The provider's end is gone.
        """
        if isinstance(command, End):
            await self._hang_up()
            return
        async with self._sending:
            for event in self._codec.encode(command):
                await self._sideband.send(event)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, in order; the last one is `SessionClosed`. May be iterated once."""
        while self._early:
            yield self._early.popleft()
        while not self._codec.ended:
            for event in await self._next():
                yield event
        await self._sideband.close()

    async def close(self) -> None:
        """Let go of the session without ending it; idempotent."""
        await self._sideband.close()

    async def _next(self) -> list[Event]:
        due = self._codec.due()
        wait = None if due is None else max(0.0, due - self._clock())
        try:
            frame = await self._sideband.receive(wait)
        except Dropped as dropped:
            return await self._dropped(dropped)
        return self._decode(frame, self._clock())

    def _decode(self, frame: str | bytes | None, now: float) -> list[Event]:
        return self._codec.tick(now) if frame is None else self._codec.decode(frame, now)

    async def _dropped(self, dropped: Dropped) -> list[Event]:
        now = self._clock()
        flapping = len(self._reattached) == _MAX_REATTACH and now - self._reattached[0] < _REATTACH_WINDOW
        if self._sideband.closed() or not dropped.comes_back:
            return self._codec.close(SessionClosed(reason="closed"))
        if flapping:
            message = f"The sideband was lost {_MAX_REATTACH} times within {_REATTACH_WINDOW:g} s."
            return self._codec.close(SessionClosed(reason="provider_error", message=message))
        self._reattached.append(now)
        try:
            await self._sideband.reopen()
        except NotFound:
            return self._codec.close(SessionClosed(reason="closed"))
        except AgentFieldError as error:
            if self._sideband.closed():
                return self._codec.close(SessionClosed(reason="closed"))
            return self._codec.close(SessionClosed(reason="provider_error", message=error.message))
        events = self._codec.reattached(self._clock())
        await self._sideband.send_now(self._codec.join())  # if it dropped again, the next read says so
        return events


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
    provider = Provider(
        title="OpenAI",
        base_url=check_base_url(runtime.base_url, "OPENAI_BASE_URL"),
        key=runtime.key,
        key_setting="OPENAI_API_KEY",
        url_setting="OPENAI_BASE_URL",
    )
    async with http_session() as http:
        yield WebRtcAdapter(provider, Calls(provider, http), runtime.logger, runtime.clock)
