"""Peer of the conformance suites: the local server with scripted engines in place of a provider.

It implements `agentfield.testing.peer` for `openai/*`, `openrouter/*` and `local/*`, whose protocols the server speaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Lock

import numpy as np

from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.audio import AudioFormat
from agentfield.testing.peer import Refusal
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Message, Speak, Step, ToolResult
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.faults.behaviour import Behaviour, RefusalShape
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.server import LocalServer
from agentfield_local.speech.loudness import rms
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, ToneTts
from agentfield_local.testing.webrtc_caller import WebRtcCaller

__all__ = ["LocalPeer", "peer"]

_SPEECH_MS = 300
_SILENCE_MS = 800
_TONE_HERTZ = 300
_AMPLITUDE = 8000
_LEADING_SILENCE_MS = 100


class LocalPeer:
    """A server with scripted transcripts (`agentfield.testing.peer.DirectPeer`)."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._stt = _ScriptedStt()
        self._received: list[str] = []
        self._brain = _ScriptedBrain(self._received)
        tts = _RecordingTts(self._received)
        engines = SpeechEngines(name="conformance", vad=EnergyVad, stt=self._stt, tts=tts, early=False)
        self.server = LocalServer(engines, self._brain, key=secret or None)

    @property
    def base_url(self) -> str:
        """Base URL for the adapter."""
        return self.server.base_url

    @property
    def received(self) -> Sequence[str]:
        """Texts that the brain read and the voice was asked to speak, in order."""
        return list(self._received)

    def prepare_turn(self, text: str, audio: AudioFormat) -> bytes:
        """Transcribe the caller's next turn as `text`; return its audio, a tone and silence."""
        self._stt.texts.append(text)
        at = np.arange(audio.rate * _SPEECH_MS // 1000) / audio.rate
        tone = (_AMPLITUDE * np.sin(2 * np.pi * _TONE_HERTZ * at)).astype("<i2").tobytes()
        return bytes(audio.size(_LEADING_SILENCE_MS)) + tone + bytes(audio.size(_SILENCE_MS))

    def call_tool(self, target: str, arguments: str) -> None:
        """Call a tool in the next reply instead of speaking."""
        self._brain.calls.append((target, arguments))

    def prepare_reply(self, text: str) -> None:
        """Let the brain's next answer be this text."""
        self._brain.texts.append(text)

    def turn_detection(self) -> str:
        """Return the turn detection of the newest session."""
        session = self._sessions()[-1]
        return str((session.conversation.config.turn_detection or {"type": "manual"})["type"])

    def choices(self) -> Mapping[str, str | None]:
        """Return the names of the newest session, or of the latest requests."""
        if not self._sessions():
            return self.server.chat.asked
        asked = self._sessions()[-1].conversation.config.data
        transcription = asked["audio"]["input"]["transcription"] or {}
        return {
            "model": asked["model"],
            "voice": asked["audio"]["output"]["voice"],
            "transcription": transcription.get("model"),
        }

    def _sessions(self) -> list[SessionRunner]:
        called = [call.session for call in self.server.calls if call.session is not None]
        return [*self.server.sessions, *called]

    def reroute(self) -> None:
        """Answer from another upstream, and say so."""
        self.server.chat.behaviour = ChatBehaviour(switches="provider")

    async def expire(self) -> None:
        """Do nothing: the server announces the end of a session when it begins."""

    def refuse(self, status: Refusal) -> None:
        """Refuse the next request with a message that contains the key, which the adapter must redact."""
        message = f"No: {self._secret} is not welcome (Authorization: Bearer {self._secret})."
        self.server.behaviour = Behaviour(refuse_calls=status, refuse_count=1, refuse=RefusalShape(message=message))
        self.server.chat.behaviour = ChatBehaviour(refuse=status, refuse_count=1, refuse_message=message)

    async def drop(self) -> None:
        """Cut every connection and end every call; the next completion breaks off."""
        self.server.chat.behaviour = ChatBehaviour(ending="broken")
        await self.server.drop()

    def inject_unknown_messages(self) -> None:
        """Send unknown events, unknown fields and duplicate events."""
        twice = frozenset({"input_audio_buffer.committed", "response.created", "response.done", "session.updated"})
        self.server.behaviour = replace(
            BEHAVIOUR_VARIANTS["unknown_events"], unknown_fields=True, duplicate_events=twice
        )
        self.server.chat.behaviour = ChatBehaviour(unknown_fields=True, comments="between", writes="split_characters")

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[WebRtcCaller]:
        """Yield a WebRTC caller."""
        caller = WebRtcCaller()
        try:
            yield caller
        finally:
            await caller.close()


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[LocalPeer]:
    """Run a peer.

    Args:
        secret: The API key that it requires; "" for none.
    """
    local_peer = LocalPeer(secret)
    async with local_peer.server:
        yield local_peer


class _ScriptedStt:
    """Returns scripted texts, one per utterance (`agentfield_local.speech.protocols.Stt`)."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()

    def transcribe(self, pcm: bytes) -> str:
        """Return the next text; "" for silence, which consumes none."""
        if rms(pcm) == 0 or not self.texts:
            return ""
        return self.texts.popleft()


class _RecordingTts(ToneTts):
    """Speaks tones, and records the texts."""

    def __init__(self, received: list[str]) -> None:
        self._received = received

    @property
    def voices(self) -> tuple[str, ...]:
        """The voice of the `local` provider."""
        return ("joe",)

    def say(self, text: str) -> Iterator[bytes]:
        """Record the text and yield tones."""
        self._received.append(text)
        return super().say(text)


class _ScriptedBrain:
    """Calls scripted tools, answers like the obedient brain otherwise, and records its requests."""

    def __init__(self, received: list[str]) -> None:
        self.calls: deque[tuple[str, str]] = deque()
        self.texts: deque[str] = deque()
        self._received = received
        self._obedient = ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return the next scripted call, or the answer of the obedient brain."""
        with self._lock:
            self._received.append(_as_text(request))
            if self.calls and request.tools:
                target, arguments = self.calls.popleft()
                return (CallFunction(ToolNames((target,)).safe(target), arguments),)
            if self.texts:
                return (Speak(self.texts.popleft()),)
        return self._obedient.respond(replace(request, tools=()))


def _as_text(request: BrainRequest) -> str:
    lines = [request.instructions]
    for entry in request.history:
        match entry:
            case Message():
                lines.append(f"{entry.role}: {entry.text}")
            case ToolResult():
                lines.append(f"{entry.name} {entry.call_id}: {entry.output}")
    return "\n".join(lines)
