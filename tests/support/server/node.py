"""A node over a real link whose handlers the test plays."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Literal

import aiohttp

from agentfield.identity import NodeKey, b64url, challenge_message, digest, result_message
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import (
    Accepted,
    Challenge,
    Hello,
    Invoke,
    Ping,
    Pong,
    Result,
    RunningAttempt,
    SessionCommand,
    SessionDone,
    decode_server_frame,
    encode_frame,
)
from agentfield.wire.framing import split_frames
from agentfield.wire.node_declarations import FunctionSpec
from support.waiting import until


class ScriptedNode:
    """A node over a real link: the test plays its handlers; its functions answer by themselves."""

    def __init__(self, key: NodeKey, url: str, node_id: str = "shop", instance: str = "one", **declared: Any) -> None:
        self._key = key
        self._url = url
        self.node_id = node_id
        self.instance = instance
        fields = {"provider": "acme", "transport": "webrtc", "floor": "handler", **declared}
        self.declaration = SessionDeclaration(name="voice", **fields)
        self.frames: list[Any] = []
        self.functions: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.invoked: list[Invoke] = []
        self.on_interrupt: Literal["keep", "cancel"] = "keep"
        self.open_sessions: tuple[tuple[str, int], ...] = ()
        self.running: tuple[RunningAttempt, ...] = ()
        self._ops = itertools.count(1)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._http: aiohttp.ClientSession | None = None
        self._reader: asyncio.Task[None] | None = None
        self.session_id = ""
        self.epoch = 0

    async def link(self) -> ScriptedNode:
        self._http = aiohttp.ClientSession()
        self._socket = await self._http.ws_connect(self._url)
        challenge = decode_server_frame(await self._socket.receive_str())
        assert isinstance(challenge, Challenge)
        await self._send(self._hello(challenge.nonce))
        self._reader = asyncio.create_task(self._read())
        await until(lambda: any(frame.type == "welcome" for frame in self.frames))
        return self

    async def drop(self) -> None:
        """Cut the link."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
        self._socket = self._http = None
        self.frames.clear()

    async def opened(self, epoch: int) -> Any:
        """Wait until a handler run is opened; the commands below belong to it."""
        frame = await until(lambda: next((f for f in self._all("session.open") if f.epoch == epoch), None))
        self.session_id, self.epoch = frame.session_id, epoch
        return frame

    async def command(self, name: Any, **args: Any) -> str:
        op_id = f"op_{self.instance}_{next(self._ops)}"
        await self.send_command(op_id, name, **args)
        return op_id

    async def send_command(self, op_id: str, name: Any, **args: Any) -> None:
        await self._send(
            SessionCommand(op_id=op_id, session_id=self.session_id, epoch=self.epoch, command=name, args=args)
        )

    async def answer(self, op_id: str) -> Any:
        """Wait for the answer to a command."""
        return await until(lambda: next((f for f in self.frames if getattr(f, "op_id", None) == op_id), None))

    async def turn(self) -> dict[str, Any]:
        """Take a turn."""
        return dict((await self.answer(await self.command("input"))).turn)

    async def done(self, problem: dict[str, Any] | None = None) -> None:
        op_id = f"op_{self.instance}_{next(self._ops)}"
        await self._send(SessionDone(op_id=op_id, session_id=self.session_id, epoch=self.epoch, problem=problem))
        await self.answer(op_id)

    async def stopped(self) -> Any:
        return await until(lambda: next(iter(self._all("session.stop")), None))

    def events(self) -> list[dict[str, Any]]:
        return [frame.event for frame in self._all("session.event")]

    def _all(self, kind: str) -> list[Any]:
        return [frame for frame in self.frames if frame.type == kind]

    def _hello(self, nonce: str) -> Hello:
        functions = tuple(
            FunctionSpec(
                name=name,
                description=f"does {name}",
                input_schema={"type": "object"},
                on_interrupt=self.on_interrupt,
            )
            for name in self.functions
        )
        return Hello(
            node_id=self.node_id,
            instance_id=self.instance,
            did=self._key.did,
            signature=_signed(self._key, challenge_message(nonce, self.node_id, self.instance)),
            functions=functions,
            sessions=(self.declaration,),
            open_sessions=self.open_sessions,
            running=self.running,
        )

    async def _send(self, frame: Any) -> None:
        assert self._socket is not None
        await self._socket.send_str(encode_frame(frame))

    async def _read(self) -> None:
        assert self._socket is not None
        async for message in self._socket:
            for frame in map(decode_server_frame, split_frames(message.data)):
                match frame:
                    case Ping():
                        await self._send(Pong())
                    case Invoke():
                        self.invoked.append(frame)
                        await self._run(frame)
                    case _:
                        self.frames.append(frame)

    async def _run(self, frame: Invoke) -> None:
        same = {"execution_id": frame.context.execution_id, "attempt": frame.context.attempt, "epoch": frame.epoch}
        await self._send(Accepted(**same))
        value = self.functions[frame.function](frame.input)
        if value is Ellipsis:
            return  # the test finishes it
        await self.finish(frame, value)

    async def finish(self, frame: Invoke, value: Any) -> None:
        """Report the result of an invocation."""
        same = {"execution_id": frame.context.execution_id, "attempt": frame.context.attempt, "epoch": frame.epoch}
        input_digest, output_digest = digest(frame.input), digest(value)
        message = result_message(
            frame.context.execution_id, frame.context.attempt, "succeeded", input_digest, output_digest
        )
        await self._send(
            Result(
                **same,
                status="succeeded",
                output=value,
                input_digest=input_digest,
                output_digest=output_digest,
                signature=_signed(self._key, message),
            )
        )


def _signed(key: NodeKey, message: bytes) -> str:
    return b64url(key.sign(message))
