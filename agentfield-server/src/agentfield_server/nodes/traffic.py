"""What goes over one node link: frames both ways, until it ends; what the node had sent by then is still worked off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import aiohttp
from aiohttp import web

from agentfield.errors import AgentFieldError, NodeRefused
from agentfield.wire.frames import Accepted, Call, Drain, Ping, Pong, Progress, Result, SessionCommand, SessionDone
from agentfield_server.nodes.greeting import decode, refuse
from agentfield_server.nodes.link import NodeLink
from agentfield_server.nodes.ports import EnginePort, SessionPort

__all__ = ["CLOSE_DEADLINE", "Traffic", "close"]

_log = logging.getLogger("agentfield.nodes")

CLOSE_DEADLINE = 1.0
"""Seconds that a node has to answer a close."""
_AT_ONCE = 256


class Traffic:
    """Carries the frames of a link that was welcomed.

    Args:
        link: The link.
        socket: Its WebSocket.
        engine: Who runs executions.
        sessions: Who runs sessions, if anybody.
        drains: Told when the node says that it drains.
        ping: Seconds between pings.
        dead: Seconds of silence after which the node is given up.
        monotonic: A clock that never jumps, for silence.
    """

    def __init__(
        self,
        link: NodeLink,
        socket: web.WebSocketResponse,
        *,
        engine: EnginePort,
        sessions: SessionPort | None,
        drains: Callable[[NodeLink], None],
        ping: float,
        dead: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._link = link
        self._socket = socket
        self._engine = engine
        self._sessions = sessions
        self._drains = drains
        self._ping = ping
        self._dead = dead
        self._monotonic = monotonic

    async def carry(self) -> None:
        """Carry frames both ways until the link ends for whatever reason."""
        link = self._link
        async with asyncio.TaskGroup() as work:
            ends = [
                asyncio.create_task(self._read(work)),
                asyncio.create_task(link.write()),
                asyncio.create_task(self._watch()),
                asyncio.create_task(link.until_ended()),
            ]
            try:
                done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in ends:
                    task.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                await link.stop_followers()
            # frames that were read are still worked off: the task group waits for them
            for task in done:
                match task.exception():
                    case None:
                        pass
                    case AgentFieldError() | ConnectionError() as error:
                        link.end(str(error))
                    case error:
                        raise error

    async def _watch(self) -> None:
        """Ping, and give the node up when it is silent; a control plane that was itself frozen listens once more."""
        link = self._link
        last = link.heard_at = self._monotonic()
        while True:
            await link.send(Ping())
            await asyncio.sleep(self._ping)
            now = self._monotonic()
            if now - last > 2 * self._ping:
                link.heard_at = now
            last = now
            if now - link.heard_at > self._dead:
                link.end(f"it was silent for {self._dead:g} s", silent=True)
                return

    async def _read(self, work: asyncio.TaskGroup) -> None:
        link, socket = self._link, self._socket
        room = asyncio.Semaphore(_AT_ONCE)
        while True:
            message = await socket.receive()
            match message.type:
                case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    link.end("it closed the link")
                    return
                case aiohttp.WSMsgType.ERROR:
                    link.end(f"its connection broke ({message.data})", silent=True)
                    return
            try:
                frames = decode(message)
            except NodeRefused as error:
                await refuse(socket, error)
                link.end(error.message)
                return
            link.heard_at = self._monotonic()
            entered = _entered_and_done(frames)
            for frame in frames:
                link.heard(frame)
                if not (isinstance(frame, Accepted) and (frame.execution_id, frame.attempt) in entered):
                    await self._dispatch(frame, work, room, entered)

    async def _dispatch(
        self, frame: Any, work: asyncio.TaskGroup, room: asyncio.Semaphore, entered: AbstractSet[tuple[str, int]]
    ) -> None:
        link = self._link
        match frame:
            case Ping():
                await link.send(Pong())
            case Pong():
                pass
            case Drain():
                self._drains(link)
            case Accepted() | Result() | Progress() | Call():
                await room.acquire()
                work.create_task(_settle(self._engine, link, frame, room, entered))
            case SessionCommand() if self._sessions is not None:
                await self._sessions.session_command(link, frame)
            case SessionDone() if self._sessions is not None:
                await self._sessions.session_done(link, frame)
            case _:
                _log.warning("node %s sent %s in the middle of a link", link.node_id, frame.type)


def _entered_and_done(frames: Sequence[Any]) -> AbstractSet[tuple[str, int]]:
    """Return the attempts whose entry and success are told in one message; both are recorded at once then."""
    if len(frames) == 1:
        return frozenset()
    done = {(f.execution_id, f.attempt) for f in frames if isinstance(f, Result) and f.status == "succeeded"}
    return done & {(f.execution_id, f.attempt) for f in frames if isinstance(f, Accepted)}


async def _settle(
    engine: EnginePort,
    link: NodeLink,
    frame: Accepted | Result | Progress | Call,
    room: asyncio.Semaphore,
    entered: AbstractSet[tuple[str, int]],
) -> None:
    try:
        match frame:
            case Accepted():
                await engine.accepted(link, frame)
            case Result():
                await engine.result(link, frame, entered=(frame.execution_id, frame.attempt) in entered)
            case Progress():
                await engine.progress(link, frame)
            case Call():
                await engine.call(link, frame)
    except AgentFieldError as error:
        # nothing was acknowledged: the node sends it again over its next link
        _log.warning("a frame of node %s could not be settled: %s", link.node_id, error.message)
        link.end(error.message)
    except Exception as error:  # noqa: BLE001 - whatever it was, it is logged and ends the link
        # the same, and what else was read is worked off: one failure must not cancel what others have begun
        _log.exception("a frame of node %s could not be settled", link.node_id)
        link.end(f"the control plane failed at it ({type(error).__name__})")
    finally:
        room.release()


async def close(socket: web.WebSocketResponse, request: web.Request, why: str) -> None:
    """Close a socket with a reason; a peer that does not answer in time is cut off."""
    if not socket.closed:
        message = why.encode()[:120]
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY, message=message)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
