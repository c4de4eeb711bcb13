"""A provider whose model answers by itself, in the installation of `bridged_calls`: formats, handle and silence of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentfield import Agent
from agentfield.errors import NotFound
from agentfield.plugins import Capabilities, Catalog, Manifest, ModelSpec, PairSpec, ProviderSpec, Registry, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import ReplyAudio, ReplyEnded, ReplyStarted, SessionReady
from agentfield.realtime.provider import AdapterRuntime
from support.server.sessions import Provider
from support.waiting import until

__all__ = ["HEARS", "SPEAKS", "LiveAdapter", "LiveModelPlugin", "LiveSession", "live_adapter", "live_agent"]

HEARS, SPEAKS = AudioFormat("pcm16", 16000), AudioFormat("pcm16", 24000)
_ADAPTERS: list[LiveAdapter] = []

CAPABILITIES = Capabilities(
    floors=frozenset({"model"}),
    turn_detection=frozenset({"server_vad", "manual"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="final",
    agent_transcript="final",
    transcription="own",
    interruption="server",
    answers_after=frozenset({"turn", "commit", "tool_result"}),
    begins_turns=True,
    text_input=True,
    resumption="handle",
    limits=frozenset({"duration", "idle"}),
    formats=frozenset({HEARS.name}),
    output_formats=frozenset({SPEAKS.name}),
    echoes=frozenset(),
)


class LiveSession(Provider):
    """A session of the provider."""

    output_format = SPEAKS

    def __init__(self, call: str, handle: str | None) -> None:
        super().__init__(call)
        self.handle = handle
        """The handle that it was resumed by."""
        self.tell(SessionReady())

    def answers(self, reply: str, ms: float, *, whole: bool = True, text: str = "An answer.") -> None:
        """Speak a reply by itself, its generation complete or not."""
        self.tell(ReplyStarted(reply=reply), ReplyAudio(reply=reply, data=b"\1\0" * (SPEAKS.size(ms) // 2)))
        if whole:
            self.tell(ReplyEnded(reply=reply, text=text, audio=True))


class LiveAdapter:
    """The adapter; its conversations outlive control planes."""

    formats = (HEARS,)

    def __init__(self) -> None:
        self.opened: list[LiveSession] = []
        self.configs: list[SessionConfig] = []
        self.handles: set[str] = set()
        """Handles that the provider knows."""

    async def open(self, config: SessionConfig, audio: AudioFormat) -> LiveSession:
        return self._made(config, audio, None)

    async def resume(self, config: SessionConfig, audio: AudioFormat, handle: str) -> LiveSession:
        if handle not in self.handles:
            raise NotFound("there is no such conversation")
        return self._made(config, audio, handle)

    async def session(self, count: int = 1) -> LiveSession:
        """Wait for the nth session and return it."""
        await until(lambda: len(self.opened) >= count)
        return self.opened[count - 1]

    def _made(self, config: SessionConfig, audio: AudioFormat, handle: str | None) -> LiveSession:
        assert audio == HEARS
        session = LiveSession(f"live{len(self.opened) + 1}", handle)
        self.configs.append(config)
        self.opened.append(session)
        return session


@asynccontextmanager
async def live_adapter(_: AdapterRuntime) -> AsyncIterator[LiveAdapter]:
    """Enter the adapter of the plugin that was made last."""
    yield _ADAPTERS[-1]


class LiveModelPlugin:
    """The provider `live`: `v-audio` has only audio and a voice of its own."""

    def __init__(self) -> None:
        self.adapter = LiveAdapter()
        _ADAPTERS.append(self.adapter)

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        provider = ProviderSpec(
            name="live",
            title="Live",
            models=Catalog(known=("both", "audio-only"), closed=True, default="both"),
            voices=Catalog(known=("ann", "ben"), closed=True, default="ann"),
            model_specs=(
                ModelSpec(
                    model="audio-only",
                    modalities=frozenset({"audio"}),
                    voices=Catalog(known=("zoe",), closed=True, default="zoe"),
                ),
            ),
        )
        pair = PairSpec(
            provider="live",
            transport="websocket",
            factory="support.server.live_model:live_adapter",
            media="bridged",
            capabilities=CAPABILITIES,
        )
        return Manifest(api=(2, 1), providers=(provider,), pairs=(pair,))


def live_agent(**declared: Any) -> Agent:
    """Return an agent whose session `voice` is answered by the model."""
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner("look")
    async def look() -> int:
        return 7

    @app.session("voice", **{"provider": "live", "transport": "websocket", "tools": ["shop.look"], **declared})
    async def voice(session: Any) -> None: ...

    return app
