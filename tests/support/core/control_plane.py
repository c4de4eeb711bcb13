"""A small control plane for tests of the SDK: a real WebSocket server whose frames the test sends and receives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import WSMsgType, web

from agentfield.identity import challenge_message, digest, result_message, verify_signature
from agentfield.wire.frames import (
    Challenge,
    ExecutionContext,
    Hello,
    Invoke,
    Ping,
    Pong,
    Refused,
    Result,
    ResultAck,
    SessionCommand,
    SessionOpen,
    SessionReply,
    TurnDelivered,
    WatchHello,
    Welcome,
    decode_node_frame,
    encode_frame,
)
from agentfield.wire.framing import split_frames
from support.waiting import SECONDS

F = TypeVar("F")


class Link:
    """The control plane's end of one link."""

    def __init__(self, socket: web.WebSocketResponse, hello: Any) -> None:
        self.socket = socket
        self.hello = hello
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.pings = 0
        self.pongs = 0
        self.mute = False

    async def send(self, frame: Any) -> None:
        await self.socket.send_str(encode_frame(frame))

    async def expect(self, kind: type[F]) -> F:
        """Return the next frame, which must be of type `kind`."""
        async with asyncio.timeout(SECONDS):
            frame = await self.frames.get()
        assert isinstance(frame, kind), frame
        return frame

    async def until(self, kind: type[F]) -> F:
        """Return the next frame of type `kind`; others before it are dropped."""
        async with asyncio.timeout(SECONDS):
            while not isinstance(frame := await self.frames.get(), kind):
                pass
        return frame

    async def command(self, name: str) -> SessionCommand:
        """Return the next frame, which must be the session command `name`."""
        command = await self.expect(SessionCommand)
        assert command.command == name, command
        return command

    async def turn(self, command: SessionCommand, text: str, **fields: Any) -> None:
        turn = {"id": "exe_turn", "text": text, **fields}
        await self.send(TurnDelivered(session_id=command.session_id, op_id=command.op_id, turn=turn))

    async def reply(self, command: SessionCommand, value: Any = None, problem: Any = None) -> None:
        await self.send(SessionReply(session_id=command.session_id, op_id=command.op_id, value=value, problem=problem))

    async def result(self, invoke: Invoke) -> Result:
        """Return the next result after checking its signature and acknowledging it."""
        result = await self.expect(Result)
        output = digest(result.output) if result.status == "succeeded" else None
        assert (result.input_digest, result.output_digest) == (digest(invoke.input), output)
        message = result_message(
            result.execution_id, result.attempt, result.status, result.input_digest, result.output_digest
        )
        assert verify_signature(self.hello.did, message, result.signature)
        await self.send(ResultAck(execution_id=result.execution_id, attempt=result.attempt))
        return result

    async def drop(self) -> None:
        """Abort the connection, as a killed process does."""
        request = self.socket._req
        assert request is not None
        assert request.transport is not None
        request.transport.abort()


class Plane:
    """A control plane that nodes can link to."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.watches: asyncio.Queue[Link] = asyncio.Queue()
        self.offered: tuple[int, ...] = ()
        """Versions of the link in the challenge; empty as a control plane of version 1 does."""
        self.url = ""
        self.api_key: str | None = None
        self.refusals: list[Refused] = []
        self.welcome = Welcome()
        self.knocks = 0

    async def link(self) -> Link:
        """Return the next link that a node opens."""
        async with asyncio.timeout(SECONDS):
            return await self.links.get()

    async def watch(self) -> Link:
        """Return the next connection that a node's watchdog opens."""
        async with asyncio.timeout(SECONDS):
            return await self.watches.get()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.knocks += 1
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.Response(status=401)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        nonce = f"nonce-{self.knocks}"
        await socket.send_str(encode_frame(Challenge(nonce=nonce, protocols=self.offered)))
        hello = decode_node_frame(await socket.receive_str())
        assert isinstance(hello, (Hello, WatchHello))
        signed = challenge_message(nonce, hello.node_id, hello.instance_id)
        assert verify_signature(hello.did, signed, hello.signature)
        link = Link(socket, hello)
        if isinstance(hello, WatchHello):
            self.watches.put_nowait(link)
            await self._read(link)
            return socket
        if self.refusals:
            await socket.send_str(encode_frame(self.refusals.pop(0)))
            await socket.close()
            return socket
        await socket.send_str(encode_frame(self.welcome))
        self.links.put_nowait(link)
        await self._read(link)
        return socket

    async def _read(self, link: Link) -> None:
        async for message in link.socket:
            if message.type is not WSMsgType.TEXT:
                break
            for frame in split_frames(message.data):
                await self._take(link, decode_node_frame(frame))

    async def _take(self, link: Link, frame: Any) -> None:
        match frame:
            case Ping():
                link.pings += 1
                if not link.mute:
                    await link.send(Pong())
            case Pong():
                link.pongs += 1
            case _:
                link.frames.put_nowait(frame)


@asynccontextmanager
async def control_plane() -> AsyncIterator[Plane]:
    """Run a control plane on a free port of 127.0.0.1."""
    plane = Plane()
    app = web.Application()
    app.router.add_get("/api/v1/nodes/link", plane.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plane.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield plane
    finally:
        await runner.cleanup()


def invoke(
    function: str, values: dict[str, Any], *, execution_id: str = "exe_1", attempt: int = 1, **fields: Any
) -> Invoke:
    """Return the frame that runs a reasoner."""
    context = ExecutionContext(
        execution_id=execution_id, run_id="run_1", parent_id="exe_0", session_id="ses_1", attempt=attempt, **fields
    )
    return Invoke(epoch=attempt, function=function, input=values, context=context)


def opening(name: str = "voice", *, epoch: int = 1, **fields: Any) -> SessionOpen:
    """Return the frame that runs a handler."""
    context = ExecutionContext(execution_id="exe_root", run_id="run_1", session_id="ses_1")
    return SessionOpen(session_id="ses_1", epoch=epoch, name=name, context=context, **fields)
