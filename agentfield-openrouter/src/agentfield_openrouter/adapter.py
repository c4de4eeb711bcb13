"""Adapter `openrouter/audio_turns`: recorded turns in, streamed completions out; the provider keeps no state."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.urls import check_base_url
from agentfield.errors import CapabilityMissing
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime
from agentfield_openrouter.history import ConversationHistory
from agentfield_openrouter.http_client import CompletionsClient, Timeouts
from agentfield_openrouter.reply import ServingUpstream, SessionResources
from agentfield_openrouter.request_builder import RequestBuilder
from agentfield_openrouter.session import AudioTurnsSession

__all__ = ["FORMAT", "MAX_CONNECTIONS", "AudioTurnsAdapter", "audio_turns"]

FORMAT = AudioFormat("pcm16", 24_000)
"""Format of both directions."""
MAX_CONNECTIONS = 256
"""Most concurrent requests; a session uses one for its reply, one per transcription, and sometimes one for a cost."""


class AudioTurnsAdapter:
    """Audio turns at one provider (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        provider: The service.
        http: HTTP session, owned by the user of this adapter (`agentfield.adapterkit.http.http_session`).
        logger: Logger.
        clock: Returns seconds since the epoch.
        pinned: Whether the provider is a router: then it is told not to route, names of routers are refused, and a
            change of the serving model or upstream ends the session.
        timeouts: Time limits.
        words_first: Whether a reply is requested after the transcript of the turn that it answers, and only if that has
            words: for a server that transcribes before it answers, so that waiting costs no time.
    """

    def __init__(
        self,
        provider: ProviderEndpoint,
        http: aiohttp.ClientSession,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        pinned: bool = True,
        timeouts: Timeouts | None = None,
        words_first: bool = False,
    ) -> None:
        self._completions = CompletionsClient(provider, http, timeouts or Timeouts())
        self._logger = logger
        self._clock = clock
        self._pinned = pinned
        self._words_first = words_first

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """Formats that a session can be opened with, best first."""
        return (FORMAT,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> AudioTurnsSession:
        """Open a new, empty session; the first request to the provider is that of the first turn.

        Args:
            config: The frozen configuration.
            audio: Format of both directions, one of `formats`.

        Raises:
            CapabilityMissing: The format is not supported.
            InvalidInput: The `options` or the model of the session are invalid.
            ProviderError: There is no key.
        """
        if audio not in self.formats:
            raise CapabilityMissing(
                f"{audio.name} is not a format of audio turns.", hint=f"open the session with {FORMAT.name} and convert"
            )
        self._completions.provider.bearer()
        requests = RequestBuilder(config, rate=audio.rate, pinned=self._pinned)
        conversation = SessionResources(
            requests,
            self._completions,
            ConversationHistory(requests.options.audio_history),
            ServingUpstream(pinned=self._pinned),
            audio,
            self._logger,
        )
        return AudioTurnsSession(config, conversation, _new_id, words_first=self._words_first)


def _new_id(kind: str) -> str:
    """Return a new id for a turn or a reply; the provider assigns none."""
    return f"{kind}_{uuid4().hex[:24]}"


@asynccontextmanager
async def audio_turns(runtime: AdapterRuntime) -> AsyncIterator[AudioTurnsAdapter]:
    """Yield the adapter of `openrouter/audio_turns`.

    Args:
        runtime: Services of the control plane for adapters.

    Raises:
        InvalidInput: OPENROUTER_BASE_URL is not a usable address.
    """
    provider = ProviderEndpoint(
        title="OpenRouter",
        base_url=check_base_url(runtime.base_url, "OPENROUTER_BASE_URL", example="https://openrouter.ai/api/v1"),
        key=runtime.key,
        key_setting="OPENROUTER_API_KEY",
        url_setting="OPENROUTER_BASE_URL",
    )
    async with http_session(MAX_CONNECTIONS) as http:
        yield AudioTurnsAdapter(provider, http, runtime.logger, runtime.clock)
