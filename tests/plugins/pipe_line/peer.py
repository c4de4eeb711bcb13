"""The caller of the pipe, for the conformance kit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from agentfield.testing.peer import CallEndpoint


class PipeCaller:
    """A caller (`agentfield.testing.peer.CallerPeer`)."""

    def __init__(self, secret: str, http: aiohttp.ClientSession) -> None:
        self.settings = {"PIPE_SECRET": secret}
        self.cleared = 0
        self._audio = bytearray()
        self._secret = secret
        self._http = http
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def socket(self) -> aiohttp.ClientWebSocketResponse:
        assert self._socket is not None
        return self._socket

    @property
    def heard(self) -> bytes:
        return bytes(self._audio)

    @property
    def connected(self) -> bool:
        return self._reader is not None and not self._reader.done()

    async def call_unverified(self, endpoint: CallEndpoint) -> int:
        async with self._http.get(f"{endpoint.url}/{endpoint.target}/talk", headers={"X-Pipe": "a guess"}) as response:
            return response.status

    async def call(self, endpoint: CallEndpoint) -> None:
        url = f"{endpoint.url}/{endpoint.target}/talk"
        self._socket = await self._http.ws_connect(url, headers={"X-Pipe": self._secret})
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self._audio += message.data
                continue
            match json.loads(message.data):
                case {"mark": str()} as frame:
                    await self.socket.send_json(frame)
                case {"clear": True}:
                    self.cleared += 1

    async def speak(self, data: bytes) -> None:
        for at in range(0, len(data), 320):
            await self.socket.send_bytes(data[at : at + 320])

    async def press_key(self, digit: str) -> None:
        await self.socket.send_json({"key": digit})

    async def send_text(self, text: str) -> None:
        await self.socket.send_json({"text": text})

    async def commit(self) -> None:
        await self.socket.send_json({"commit": True})

    async def stall(self) -> None:
        await self._stop()

    async def hang_up(self) -> None:
        await self.socket.close()

    async def drop(self) -> None:
        response = self.socket._response
        assert response.connection is not None
        assert response.connection.transport is not None
        response.connection.transport.abort()

    async def _stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def close(self) -> None:
        await self._stop()
        if self._socket is not None:
            await self._socket.close()


@asynccontextmanager
async def caller(secret: str) -> AsyncIterator[PipeCaller]:
    """Yield a caller that sends the secret."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
        it = PipeCaller(secret, http)
        try:
            yield it
        finally:
            await it.close()
