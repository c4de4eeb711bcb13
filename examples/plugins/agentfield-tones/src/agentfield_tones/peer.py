"""The peer of `tones/websocket` for the conformance kit: the tone service itself, with its faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from agentfield.realtime.audio import AudioFormat
from agentfield.testing.peer import Refusal
from agentfield_tones.keys import keys_of, sound_of
from agentfield_tones.service import ToneService

__all__ = ["TonesPeer", "peer"]

_SILENCE_MS = 800


class TonesPeer:
    """A tone service on loopback (`agentfield.testing.peer.ProviderPeer`)."""

    def __init__(self, service: ToneService, secret: str) -> None:
        self._service = service
        self._secret = secret

    @property
    def base_url(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self._service.port}"

    @property
    def received(self) -> Sequence[str]:
        """Text frames that were received."""
        return list(self._service.received)

    def prepare_turn(self, text: str, audio: AudioFormat) -> bytes:
        """Return the text as tones: the service decodes them, so nothing else is prepared."""
        return b"".join(map(sound_of, keys_of(text))) + bytes(audio.size(_SILENCE_MS))

    def call_tool(self, target: str, arguments: str) -> None:
        """Do nothing: the manifest declares no tools."""

    def refuse(self, status: Refusal) -> None:
        """Refuse the next connection, and quote the key."""
        self._service.refusing = (status, f"not with {self._secret}!")

    async def drop(self) -> None:
        """Drop all connections."""
        self._service.drop()

    def inject_unknown_messages(self) -> None:
        """Repeat every event, and add unknown ones."""
        self._service.noisy = True


@asynccontextmanager
async def peer(secret: str) -> AsyncIterator[TonesPeer]:
    """Run a tone service.

    Args:
        secret: The key that it requires.
    """
    async with ToneService(secret) as service:
        yield TonesPeer(service, secret)
