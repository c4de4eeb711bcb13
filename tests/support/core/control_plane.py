"""A small control plane for tests of the SDK: a real WebSocket server whose frames the test sends and receives."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import WSMsgType, web
from msgspec.structs import replace

from agentfield.identity import (
    NodeKey,
    b64url,
    canonical,
    challenge_message,
    commitment,
    digest,
    hello_message,
    parse_proof,
    result_leaf,
    result_message,
    result_statement,
    root_message,
    verify_signature,
    welcome_message,
)
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
from agentfield.wire.handshake import hello_digest
from agentfield.wire.link_protocol import PROOFS, PROTOCOLS
from support.waiting import SECONDS

F = TypeVar("F")


class Link:
    """The control plane's end of one link."""

    def __init__(self, socket: web.WebSocketResponse, hello: Any, audience: str) -> None:
        self.socket = socket
        self.hello = hello
        self.audience = audience
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.pings = 0
        self.pongs = 0
        self.mute = False

    async def send(self, frame: Any) -> None:
        if isinstance(frame, Invoke) and self.hello.protocol >= PROOFS:
            given, ended = map(b64url, salts(frame))
            frame = replace(frame, input_salt=given, output_salt=ended)
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
        self.check(result, invoke)
        await self.send(ResultAck(execution_id=result.execution_id, attempt=result.attempt))
        return result

    def check(self, result: Result, invoke: Invoke) -> None:
        """Check the signature of a result."""
        if self.hello.protocol >= PROOFS:
            self.check_proof(result, invoke)
            return
        output = digest(result.output) if result.status == "succeeded" else None
        assert result.input_digest is not None
        assert result.signature is not None
        assert result.proof is None
        assert (result.input_digest, result.output_digest) == (digest(invoke.input), output)
        message = result_message(
            result.execution_id, result.attempt, result.status, result.input_digest, result.output_digest
        )
        assert verify_signature(self.hello.did, message, result.signature)

    def check_proof(self, result: Result, invoke: Invoke) -> None:
        """Check the proof of a result."""
        input_salt, output_salt = salts(invoke)
        name, body = "problem", result.problem
        if result.status == "succeeded":
            name, body = "output", result.output
        elif result.pause is not None:
            name, body = "pause", result.pause.model_dump(mode="json")
        statement = result_statement(
            audience=self.audience,
            node_id=self.hello.node_id,
            instance_id=self.hello.instance_id,
            execution_id=result.execution_id,
            attempt=result.attempt,
            epoch=result.epoch,
            target=f"{self.hello.node_id}.{invoke.function}",
            run_id=invoke.context.run_id,
            parent_id=invoke.context.parent_id,
            session_id=invoke.context.session_id,
            status=result.status,
            retry=result.retry,
            input=commitment(input_salt, canonical(invoke.input)),
            body=name,  # type: ignore[arg-type]
            outcome=commitment(output_salt, canonical(body)),
        )
        proof = parse_proof(result.proof)
        assert proof.leads_from(result_leaf(statement))
        message = root_message(audience=self.audience, did=self.hello.did, root=proof.root, size=proof.size)
        assert verify_signature(self.hello.did, message, proof.signature)
        assert (result.signature, result.input_digest, result.output_digest) == (None, None, None)

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
        self.offered: tuple[int, ...] = PROTOCOLS
        """Versions of the link in the challenge; empty as a control plane of version 1 does."""
        self.key = NodeKey.generate()
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
        did = self.key.did if PROOFS in self.offered else None
        await socket.send_str(encode_frame(Challenge(nonce=nonce, protocols=self.offered, did=did)))
        try:
            text = await socket.receive_str()
        except TypeError:  # the node does not accept this control plane, and closes the connection
            return socket
        hello = decode_node_frame(text)
        assert isinstance(hello, (Hello, WatchHello))
        welcome = self.welcome
        if hello.protocol < PROOFS:
            signed = challenge_message(nonce, hello.node_id, hello.instance_id)
        else:
            of_hello = hello_digest(text)
            signed = hello_message(audience=self.key.did, protocol=hello.protocol, nonce=nonce, hello=of_hello)
            proven = self.key.sign(welcome_message(hello=of_hello, protocol=hello.protocol))
            welcome = welcome.model_copy(update={"signature": welcome.signature or b64url(proven)})
        assert verify_signature(hello.did, signed, hello.signature)
        link = Link(socket, hello, self.key.did)
        if isinstance(hello, WatchHello):
            self.watches.put_nowait(link)
            await self._read(link)
            return socket
        if self.refusals:
            await socket.send_str(encode_frame(self.refusals.pop(0)))
            await socket.close()
            return socket
        await socket.send_str(encode_frame(welcome))
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


def salts(frame: Invoke) -> tuple[bytes, bytes]:
    """Return the salts of an attempt: for its input, and for what it ends with."""
    attempt = f"{frame.context.execution_id} {frame.context.attempt}"
    return hashlib.sha256(b"input").digest(), hashlib.sha256(attempt.encode()).digest()


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
