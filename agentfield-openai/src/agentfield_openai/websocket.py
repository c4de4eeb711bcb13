"""The `openai/websocket` adapter: the control plane carries the call's audio, and every session is a socket of its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime
from agentfield_openai.account import RealtimeProvider, openai_account
from agentfield_openai.codec import Codec
from agentfield_openai.exact import ExactSession
from agentfield_openai.options import WebSocketOptions
from agentfield_openai.session import CONFIRM_TIMEOUT, RealtimeSession
from agentfield_openai.socket import RealtimeSocket
from agentfield_openai.speech import Speech, Voice

__all__ = ["FORMATS", "PCM", "SPEECH_MODEL", "WebSocketAdapter", "websocket"]

PCM = AudioFormat("pcm16", 24_000)
FORMATS = (PCM, AudioFormat("pcmu", 8_000), AudioFormat("pcma", 8_000))
"""What the protocol takes and gives, the best one first."""
SPEECH_MODEL = "gpt-4o-mini-tts"
"""What speaks an exact say when the session's `options` name nothing else."""


class WebSocketAdapter:
    """Sessions over WebSockets at one provider (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        provider: Whom to talk to; its `dialect` says how it differs from OpenAI.
        http: Connections for the speech endpoint, owned by the caller (`agentfield.adapterkit.http.http_session`).
        logger: Where to report.
        clock: Seconds since the epoch.
        confirm_timeout: Seconds that the provider has to confirm the configuration.
        speech_model: What speaks an exact say when the session's `options` name nothing else.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        http: aiohttp.ClientSession,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        confirm_timeout: float = CONFIRM_TIMEOUT,
        speech_model: str = SPEECH_MODEL,
    ) -> None:
        self._provider = provider
        self._http = http
        self._logger = logger
        self._clock = clock
        self._confirm_timeout = confirm_timeout
        self._speech_model = speech_model

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The formats that a session can be opened with, the best one first; an exact say needs the first."""
        return FORMATS

    async def open(self, config: SessionConfig, audio: AudioFormat) -> RealtimeSession | ExactSession:
        """Open a new, empty session, configured before any audio.

        Args:
            config: The frozen configuration.
            audio: The format of both directions, one of `formats`.

        Raises:
            CapabilityMissing: The format cannot be had, or not together with ``say="exact"``.
            InvalidInput: The session's `options` do not fit.
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: It did not answer in time.
        """
        self._check(config, audio)
        codec = Codec(config, audio=audio, dialect=self._provider.dialect)
        speech = self._speech(config, codec) if config.declaration.say == "exact" else None
        socket = RealtimeSocket.conversation(self._provider, config.model, self._logger, safety_id=config.safety_id)
        await socket.open()
        session = RealtimeSession(self._provider, codec, socket, self._clock, socket.close, outlives=False)
        try:
            await session.configure(self._confirm_timeout)
        except BaseException:
            await session.close()
            raise
        return session if speech is None else ExactSession(session, codec, speech, audio)

    def _check(self, config: SessionConfig, audio: AudioFormat) -> None:
        known = ", ".join(each.name for each in FORMATS)
        if audio not in FORMATS:
            raise CapabilityMissing(
                f"{self._provider.title} takes and gives {known} over its WebSocket, not {audio.name} with "
                f"{audio.channels} channel(s).",
                hint=f"open the session with {PCM.name} and convert",
            )
        if config.declaration.say == "exact" and audio != PCM:
            raise CapabilityMissing(
                f"say='exact' speaks {PCM.name}, and session {config.target} is to be opened with {audio.name}.",
                hint=f"open the session with {PCM.name} and convert, or leave out say='exact'",
            )

    def _speech(self, config: SessionConfig, codec: Codec) -> Speech:
        options = codec.options
        chosen = options if isinstance(options, WebSocketOptions) else WebSocketOptions()
        voice = chosen.speech_voice or config.voice
        if voice is None:
            raise InvalidInput(
                f"say='exact' of session {config.target} needs a voice and none is named.",
                code="voice_required",
                hint="declare voice=..., or options={'speech_voice': ...}",
                field="voice",
            )
        model = chosen.speech_model or self._speech_model
        return Speech(
            self._provider, self._http, Voice(model, voice, instructions=chosen.speech_instructions, speed=chosen.speed)
        )


@asynccontextmanager
async def websocket(runtime: AdapterRuntime) -> AsyncIterator[WebSocketAdapter]:
    """Yield the adapter of `openai/websocket`.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not an address that can be used.
    """
    provider = openai_account(runtime)
    async with http_session() as http:
        yield WebSocketAdapter(provider, http, runtime.logger, runtime.clock)
