"""Liveness of nodes whose event loop is blocked: their watchdogs report over connections of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web

from agentfield.errors import NodeRefused
from agentfield.wire.frames import GiveBack, LoopState, WatchHello
from agentfield_server.nodes.handshake import decode_frames, refuse_link
from agentfield_server.nodes.linked_node import BLOCKED_LIMIT, HANDLERS_LOST, LinkedNode
from agentfield_server.nodes.protocols import EnginePort, SessionPort

__all__ = ["NodeLiveness"]

_log = logging.getLogger("agentfield.nodes")


class NodeLiveness:
    """Handles what nodes say about their event loops, over their links and their watchdogs' connections.

    Args:
        link: Returns the link of an instance, None while it is away.
        engine: Returns the engine.
        sessions: Returns the sessions, None without any.
        silence: Seconds of silence after which a watchdog's connection is closed.
        monotonic: Monotonic clock, seconds.
    """

    def __init__(
        self,
        *,
        link: Callable[[str], LinkedNode | None],
        engine: Callable[[], EnginePort],
        sessions: Callable[[], SessionPort | None],
        silence: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._link = link
        self._engine = engine
        self._sessions = sessions
        self._silence = silence
        self._monotonic = monotonic
        self._watches: dict[str, web.WebSocketResponse] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def watched(self, instance_id: str) -> bool:
        """Return whether the watchdog of an instance is connected: the instance lives, even if its link is lost."""
        return instance_id in self._watches

    async def serve(self, socket: web.WebSocketResponse, hello: WatchHello) -> None:
        """Serve the connection of a watchdog until it ends."""
        instance_id = hello.instance_id
        before, self._watches[instance_id] = self._watches.get(instance_id), socket
        if before is not None:
            await before.close()
        try:
            await self._read(socket, hello)
        finally:
            if self._watches.get(instance_id) is socket:
                del self._watches[instance_id]
            await socket.close()

    def drop(self, instance_id: str) -> None:
        """Forget the watchdog of an instance, so that it does not count as alive; its connection is closed."""
        if (socket := self._watches.pop(instance_id, None)) is not None:
            self._closing.add(task := asyncio.create_task(_close(socket)))
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        for socket in list(self._watches.values()):
            await socket.close()

    async def received(self, link: LinkedNode, frame: LoopState | GiveBack) -> None:
        """Handle a frame about the event loop of a linked instance."""
        match frame:
            case LoopState():
                await self._loop_state(link, frame)
            case GiveBack():
                if taken := link.take_unentered(frame):
                    await self._engine().given_back(link, taken)

    async def _read(self, socket: web.WebSocketResponse, hello: WatchHello) -> None:
        while True:
            try:
                message = await socket.receive(timeout=self._silence)
            except TimeoutError:
                return
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            try:
                frames = decode_frames(message)
            except NodeRefused as error:
                await refuse_link(socket, error)
                return
            for frame in frames:
                await self._watch_frame(frame, hello)

    async def _watch_frame(self, frame: Any, hello: WatchHello) -> None:
        link = self._link(hello.instance_id)
        if link is None or (link.node_id, link.did) != (hello.node_id, hello.did):
            return  # between two links: the watchdog repeats itself, and the next hello says what was given back
        link.heard_at = self._monotonic()
        if isinstance(frame, (LoopState, GiveBack)):
            await self.received(link, frame)

    async def _loop_state(self, link: LinkedNode, frame: LoopState) -> None:
        before, link.loop_blocked = link.loop_blocked, frame.blocked
        link.blocked_by = frame.function
        if before < BLOCKED_LIMIT <= frame.blocked:
            _log.warning(
                "node %s (%s) gets no new work: its event loop has not turned for %.1f s; %s blocks it",
                link.node_id,
                link.instance_id,
                frame.blocked,
                frame.function or "an unknown function",
            )
        elif frame.blocked < BLOCKED_LIMIT <= before:
            _log.info("node %s (%s) gets work again: its event loop turns", link.node_id, link.instance_id)
            self._engine().takes_work_again(link)
        sessions = self._sessions()
        if sessions is None or link.handlers_lost == (frame.blocked >= HANDLERS_LOST):
            return
        link.handlers_lost = not link.handlers_lost
        if link.handlers_lost:
            await sessions.node_lost(link)
        else:
            await sessions.node_recovered(link)


async def _close(socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.close()
