"""The peer of `gemini/websocket` for the conformance kit: the fake of the Live API."""

from __future__ import annotations

import array
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.audio import AudioFormat
from agentfield.testing.peer import Refusal
from agentfield_gemini.testing.live_server import LiveServer

__all__ = ["GeminiPeer", "peer", "speech"]

_SILENCE_MS = 900
_WORD_MS = 100


class GeminiPeer:
    """The fake on loopback (`agentfield.testing.peer.ProviderPeer`)."""

    def __init__(self, server: LiveServer, secret: str) -> None:
        self.server = server
        self._secret = secret

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self.server.url

    @property
    def received(self) -> Sequence[str]:
        """Messages of clients without audio."""
        return list(self.server.received)

    def prepare_turn(self, text: str, audio: AudioFormat) -> bytes:
        """Understand the next turn as `text`; return a tone of its length, and silence."""
        self.server.announce(text)
        return speech(text, audio)

    def prepare_reply(self, text: str) -> None:
        """Let the model answer `text`; it is generated four times as fast as it is played."""
        self.server.model.replies.append(text)

    def prepare_silence(self) -> None:
        """Let the model not answer the next turn."""
        self.server.model.silences += 1

    def call_tool(self, target: str, arguments: str) -> None:
        """Call a function instead of the next answer.

        Raises:
            NotImplementedError: The arguments are no JSON object; Gemini's always are.
        """
        name = ToolNames((target,)).safe(target) if "." in target else target
        try:
            given = json.loads(arguments)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise NotImplementedError("arguments of Gemini are a JSON object")
        self.server.model.calls.append((name, given))

    def refuse(self, status: Refusal) -> None:
        """Refuse the next session as the service does, by a close code; quote the key."""
        refusals = {
            401: (1007, f"API key not valid: {self._secret}. Please pass a valid API key."),
            429: (
                1011,
                f"{self._secret}: You exceeded your current quota, please check your plan and billing details.",
            ),
        }
        self.server.refusals.append(refusals[status])

    async def drop(self) -> None:
        """Drop all connections."""
        self.server.drop()

    def inject_unknown_messages(self) -> None:
        """Send unknown messages, and repeat known ones."""
        self.server.noisy = True


def speech(text: str, audio: AudioFormat, *, silence_ms: int = _SILENCE_MS) -> bytes:
    """Return a tone as long as a text takes, and silence."""
    count = audio.rate * max(3, len(text.split(" "))) * _WORD_MS // 1000
    step = 2 * math.pi * 220 / audio.rate
    return array.array("h", (round(9000 * math.sin(step * at)) for at in range(count))).tobytes() + bytes(
        audio.size(silence_ms)
    )


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[GeminiPeer]:
    """Run the fake.

    Args:
        secret: The key that it requires.
    """
    async with LiveServer(secret) as server:
        yield GeminiPeer(server, secret)
