"""Callers of every transport with the operations that all have: connect, speak, commit, close."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
import numpy as np

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield_server.media.convert import converter
from support.audio import silence, tone, wav
from support.providers.local_server import Caller as Peer
from support.server.bridged_calls import Caller as Socket
from support.waiting import until

__all__ = ["PCM24", "Carried", "Direct", "Medium", "Recorded"]

PCM24 = AudioFormat("pcm16", 24_000)
_LOUD = 1000


class Medium(Protocol):
    """How a caller reaches a session."""

    refused: str | None
    """The code of the error that refused the last attempt."""

    @property
    def heard(self) -> bool:
        """Whether anything louder than noise was heard."""

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""

    def heard_ms(self) -> float:
        """Return the milliseconds of the agent's audio that were heard."""

    async def connect(self) -> None:
        """Connect, or record the refusal."""

    async def speak(self, seconds: float) -> None:
        """Speak for this time, then be silent."""

    async def commit(self) -> None:
        """Commit the turn, where the caller must."""

    async def close(self) -> None:
        """Close the connection."""

    def told(self) -> str:
        """Return everything that the caller received besides the session's events."""


class Direct:
    """A caller over WebRTC.

    Args:
        offer: Takes the SDP offer and returns the answer.
    """

    def __init__(self, offer: Callable[[str], Awaitable[str]]) -> None:
        self._offer = offer
        self.peer = Peer()
        self.refused: str | None = None

    @property
    def heard(self) -> bool:
        heard = np.frombuffer(bytes(self.peer.heard), "<i2")
        return heard.size > 0 and bool(np.abs(heard).max() > _LOUD)

    def heard_ms(self) -> float:
        frames = np.frombuffer(bytes(self.peer.heard), "<i2")
        frames = np.abs(frames[: frames.size // 320 * 320]).reshape(-1, 320)
        return 20.0 * int((frames.max(axis=1, initial=0) > _LOUD).sum())

    @property
    def gone(self) -> bool:
        return self.peer.closed.is_set()

    async def connect(self) -> None:
        try:
            await self.peer.accept(await self._offer(await self.peer.offer()))
        except AgentFieldError as error:
            self.refused = error.code

    async def offer_only(self) -> None:
        """Make an offer, and send no packet to the answer."""
        await self._offer(await self.peer.offer())

    async def speak(self, seconds: float) -> None:
        # the peer sends silence by itself
        self.peer.speak(silence(200, 48_000) + tone(round(seconds * 1000), 48_000))

    async def commit(self) -> None:
        await until(lambda: not self.peer.microphone.buffer and self.peer.channel.readyState == "open")

        def told() -> bool:
            return any(event["type"] == "input_audio_buffer.committed" for event in self.peer.events)

        while not told():
            refused = len([event for event in self.peer.events if event["type"] == "error"])
            self.peer.send({"type": "input_audio_buffer.commit"})
            await until(lambda: told() or len([e for e in self.peer.events if e["type"] == "error"]) > refused)  # noqa: B023

    def told(self) -> str:
        return json.dumps(self.peer.events)

    async def close(self) -> None:
        # the peer may not learn that its other end is closed
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                await self.peer.close()


class Carried:
    """A caller over the control plane's audio WebSocket.

    Args:
        http: The HTTP client.
        url: Address of the session's media, with the format in its query.
        token: The session's token.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._url = url
        self._token = token
        self._format = _format_of(url)
        self.caller: Socket | None = None
        self._refused: str | None = None

    @property
    def socket(self) -> Socket:
        """The connection."""
        assert self.caller is not None
        return self.caller

    @property
    def refused(self) -> str | None:
        if self._refused is None and self.caller is not None and (errors := self.caller.of("error")):
            return str(errors[0]["problem"]["code"])
        return self._refused

    @property
    def heard(self) -> bool:
        return self.caller is not None and len(self.caller.audio) > 0

    def heard_ms(self) -> float:
        return self._format.ms(len(self.socket.audio))

    @property
    def gone(self) -> bool:
        return self.caller is not None and self.caller.socket.closed

    async def connect(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            self.caller = Socket(await self._http.ws_connect(self._url, headers=headers))
        except aiohttp.WSServerHandshakeError:
            # aiohttp hides the body of a refused handshake; the same request without upgrade gets the same refusal
            async with self._http.get(self._url.replace("ws", "http", 1), headers=headers) as response:
                self._refused = str(json.loads(await response.text())["code"])

    async def speak(self, seconds: float) -> None:
        await self.send(tone(round(seconds * 1000), 24_000) + silence(800, 24_000))

    async def send(self, pcm: bytes) -> None:
        """Send 24 kHz samples in the format of the connection."""
        convert = converter(PCM24, self._format)
        data = convert(pcm) + convert.flush()
        size = self._format.size(100)
        for at in range(0, len(data), size):
            await self.socket.socket.send_bytes(data[at : at + size])

    async def commit(self) -> None:
        await self.socket.says(type="commit")

    def told(self) -> str:
        return "" if self.caller is None else json.dumps(self.caller.frames) + self.caller.audio.decode("latin-1")

    async def close(self) -> None:
        if self.caller is not None:
            await self.caller.leave()


class Recorded:
    """Over recorded turns, each of which is one request.

    Args:
        turn: Takes a recording and its media type and iterates over the answer.
    """

    def __init__(self, turn: Callable[[bytes, str], AsyncIterator[dict[str, Any]]]) -> None:
        self._turn = turn
        self._tasks: list[asyncio.Task[None]] = []
        self.refused: str | None = None
        self._playing: float | None = None
        self.answers: list[list[dict[str, Any]]] = []
        """The events of each answer so far."""

    @property
    def heard(self) -> bool:
        return self._playing is not None

    def heard_ms(self) -> float:
        # a page plays in real time from the first piece on
        return 0.0 if self._playing is None else (time.monotonic() - self._playing) * 1000

    @property
    def gone(self) -> bool:
        return self.refused is not None

    async def connect(self) -> None:
        return

    async def speak(self, seconds: float) -> None:
        self._tasks.append(asyncio.create_task(self._post(wav(tone(round(seconds * 1000), 24_000)))))

    async def _post(self, recording: bytes) -> None:
        answer: list[dict[str, Any]] = []
        self.answers.append(answer)
        try:
            async for event in self._turn(recording, "audio/wav"):
                if event.get("type") == "reply.audio" and self._playing is None:
                    self._playing = time.monotonic()
                answer.append(event)
        except AgentFieldError as error:
            self.refused = error.code

    async def commit(self) -> None:
        return

    def told(self) -> str:
        return json.dumps(self.answers)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        found = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [each for each in found if isinstance(each, Exception)] == []


def _format_of(url: str) -> AudioFormat:
    query = dict(part.split("=") for part in url.partition("?")[2].split("&") if part)
    codec = query.get("format", "pcm16")
    return AudioFormat(codec, int(query.get("rate", 24_000 if codec == "pcm16" else 8000)))  # type: ignore[arg-type]
