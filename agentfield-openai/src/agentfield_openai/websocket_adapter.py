"""Adapter `openai/websocket`: the control plane carries the audio of the call; every session is one WebSocket."""

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
from agentfield_openai.codec import Codec
from agentfield_openai.exact_say_session import ExactSaySession
from agentfield_openai.options import WebSocketOptions
from agentfield_openai.provider import RealtimeProvider, openai_provider
from agentfield_openai.session import CONFIRM_TIMEOUT, RealtimeSession
from agentfield_openai.socket import RealtimeSocket
from agentfield_openai.speech_endpoint import SpeechEndpoint, SpeechVoice

__all__ = ["FORMATS", "PCM", "SPEECH_MODEL", "WebSocketAdapter", "websocket"]

PCM = AudioFormat("pcm16", 24_000)
FORMATS = (PCM, AudioFormat("pcmu", 8_000), AudioFormat("pcma", 8_000))
"""Audio formats of the protocol, best first."""
SPEECH_MODEL = "gpt-4o-mini-tts"
"""Default text-to-speech model of ``say="exact"``."""


class WebSocketAdapter:
    """Sessions over WebSockets at one provider (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        provider: The service; its `dialect` describes how it differs from OpenAI.
        http: HTTP session for the speech endpoint, owned by the user of this adapter
            (`agentfield.adapterkit.http.http_session`).
        logger: Logger.
        clock: Returns seconds since the epoch.
        confirm_timeout: Seconds within which the provider must confirm the configuration.
        speech_model: Text-to-speech model of ``say="exact"`` if the `options` of the session name none.
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
        """Formats that a session can be opened with, best first; ``say="exact"`` needs the first."""
        return FORMATS

    async def open(self, config: SessionConfig, audio: AudioFormat) -> RealtimeSession | ExactSaySession:
        """Open a new, empty session, configured before any audio.

        Args:
            config: The frozen configuration.
            audio: Format of both directions, one of `formats`.

        Raises:
            CapabilityMissing: The format is not supported, or not together with ``say="exact"``.
            InvalidInput: The `options` of the session are invalid.
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: The provider did not answer in time.
        """
        self._check(config, audio)
        codec = Codec(config, audio=audio, dialect=self._provider.dialect)
        speech = self._speech(config, codec) if config.declaration.say == "exact" else None
        socket = RealtimeSocket.conversation(self._provider, config.model, self._logger, safety_id=config.safety_id)
        await socket.open()
        session = RealtimeSession(self._provider, codec, socket, self._clock, socket.close, reattachable=False)
        try:
            await session.configure(self._confirm_timeout)
        except BaseException:
            await session.close()
            raise
        return session if speech is None else ExactSaySession(session, codec, speech, audio)

    def _check(self, config: SessionConfig, audio: AudioFormat) -> None:
        known = ", ".join(each.name for each in FORMATS)
        if audio not in FORMATS:
            raise CapabilityMissing(
                f"{self._provider.title} supports {known} over its WebSocket, not {audio.name} with "
                f"{audio.channels} channel(s).",
                hint=f"open the session with {PCM.name} and convert",
            )
        if config.declaration.say == "exact" and audio != PCM:
            raise CapabilityMissing(
                f"say='exact' speaks {PCM.name}, but session {config.target} would be opened with {audio.name}.",
                hint=f"open the session with {PCM.name} and convert, or leave out say='exact'",
            )

    def _speech(self, config: SessionConfig, codec: Codec) -> SpeechEndpoint:
        options = codec.options
        chosen = options if isinstance(options, WebSocketOptions) else WebSocketOptions()
        voice = chosen.speech_voice or config.voice
        if voice is None:
            raise InvalidInput(
                f"say='exact' of session {config.target} needs a voice, and none is named.",
                code="voice_required",
                hint="declare voice=..., or options={'speech_voice': ...}",
                field="voice",
            )
        model = chosen.speech_model or self._speech_model
        return SpeechEndpoint(
            self._provider,
            self._http,
            SpeechVoice(model, voice, instructions=chosen.speech_instructions, speed=chosen.speed),
        )


@asynccontextmanager
async def websocket(runtime: AdapterRuntime) -> AsyncIterator[WebSocketAdapter]:
    """Yield the adapter of `openai/websocket`.

    Args:
        runtime: Services of the control plane for adapters.

    Raises:
        InvalidInput: OPENAI_BASE_URL is not a usable address.
    """
    provider = openai_provider(runtime)
    async with http_session() as http:
        yield WebSocketAdapter(provider, http, runtime.logger, runtime.clock)
