"""A plugin with a pair of recorded turns whose provider the test plays, recordings for it, and a reader of answers."""

from __future__ import annotations

import array
import asyncio
import base64
import io
import json
import math
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.plugins import Capabilities, Manifest, Names, PairSpec, ProviderInfo, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AddText, AppendAudio, CancelReply, Command, CommitTurn, End, Reply, Say
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
)
from agentfield.realtime.provider import AdapterRuntime
from unit.waiting import until

__all__ = [
    "AUDIO",
    "Kiosk",
    "Scripted",
    "ScriptedSession",
    "audio_of",
    "media",
    "message_types",
    "playing",
    "read_events",
    "scripted_adapter",
    "tone",
    "wav",
]

AUDIO = AudioFormat("pcm16", 24_000)

_CAPABILITIES: dict[str, Any] = {
    "say": "best_effort",
    "floors": frozenset({"handler", "model"}),
    "turn_detection": frozenset({"server_vad", "manual"}),
    "modalities": frozenset({"audio", "text"}),
    "tools": "async",
    "caller_transcript": "final",
    "default_transcription": "ears-1",
    "text_input": True,
    "limits": frozenset({"duration", "idle", "turns", "tool_calls"}),
}


def media(name: str) -> PairSpec:
    """Return a pair of the scripted provider."""
    kinds: dict[str, Any] = {
        "audio_turns": {"interruption": "client", "truncation": "estimate", "resumption": "stateless"},
        "websocket": {"interruption": "client", "truncation": "client_ms", "resumption": "replay"},
        "webrtc": {"interruption": "server", "resumption": "attach", "client_leg": "watched"},
    }
    direct = name == "webrtc"
    formats = frozenset() if direct else frozenset({"pcm16/24000"})
    return PairSpec(
        provider="kiosk",
        transport=name,
        factory="unit.turns_kit:scripted_adapter",
        media={"audio_turns": "turns", "websocket": "bridged", "webrtc": "direct"}[name],  # type: ignore[arg-type]
        capabilities=Capabilities(**_CAPABILITIES, **kinds[name], formats=formats),
    )


class Kiosk:
    """A plugin with one provider and a pair of each medium; its adapter is `scripted`."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return what the plugin brings."""
        names = Names(known=("m-1",), closed=True, default="m-1")
        voices = Names(known=("v-1",), closed=True, default="v-1")
        info = ProviderInfo(name="kiosk", title="Kiosk", models=names, voices=voices)
        pairs = tuple(media(name) for name in ("audio_turns", "websocket", "webrtc"))
        return Manifest(api=(1, 0), providers=(info,), pairs=pairs)


@dataclass
class ScriptedSession:
    """One session at the provider: it hears what the test says, and speaks a tone for everything that it is asked."""

    script: Scripted
    sent: list[Command] = field(default_factory=list)
    turns: list[bytes] = field(default_factory=list)
    _heard: bytearray = field(default_factory=bytearray)
    _events: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)
    _replies: int = 0
    _speaking: set[str] = field(default_factory=set)

    async def send(self, command: Command) -> None:
        """Do what the test wants done with a command."""
        self.sent.append(command)
        match command:
            case AppendAudio():
                self._heard += command.data
            case CommitTurn():
                self._turn(command.item or f"item-{len(self.turns)}")
            case Say() | Reply():
                self._speak(command)
            case CancelReply() if command.reply in self._speaking:
                self._speaking.discard(command.reply)
                self.tell(ReplyEnded(reply=command.reply, status="cancelled", why="interrupted", audio=True))
            case End():
                self.tell(SessionClosed(reason="closed"))
            case AddText() | _:
                pass

    async def events(self) -> AsyncIterator[Event]:
        """Yield what the test tells."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """End the events."""
        self._events.put_nowait(None)

    def tell(self, *events: Event) -> None:
        """Let events happen."""
        for event in events:
            self._events.put_nowait(event)

    def go_on(self, reply: str, text: str = "an answer") -> None:
        """End a reply that was held."""
        self._speaking.discard(reply)
        self.tell(ReplyEnded(reply=reply, text=text, audio=True))

    def _turn(self, item: str) -> None:
        self.turns.append(bytes(self._heard))
        self._heard.clear()
        words = self.script.hears.pop(0) if self.script.hears else "hello"
        self.tell(TurnStarted(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=words))

    def _speak(self, command: Say | Reply) -> None:
        self._replies += 1
        reply = f"r{self._replies}"
        text = command.text if isinstance(command, Say) else "an answer"
        self.tell(
            ReplyStarted(reply=reply, command=command.id), ReplyAudio(reply=reply, data=tone(self.script.seconds))
        )
        if text in self.script.holds:
            self._speaking.add(reply)
        else:
            self.tell(ReplyEnded(reply=reply, command=command.id, text=text, audio=True))


@dataclass
class Scripted:
    """The adapter: what its sessions hear, which words they hold, and whether they can be opened."""

    hears: list[str] = field(default_factory=list)
    holds: set[str] = field(default_factory=set)
    seconds: float = 0.02
    """How long everything that is said lasts."""
    refuse: AgentFieldError | None = None
    sessions: list[ScriptedSession] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The provider's keys that adapters were entered with, where the plugin asks for one."""

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The one format of the provider."""
        return (AUDIO,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ScriptedSession:
        """Open a session, or refuse it."""
        if self.refuse is not None:
            raise self.refuse
        session = ScriptedSession(self)
        session.tell(SessionReady(model="m-1", voice="v-1"))
        self.sessions.append(session)
        return session

    async def session(self) -> ScriptedSession:
        """Wait until there is a session and return the newest."""
        await until(lambda: self.sessions)
        return self.sessions[-1]


_SCRIPTS: list[Scripted] = []


@asynccontextmanager
async def scripted_adapter(_: AdapterRuntime) -> AsyncIterator[Scripted]:
    """Enter the adapter that the test made last."""
    yield _SCRIPTS[-1]


@asynccontextmanager
async def playing(script: Scripted) -> AsyncIterator[Scripted]:
    """Let control planes in this process use a script."""
    _SCRIPTS.append(script)
    try:
        yield script
    finally:
        _SCRIPTS.remove(script)


# --- recordings and answers


def tone(seconds: float, rate: int = 24_000, frequency: float = 440.0) -> bytes:
    """Return a tone as 16-bit samples."""
    return array.array(
        "h", (int(8000 * math.sin(2 * math.pi * frequency * n / rate)) for n in range(int(seconds * rate)))
    ).tobytes()


def wav(samples: bytes, rate: int = 24_000, channels: int = 1) -> bytes:
    """Return samples as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return out.getvalue()


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the messages of a whole event stream: `event`, `id` and the parsed `data`."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append({"event": fields.get("event"), "id": fields.get("id"), "data": json.loads(fields["data"])})
    return found


def message_types(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the messages of an answer tell, in order."""
    return [str(message.get("type")) for message in messages]


def audio_of(messages: Sequence[dict[str, Any]]) -> bytes:
    """Return the audio of an answer."""
    return b"".join(base64.b64decode(m["data"]) for m in messages if m.get("type") == "reply.audio")
