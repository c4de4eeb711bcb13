"""A plugin with a pair of recorded turns whose provider the test scripts, and readers of its answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.plugins import Capabilities, Catalog, Manifest, PairSpec, ProviderSpec, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
)
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
from support.audio import tone
from support.waiting import until

__all__ = [
    "AUDIO",
    "RecordedTurnsPlugin",
    "Scripted",
    "ScriptedSession",
    "audio_of",
    "media",
    "message_types",
    "playing",
    "read_events",
    "scripted_adapter",
]

AUDIO = AudioFormat("pcm16", 24_000)

_CAPABILITIES: dict[str, Any] = {
    "uninterruptible": True,
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
        factory="support.providers.scripted_turns:scripted_adapter",
        media={"audio_turns": "turns", "websocket": "bridged", "webrtc": "direct"}[name],  # type: ignore[arg-type]
        capabilities=Capabilities(**_CAPABILITIES, **kinds[name], formats=formats),
    )


class RecordedTurnsPlugin:
    """A plugin with one provider and a pair of each medium; its adapter is `scripted`."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        """Return the manifest."""
        names = Catalog(known=("m-1",), closed=True, default="m-1")
        voices = Catalog(known=("v-1",), closed=True, default="v-1")
        info = ProviderSpec(name="kiosk", title="RecordedTurnsPlugin", models=names, voices=voices)
        pairs = tuple(media(name) for name in ("audio_turns", "websocket", "webrtc"))
        return Manifest(api=(2, 0), providers=(info,), pairs=pairs)


@dataclass
class ScriptedSession:
    """A session at the provider: it has the transcripts of the test and speaks a tone for every request."""

    script: Scripted
    sent: list[Command] = field(default_factory=list)
    turns: list[bytes] = field(default_factory=list)
    _heard: bytearray = field(default_factory=bytearray)
    _events: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)
    _replies: int = 0
    _speaking: set[str] = field(default_factory=set)

    async def send(self, command: Command) -> None:
        """Handle a command as the script says."""
        self.sent.append(command)
        match command:
            case AppendAudioCommand():
                self._heard += command.data
            case CommitTurnCommand():
                self._turn(command.item or f"item-{len(self.turns)}")
            case SayCommand() | ReplyCommand():
                self._speak(command)
            case CancelReplyCommand() if command.reply in self._speaking:
                self._speaking.discard(command.reply)
                self.tell(ReplyEnded(reply=command.reply, status="cancelled", why="interrupted", audio=True))
            case EndCommand():
                self.tell(SessionClosed(reason="closed"))
            case AddTextCommand() | _:
                pass

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the test."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """End the events."""
        self._events.put_nowait(None)

    def tell(self, *events: Event) -> None:
        """Emit events."""
        for event in events:
            self._events.put_nowait(event)

    def go_on(self, reply: str, text: str = "an answer") -> None:
        """End an open reply."""
        self._speaking.discard(reply)
        self.tell(ReplyEnded(reply=reply, text=text, audio=True))

    def _turn(self, item: str) -> None:
        self.turns.append(bytes(self._heard))
        self._heard.clear()
        words = self.script.hears.pop(0) if self.script.hears else "hello"
        self.tell(TurnStarted(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=words))

    def _speak(self, command: SayCommand | ReplyCommand) -> None:
        self._replies += 1
        reply = f"r{self._replies}"
        text = command.text if isinstance(command, SayCommand) else "an answer"
        self.tell(
            ReplyStarted(reply=reply, command=command.id),
            ReplyAudio(reply=reply, data=tone(round(self.script.seconds * 1000))),
        )
        if text in self.script.holds:
            self._speaking.add(reply)
        else:
            self.tell(ReplyEnded(reply=reply, command=command.id, text=text, audio=True))


@dataclass
class Scripted:
    """The adapter's script: the transcripts of its sessions, the texts whose replies stay open, and a refusal."""

    hears: list[str] = field(default_factory=list)
    holds: set[str] = field(default_factory=set)
    seconds: float = 0.02
    """The length of each spoken text."""
    refuse: AgentFieldError | None = None
    sessions: list[ScriptedSession] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The provider's keys that adapters were entered with, if the plugin needs one."""

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The one format of the provider."""
        return (AUDIO,)

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ScriptedSession:
        """Open a session, or raise the scripted refusal."""
        if self.refuse is not None:
            raise self.refuse
        session = ScriptedSession(self)
        session.tell(SessionReady(model="m-1", voice="v-1"))
        self.sessions.append(session)
        return session

    async def session(self) -> ScriptedSession:
        """Wait for a session and return the newest."""
        await until(lambda: self.sessions)
        return self.sessions[-1]


_SCRIPTS: list[Scripted] = []


@asynccontextmanager
async def scripted_adapter(_: AdapterRuntime) -> AsyncIterator[Scripted]:
    """Enter the adapter that the test made last."""
    yield _SCRIPTS[-1]


@asynccontextmanager
async def playing(script: Scripted) -> AsyncIterator[Scripted]:
    """Use a script for control planes in this process until the block ends."""
    _SCRIPTS.append(script)
    try:
        yield script
    finally:
        _SCRIPTS.remove(script)


# --- recordings and answers


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the messages of an event stream: `event`, `id` and the parsed `data`."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append({"event": fields.get("event"), "id": fields.get("id"), "data": json.loads(fields["data"])})
    return found


def message_types(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return the types of the messages of an answer, in order."""
    return [str(message.get("type")) for message in messages]


def audio_of(messages: Sequence[dict[str, Any]]) -> bytes:
    """Return the audio of an answer."""
    return b"".join(base64.b64decode(m["data"]) for m in messages if m.get("type") == "reply.audio")
