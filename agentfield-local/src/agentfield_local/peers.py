"""The provider's end of all our own pairs, for the conformance kit: this package's server, without speech engines.

It is the peer (`agentfield.testing.peer`) of `openai/*`, `openrouter/*` and `local/*`, since it speaks the protocols of all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Lock

import numpy as np

from agentfield.adapterkit.names import ToolNames
from agentfield.realtime.audio import AudioFormat
from agentfield.testing.peer import Refusal
from agentfield_local.behaviour import Behaviour, Refuse
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import BrainRequest, Call, Message, Step, ToolResult
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.peer_caller import WebRtcCaller
from agentfield_local.positions import BEHAVIOURS
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, ToneTts
from agentfield_local.speech.loudness import rms
from agentfield_local.speech.protocols import SpeechEngines

__all__ = ["LocalPeer", "peer"]

_SPEECH_MS = 300
_SILENCE_MS = 800
_HERTZ = 300
_AMPLITUDE = 8000
_BEFORE_MS = 100


class LocalPeer:
    """A server that hears what it is told to hear (`agentfield.testing.peer.DirectPeer`)."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._ears = _Ears()
        self._received: list[str] = []
        self._mind = _Mind(self._received)
        voice = _Voice(self._received)
        engines = SpeechEngines(name="conformance", vad=EnergyVad, stt=self._ears, tts=voice, early=False)
        self.server = LocalServer(engines, self._mind, key=secret)

    @property
    def base_url(self) -> str:
        """Where the adapter finds it."""
        return self.server.base_url

    @property
    def received(self) -> Sequence[str]:
        """What its brain was given and its voice was asked for, in order."""
        return list(self._received)

    def hear(self, text: str, audio: AudioFormat) -> bytes:
        """Understand the next turn of the caller as `text`; return a tone and silence."""
        self._ears.texts.append(text)
        at = np.arange(audio.rate * _SPEECH_MS // 1000) / audio.rate
        tone = (_AMPLITUDE * np.sin(2 * np.pi * _HERTZ * at)).astype("<i2").tobytes()
        return bytes(audio.size(_BEFORE_MS)) + tone + bytes(audio.size(_SILENCE_MS))

    def call_tool(self, target: str, arguments: str) -> None:
        """Ask in the next reply for a tool instead of speaking."""
        self._mind.calls.append((target, arguments))

    def refuse(self, status: Refusal) -> None:
        """Refuse what is asked next, and quote the key."""
        message = f"No: {self._secret} is not welcome (Authorization: Bearer {self._secret})."
        self.server.behaviour = Behaviour(refuse_calls=status, refuse_count=1, refuse=Refuse(message=message))
        self.server.chat.behaviour = ChatBehaviour(refuse=status, refuse_count=1, refuse_message=message)

    async def drop(self) -> None:
        """Break every connection and forget every call; the next completion breaks off."""
        self.server.chat.behaviour = ChatBehaviour(ending="broken")
        await self.server.drop()

    def disturb(self) -> None:
        """Send events and fields that no client knows, and events twice."""
        twice = frozenset({"input_audio_buffer.committed", "response.created", "response.done", "session.updated"})
        self.server.behaviour = replace(BEHAVIOURS["unknown_events"], unknown_fields=True, duplicate_events=twice)
        self.server.chat.behaviour = ChatBehaviour(unknown_fields=True, comments="between", writes="split_characters")

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[WebRtcCaller]:
        """Yield a caller over WebRTC."""
        caller = WebRtcCaller()
        try:
            yield caller
        finally:
            await caller.close()


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[LocalPeer]:
    """Run the peer of a pair of ours.

    Args:
        secret: The key that it asks for.
    """
    here = LocalPeer(secret)
    async with here.server:
        yield here


class _Ears:
    """Hears the texts that it was told, one an utterance (`agentfield_local.speech.protocols.Stt`)."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()

    def transcribe(self, pcm: bytes) -> str:
        """Return the next text; "" for silence, which uses none up."""
        if rms(pcm) == 0 or not self.texts:
            return ""
        return self.texts.popleft()


class _Voice(ToneTts):
    """Speaks tones and tells what it was asked to speak."""

    def __init__(self, received: list[str]) -> None:
        self._received = received

    @property
    def voices(self) -> tuple[str, ...]:
        """The voice of the offline provider."""
        return ("joe",)

    def say(self, text: str) -> Iterator[bytes]:
        """Speak."""
        self._received.append(text)
        return super().say(text)


class _Mind:
    """Obeys, asks for the tools that it was told to ask for, and tells what it was given."""

    def __init__(self, received: list[str]) -> None:
        self.calls: deque[tuple[str, str]] = deque()
        self._received = received
        self._obedient = ObedientBrain()
        self._lock = Lock()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        """Return what is said or called next."""
        with self._lock:
            self._received.append(_written(request))
            if self.calls and request.tools:
                target, arguments = self.calls.popleft()
                return (Call(ToolNames((target,)).safe(target), arguments),)
        return self._obedient.respond(replace(request, tools=()))


def _written(request: BrainRequest) -> str:
    lines = [request.instructions]
    for entry in request.history:
        match entry:
            case Message():
                lines.append(f"{entry.role}: {entry.text}")
            case ToolResult():
                lines.append(f"{entry.name} {entry.call_id}: {entry.output}")
    return "\n".join(lines)
