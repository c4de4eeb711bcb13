"""WebSockets: a conversation of its own, or the sideband of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import WSMsgType, web

from agentfield_local.behaviour import Behaviour, Breaks
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.ids import new_id
from agentfield_local.realtime.calls import Calls
from agentfield_local.realtime.legs import SocketLeg
from agentfield_local.realtime.live import LiveSession
from agentfield_local.refusals import Refusal

__all__ = ["Sockets"]

_MAX_MESSAGE = 24 * 1024 * 1024
_MAX_SOCKETS = 256
_HEARTBEAT_SECONDS = 20.0


class Sockets:
    """Serves the WebSockets of a server.

    Args:
        pool: The engines.
        calls: The calls, for sidebands.
        clock: The sessions' clock.
        behaviour: Returns the switches that hold now.
    """

    def __init__(self, pool: EnginesPool, calls: Calls, clock: Clock, behaviour: Callable[[], Behaviour]) -> None:
        self.sessions: list[LiveSession] = []
        self._pool = pool
        self._calls = calls
        self._clock = clock
        self._behaviour = behaviour
        self._legs: set[SocketLeg] = set()
        self._seen: Behaviour | None = None
        self._dropped = 0

    async def conversation(
        self, request: web.Request, model: str | None, session: Mapping[str, Any]
    ) -> web.WebSocketResponse:
        """Serve a session of its own.

        Args:
            request: The upgrade.
            model: The model of the query; None where the first `session.update` names it.
            session: The session of a client secret, or nothing.
        """
        live = LiveSession(
            self._pool,
            self._behaviour(),
            self._clock,
            model=model or session.get("model"),
            transcription=session.get("type") == "transcription",
            on_end=lambda _: None,
        )
        try:
            if session:
                live.conversation.config.update(session)
            live.open()
            self.sessions.append(live)
            return await self._serve(request, live)
        finally:
            await live.close()
            if live in self.sessions:
                self.sessions.remove(live)

    async def sideband(self, request: web.Request, call_id: str) -> web.WebSocketResponse:
        """Serve a second leg of a call.

        Raises:
            Refusal: `call_id_not_found`.
        """
        call = self._calls.find_for_sideband(call_id)
        if call.session is None:
            raise Refusal("No session found for the provided call_id", code="call_id_not_found", param="call_id")
        try:
            return await self._serve(request, call.session)
        finally:
            self._calls.leg_left(call)

    async def _serve(self, request: web.Request, live: LiveSession) -> web.WebSocketResponse:
        if len(self._legs) >= _MAX_SOCKETS:
            raise Refusal("Too many connections at once.", code="rate_limit_exceeded", kind="rate_limit_error")
        socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=_MAX_MESSAGE, heartbeat=_HEARTBEAT_SECONDS)
        if not socket.can_prepare(request).ok:
            raise Refusal("This address is a WebSocket.", code="invalid_request")
        leg = SocketLeg(new_id("leg"), socket, breaks=self._breaks(), abort=lambda: _abort(request))
        self._legs.add(leg)
        try:
            await socket.prepare(request)
            async with asyncio.TaskGroup() as group:
                group.create_task(leg.run())
                live.attach(leg)
                await self._read(socket, leg, live)
        finally:
            self._legs.discard(leg)
            live.detach(leg)
        return socket

    async def _read(self, socket: web.WebSocketResponse, leg: SocketLeg, live: LiveSession) -> None:
        try:
            async for message in socket:
                match message.type:
                    case WSMsgType.TEXT | WSMsgType.BINARY:
                        live.receive(leg, message.data)
        finally:
            leg.end()

    def _breaks(self) -> Breaks:
        """Return how the next socket breaks; so many are dropped as the switches say."""
        behaviour = self._behaviour()
        if behaviour is not self._seen:
            self._seen, self._dropped = behaviour, 0
        breaks = behaviour.breaks
        if breaks.drop_after is None or (breaks.drop_count is not None and self._dropped >= breaks.drop_count):
            return replace(breaks, drop_after=None)
        self._dropped += 1
        return breaks

    def cut(self) -> None:
        """Break every connection, without a close frame."""
        for leg in list(self._legs):
            leg.end(1006)

    def end(self) -> None:
        """Close every socket after what is queued for it."""
        for leg in list(self._legs):
            leg.end()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
