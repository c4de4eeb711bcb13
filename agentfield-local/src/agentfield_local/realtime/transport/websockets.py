"""WebSocket sessions: a session of its own, or a sideband that joins a WebRTC call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import WSMsgType, web

from agentfield_local.faults.behaviour import Behaviour, DisconnectFaults
from agentfield_local.realtime.configuration.beta_shape import BETA_CLOSE, check_beta_shape, is_beta_client
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.realtime.transport.calls import CallRegistry
from agentfield_local.realtime.transport.websocket_leg import ABORT, WebSocketLeg
from agentfield_local.runtime.clock import Clock
from agentfield_local.speech.pool import EnginePool
from agentfield_local.wire.ids import new_id
from agentfield_local.wire.refusals import Refusal

__all__ = ["WebSocketSessions"]

_MAX_MESSAGE = 24 * 1024 * 1024
_MAX_SOCKETS = 256
_HEARTBEAT_SECONDS = 20.0


class WebSocketSessions:
    """Serves the WebSockets of a server.

    Args:
        pool: The engines.
        calls: The calls, for sidebands.
        clock: Clock of the sessions.
        behaviour: Returns the current behaviour.
    """

    def __init__(self, pool: EnginePool, calls: CallRegistry, clock: Clock, behaviour: Callable[[], Behaviour]) -> None:
        self.sessions: list[SessionRunner] = []
        self._pool = pool
        self._calls = calls
        self._clock = clock
        self._behaviour = behaviour
        self._legs: set[WebSocketLeg] = set()
        self._counted: Behaviour | None = None
        self._dropped = 0

    async def serve_session(
        self, request: web.Request, model: str | None, session: Mapping[str, Any]
    ) -> web.WebSocketResponse:
        """Serve a socket with a session of its own, which ends with the socket.

        Args:
            request: The upgrade.
            model: The model of the query; None if the first `session.update` names it.
            session: The session of a client secret; empty without one.
        """
        runner = SessionRunner(
            self._pool,
            self._behaviour(),
            self._clock,
            model=model or session.get("model"),
            transcription=session.get("type") == "transcription",
            on_end=lambda _: None,
        )
        try:
            if session:
                runner.conversation.config.update(session)
            runner.open()
            self.sessions.append(runner)
            return await self._serve(request, runner, beta=is_beta_client(request.headers.get("OpenAI-Beta")))
        finally:
            await runner.close()
            if runner in self.sessions:
                self.sessions.remove(runner)

    async def serve_sideband(self, request: web.Request, call_id: str) -> web.WebSocketResponse:
        """Serve a socket as a further leg of a call.

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

    async def _serve(self, request: web.Request, runner: SessionRunner, *, beta: bool = False) -> web.WebSocketResponse:
        if len(self._legs) >= _MAX_SOCKETS:
            raise Refusal("Too many connections at once.", code="rate_limit_exceeded", kind="rate_limit_error")
        socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=_MAX_MESSAGE, heartbeat=_HEARTBEAT_SECONDS)
        if not socket.can_prepare(request).ok:
            raise Refusal("This address is a WebSocket.", code="invalid_request")
        leg = WebSocketLeg(new_id("leg"), socket, disconnects=self._next_disconnects(), abort=lambda: _abort(request))
        self._legs.add(leg)
        try:
            await socket.prepare(request)
            await asyncio.sleep(self._behaviour().created_delay_ms / 1000)
            async with asyncio.TaskGroup() as group:
                group.create_task(leg.run())
                runner.attach(leg)
                await self._read(socket, leg, runner, beta=beta)
        finally:
            self._legs.discard(leg)
            runner.detach(leg)
        return socket

    async def _read(
        self, socket: web.WebSocketResponse, leg: WebSocketLeg, runner: SessionRunner, *, beta: bool
    ) -> None:
        try:
            async for message in socket:
                match message.type:
                    case WSMsgType.TEXT | WSMsgType.BINARY:
                        if beta:
                            check_beta_shape(message.data)
                        runner.receive(leg, message.data)
        except Refusal as refusal:
            leg.send({"type": "error", "event_id": new_id("event"), "error": refusal.body()})
            leg.end(*BETA_CLOSE)
        finally:
            leg.end()  # ends `leg.run`, for which the task group waits

    def _next_disconnects(self) -> DisconnectFaults:
        """Return the faults of the next socket; no drop once the behaviour's count of drops is reached."""
        behaviour = self._behaviour()
        if behaviour is not self._counted:  # a test replaced it: the count starts anew
            self._counted, self._dropped = behaviour, 0
        disconnects = behaviour.disconnects
        if disconnects.drop_after is None or (
            disconnects.drop_count is not None and self._dropped >= disconnects.drop_count
        ):
            return replace(disconnects, drop_after=None)
        self._dropped += 1
        return disconnects

    def abort_all(self) -> None:
        """Cut every connection without a close frame."""
        for leg in list(self._legs):
            leg.end(ABORT)

    def close_all(self) -> None:
        """Close every socket after its queued events."""
        for leg in list(self._legs):
            leg.end()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
