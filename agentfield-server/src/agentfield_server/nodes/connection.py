"""Runs one node link: read, write and ping until it ends; frames that were read before the end are still handled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp import web

from agentfield.errors import AgentFieldError, LimitExceeded, NodeRefused, Unavailable
from agentfield.wire.frames import (
    Accepted,
    Call,
    CallResult,
    Drain,
    GiveBack,
    LoopState,
    Ping,
    Pong,
    Progress,
    Result,
    SessionCommand,
    SessionDone,
)
from agentfield_server.nodes.handshake import decode_frames, refuse_link
from agentfield_server.nodes.linked_node import LinkedNode
from agentfield_server.nodes.liveness import NodeLiveness
from agentfield_server.nodes.protocols import EnginePort, SessionPort

__all__ = ["CLOSE_DEADLINE", "LinkConnection", "close_socket"]

_log = logging.getLogger("agentfield.nodes")

CLOSE_DEADLINE = 1.0
"""Seconds that a node has to answer a close frame."""
_AT_ONCE = 256
_LOG = "the log of the control plane says why"


class LinkConnection:
    """Runs a link after its handshake.

    Args:
        link: The link.
        socket: Its WebSocket.
        engine: Handles frames of executions.
        sessions: Handles frames of sessions; None drops them.
        liveness: Handles frames about the node's event loop.
        on_drain: Called when the node announces that it drains.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds of silence after which the link is ended.
        monotonic: Monotonic clock, seconds.
    """

    def __init__(
        self,
        link: LinkedNode,
        socket: web.WebSocketResponse,
        *,
        engine: EnginePort,
        sessions: SessionPort | None,
        liveness: NodeLiveness,
        on_drain: Callable[[LinkedNode], None],
        ping_interval: float,
        ping_timeout: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._link = link
        self._socket = socket
        self._engine = engine
        self._sessions = sessions
        self._liveness = liveness
        self._on_drain = on_drain
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._monotonic = monotonic
        self._handling = 0
        """Frames that are being handled."""
        self._one_handled = asyncio.Event()

    async def run(self) -> None:
        """Run until the link ends for any reason."""
        link = self._link
        ends = [
            asyncio.create_task(self._read()),
            asyncio.create_task(link.write()),
            asyncio.create_task(self._ping_loop()),
            asyncio.create_task(link.wait_ended()),
        ]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await link.close()
        for task in done:
            match task.exception():
                case None:
                    pass
                case AgentFieldError() | ConnectionError() as error:
                    link.end(str(error))
                case error:
                    raise error
        # a result that arrived is recorded though the link is gone, before the engine hears of its end
        await self._until_handling(0)

    async def _ping_loop(self) -> None:
        """Ping the node and end the link when it is silent.

        If this process itself was suspended, the frames of the node wait unread in the socket: the silence counts from
        now on, so that a frozen control plane does not drop all its nodes.
        """
        link = self._link
        last = link.heard_at = self._monotonic()
        while True:
            await link.send(Ping())
            await asyncio.sleep(self._ping_interval)
            now = self._monotonic()
            if now - last > 2 * self._ping_interval:
                link.heard_at = now
            last = now
            if now - link.heard_at > self._ping_timeout:
                link.end(f"it was silent for {self._ping_timeout:g} s")
                return

    async def _read(self) -> None:
        link, socket = self._link, self._socket
        while True:
            message = await socket.receive()
            match message.type:
                case aiohttp.WSMsgType.CLOSE:
                    # the close frame of the node itself is behind all that it sent; proxies close with other codes
                    link.end("it closed the link", in_order=message.data == aiohttp.WSCloseCode.OK)
                    return
                case aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    link.end("its connection ended")
                    return
                case aiohttp.WSMsgType.ERROR:
                    link.end(f"its connection broke ({message.data})")
                    return
            try:
                frames = decode_frames(message)
            except NodeRefused as error:
                await refuse_link(socket, error)
                link.end(error.message)
                return
            link.heard_at = self._monotonic()
            for frame in frames:
                link.note_received(frame)
                await self._dispatch(frame)

    async def _dispatch(self, frame: Any) -> None:
        link = self._link
        match frame:
            case Ping():
                await link.send(Pong())
            case Pong():
                pass
            case Drain():
                self._on_drain(link)
            case Accepted():
                self._engine.accepted(link, frame)
            case LoopState() | GiveBack():
                await self._liveness.received(link, frame)
            case Result() | Progress() | Call():
                if self._handling >= _AT_ONCE:
                    await self._until_handling(_AT_ONCE - 1)
                self._handle(frame)
            case SessionCommand() if self._sessions is not None:
                await self._sessions.session_command(link, frame)
            case SessionDone() if self._sessions is not None:
                await self._sessions.session_done(link, frame)
            case _:
                _log.warning("node %s sent %s in the middle of a link", link.node_id, frame.type)

    async def _until_handling(self, most: int) -> None:
        while self._handling > most:
            self._one_handled.clear()
            await self._one_handled.wait()

    def _handle(self, frame: Result | Progress | Call) -> None:
        self._handling += 1
        done = partial(self._handled, frame)
        try:
            match frame:
                case Result():
                    self._engine.result(self._link, frame, done)
                case Progress():
                    self._engine.progress(self._link, frame, done)
                case Call():
                    self._engine.call(self._link, frame, done)
        except Exception as error:  # noqa: BLE001 - logged, and answered or ends the link
            # caught here, since an exception would end the link for all other frames
            done(error)

    def _handled(
        self, frame: Result | Progress | Call, error: BaseException | None = None, *, failed: bool = False
    ) -> None:
        """Make room for the next frame, and settle this one if it could not be handled.

        A failure of the control plane is one of its frame: a call and a result end with a problem, a progress is dropped. The
        link ends where the node has to send the frame again, which it does over its next link.

        Args:
            frame: The frame.
            error: Why it could not be handled.
            failed: Whether `frame` is a result that is recorded as a failure.
        """
        if error is not None and self._settle(frame, error, failed=failed):
            return
        self._handling -= 1
        self._one_handled.set()

    def _settle(self, frame: Result | Progress | Call, error: BaseException, *, failed: bool) -> bool:
        """Settle a frame that could not be handled; return whether its handling goes on."""
        link = self._link
        passes = isinstance(error, Unavailable | LimitExceeded) or not isinstance(error, Exception)
        _log.log(
            logging.WARNING if passes else logging.ERROR,
            "a frame %s of node %s could not be handled: %s",
            frame.type,
            link.node_id,
            error,
            exc_info=None if passes else error,
        )
        match frame:
            case Progress():
                pass  # the next one replaces it
            case Call() if not passes:
                link.post(CallResult(op_id=frame.op_id, problem=_problem("the call", error)))
            case Result() if not passes and not failed:
                done = partial(self._handled, frame, failed=True)
                try:
                    self._engine.fail_result(link, frame, _problem("the result", error), done)
                except Exception as second:  # noqa: BLE001 - logged; the node sends the result again over its next link
                    return self._settle(frame, second, failed=True)
                return True
            case _:
                link.end(_reason(error))
        return False


def _problem(what: str, error: BaseException) -> dict[str, Any]:
    """Return the problem of a frame that the control plane failed at; the node would repeat it over every next link."""
    if isinstance(error, AgentFieldError):
        return error.to_problem()
    return AgentFieldError(f"The control plane failed at {what}.", hint=_LOG, code="internal_error").to_problem()


def _reason(error: BaseException) -> str:
    return (
        error.message
        if isinstance(error, AgentFieldError)
        else f"the control plane failed at it ({type(error).__name__})"
    )


async def close_socket(socket: web.WebSocketResponse, request: web.Request, why: str) -> None:
    """Close a socket with a reason; abort the connection of a peer that does not answer in time."""
    if not socket.closed:
        message = why.encode()[:120]
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY, message=message)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
