"""The transport, and a variant with faults."""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from agentfield.errors import Forbidden, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import (
    CallerAudio,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerInput,
    CallerMark,
    CallerText,
)
from agentfield.realtime.transport import Evidence, TransportRuntime


class Pipe:
    """The transport."""

    def __init__(self, runtime: TransportRuntime) -> None:
        self._runtime = runtime
        self._open: set[Leg] = set()

    async def verify(self, request: web.Request) -> Evidence:
        secret = self._runtime.setting("PIPE_SECRET")
        shown = request.headers.get("X-Pipe", "")
        if secret is None or not hmac.compare_digest(shown, secret.get_secret_value()):
            raise Forbidden("The caller does not send the secret.")
        return Evidence("pipe-secret")

    async def talk(self, request: web.Request, evidence: Evidence | None) -> web.StreamResponse:
        assert evidence is not None
        session = await self._runtime.start_session(request.match_info["target"], evidence=evidence)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        leg = self.leg(socket)
        self._open.add(leg)
        try:
            await self._runtime.carry(session, leg)
        finally:
            self._open.discard(leg)
            await leg.close()
        return socket

    def leg(self, socket: web.WebSocketResponse) -> Leg:
        return Leg(socket)

    async def close(self) -> None:
        for leg in list(self._open):
            await leg.close()


class Leg:
    """One caller."""

    format = AudioFormat("pcm16", 8000)
    marks = True
    paced = True

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket

    @property
    def listening(self) -> bool:
        return not self.socket.closed

    async def play(self, reply: str, data: bytes) -> None:
        try:
            await self.socket.send_bytes(data)
        except (ConnectionError, RuntimeError):
            raise Unavailable("the pipe is closed") from None

    async def mark(self, name: str) -> None:
        await self._send(mark=name)

    async def clear(self) -> None:
        await self._send(clear=True)

    async def _send(self, **frame: Any) -> None:
        try:
            await self.socket.send_json(frame)
        except (ConnectionError, RuntimeError):
            raise Unavailable("the pipe is closed") from None

    async def input(self) -> AsyncIterator[CallerInput]:
        async for message in self.socket:
            if message.type is WSMsgType.BINARY:
                yield CallerAudio(message.data)
                continue
            match json.loads(message.data):
                case {"mark": str(name)}:
                    yield CallerMark(name)
                case {"key": str(digit)}:
                    yield CallerDtmf(digit)
                case {"text": str(text)}:
                    yield CallerText(text)
                case {"commit": True}:
                    yield CallerCommit()
        closed = self.socket.close_code == WSCloseCode.OK
        yield CallerGone("the pipe was closed" if closed else "the pipe broke", hung_up=closed)

    async def close(self) -> None:
        await self.socket.close()


class DeafPipe(Pipe):
    """A transport with faults: it verifies nothing, drops caller audio and ignores `clear`."""

    async def verify(self, request: web.Request) -> Evidence:
        return Evidence("nothing")

    def leg(self, socket: web.WebSocketResponse) -> Leg:
        return DeafLeg(socket)


class DeafLeg(Leg):
    """One caller."""

    async def clear(self) -> None:
        return

    async def input(self) -> AsyncIterator[CallerInput]:
        async for event in super().input():
            if not isinstance(event, CallerAudio):
                yield event


@asynccontextmanager
async def pipe(runtime: TransportRuntime) -> AsyncIterator[Pipe]:
    it = Pipe(runtime)
    yield it
    await it.close()


@asynccontextmanager
async def deaf(runtime: TransportRuntime) -> AsyncIterator[DeafPipe]:
    it = DeafPipe(runtime)
    yield it
    await it.close()
