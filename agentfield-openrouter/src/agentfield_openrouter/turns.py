"""The `openrouter/audio_turns` adapter: recorded turns in, streamed completions out, nothing kept at the provider."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.adapterkit.network import check_base_url
from agentfield.adapterkit.provider import Provider
from agentfield.errors import CapabilityMissing
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.provider import AdapterRuntime
from agentfield_openrouter.answer import Conversation, Upstream
from agentfield_openrouter.chat import Requests
from agentfield_openrouter.history import History
from agentfield_openrouter.http import Completions, Times
from agentfield_openrouter.session import TurnsSession

__all__ = ["CONNECTIONS", "FORMAT", "TurnsAdapter", "audio_turns"]

FORMAT = AudioFormat("pcm16", 24_000)
"""The format of both directions."""
CONNECTIONS = 256
"""Most requests at a time: a session has one for its answer, one for words and now and then one for a cost."""


class TurnsAdapter:
    """Audio turns at one provider (`agentfield.realtime.provider.BridgedAdapter`).

    Args:
        provider: Whom to talk to.
        http: Connections, owned by the caller (`agentfield.adapterkit.http.http_session`).
        logger: Where to report.
        clock: Seconds since the epoch.
        pinned: Whether the provider is one that routes: it is told to choose nothing by itself, names of routers are
            refused, and a change of who answers ends the session.
        times: How long things may take.
    """

    def __init__(
        self,
        provider: Provider,
        http: aiohttp.ClientSession,
        logger: logging.Logger,
        clock: Callable[[], float],
        *,
        pinned: bool = True,
        times: Times | None = None,
    ) -> None:
        self._completions = Completions(provider, http, times or Times())
        self._logger = logger
        self._clock = clock
        self._pinned = pinned

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The formats that a session can be opened with, the best one first."""
        return (FORMAT,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> TurnsSession:
        """Open a new, empty session; the provider hears of it with the first turn.

        Args:
            config: The frozen configuration.
            audio: The format of both directions, one of `formats`.

        Raises:
            CapabilityMissing: The format is none of ours.
            InvalidInput: The session's `options` or its model do not fit.
            ProviderError: There is no key.
        """
        if audio not in self.formats:
            raise CapabilityMissing(
                f"{audio.name} is no format of audio turns.", hint=f"open the session with {FORMAT.name} and convert"
            )
        self._completions.provider.bearer()
        requests = Requests(config, rate=audio.rate, pinned=self._pinned)
        conversation = Conversation(
            requests,
            self._completions,
            History(requests.options.audio_history),
            Upstream(pinned=self._pinned),
            audio,
            self._logger,
        )
        return TurnsSession(config, conversation, new_name)


def new_name(kind: str) -> str:
    """Return a new identifier for a turn or a reply; the provider has none of its own."""
    return f"{kind}_{uuid4().hex[:24]}"


@asynccontextmanager
async def audio_turns(runtime: AdapterRuntime) -> AsyncIterator[TurnsAdapter]:
    """Yield the adapter of `openrouter/audio_turns`.

    Args:
        runtime: What the control plane gives to adapters.

    Raises:
        InvalidInput: OPENROUTER_BASE_URL is not an address that can be used.
    """
    provider = Provider(
        title="OpenRouter",
        base_url=check_base_url(runtime.base_url, "OPENROUTER_BASE_URL", example="https://openrouter.ai/api/v1"),
        key=runtime.key,
        key_setting="OPENROUTER_API_KEY",
        url_setting="OPENROUTER_BASE_URL",
    )
    async with http_session(CONNECTIONS) as http:
        yield TurnsAdapter(provider, http, runtime.logger, runtime.clock)
