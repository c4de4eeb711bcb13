"""WebRTC calls: each a session with its caller's connection, until a hang-up, the caller's disconnect or expiry.

A call whose caller has disconnected stays open while a sideband is attached, unless the behaviour closes sidebands:
providers do not tell a sideband that its caller is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.realtime.conversation.machine import CALLER
from agentfield_local.realtime.session.runner import SessionRunner
from agentfield_local.runtime.clock import Clock
from agentfield_local.runtime.tasks import TaskSet
from agentfield_local.speech.pool import EnginePool
from agentfield_local.webrtc.caller_connection import CallerConnection
from agentfield_local.webrtc.ice import UdpPortRange
from agentfield_local.webrtc.options import MediaOptions
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer
from agentfield_local.wire.ids import new_id
from agentfield_local.wire.refusals import Refusal

__all__ = ["CallRegistry", "WebRtcCall"]

_log = logging.getLogger(__name__)
_MAX_CALLS = 64
_MAX_ENDED = 1000
_ICE_FAILED = 4408
"""Close code of a sideband whose caller never connected."""


class WebRtcCall:
    """One WebRTC call; its attributes are for tests.

    Attributes:
        id: The `rtc_…` id.
        state: `connecting`, `live` or `ended`.
        end_reason: `hangup`, `peer_gone`, `ice_failed`, `expired` or `shutdown`, once ended.
        hangups: Number of hang-up requests.
        session_payload: The `session` that the call was created with.
        headers: Headers of the creating request, without credentials.
    """

    def __init__(self, call_id: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.id = call_id
        self.state: Literal["connecting", "live", "ended"] = "connecting"
        self.end_reason: str | None = None
        self.hangups = 0
        self.session_payload = dict(payload)
        self.headers = dict(headers)
        self.session: SessionRunner | None = None
        self.connection: CallerConnection | None = None
        self.known_at = 0.0
        self._updates: list[dict[str, Any]] = []

    @property
    def session_updates(self) -> list[dict[str, Any]]:
        """The `session` objects that clients sent in `session.update`, in order."""
        return list(self._updates if self.session is None else self.session.session_updates)

    @property
    def legs(self) -> int:
        """Number of attached legs."""
        return 0 if self.session is None else self.session.legs

    def release(self) -> None:
        """Drop the session and the connection: their audio must not live as long as this record."""
        self._updates = self.session_updates
        self.session = self.connection = None


class CallRegistry:
    """All calls of a server.

    Args:
        pool: The engines.
        behaviour: Returns the current behaviour.
        clock: Clock of the sessions.
        on_change: Called when a call began or ended.
        media: Settings of media.
    """

    def __init__(
        self,
        pool: EnginePool,
        behaviour: Callable[[], Behaviour],
        clock: Clock,
        on_change: Callable[[], None],
        media: MediaOptions,
    ) -> None:
        self._media = media
        self._ports = None if media.udp_ports is None else UdpPortRange(*media.udp_ports)
        self._pool = pool
        self._behaviour = behaviour
        self._clock = clock
        self._on_change = on_change
        self._tasks = TaskSet()
        self._calls: dict[str, WebRtcCall] = {}
        self._open_calls: dict[str, WebRtcCall] = {}

    @property
    def all(self) -> list[WebRtcCall]:
        """Calls, oldest first, including ended ones."""
        return list(self._calls.values())

    @property
    def open_count(self) -> int:
        """Number of calls with a caller or a sideband."""
        return len(self._open_calls)

    async def create(
        self, offer: str, payload: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[WebRtcCall, str]:
        """Answer an offer.

        Returns:
            The call and the SDP answer.

        Raises:
            Refusal: The session or the offer is invalid, or there are too many calls.
        """
        if len(self._open_calls) >= _MAX_CALLS:
            raise Refusal("Too many calls at once.", code="rate_limit_exceeded", kind="rate_limit_error")
        call = WebRtcCall(new_id("rtc"), payload, headers)
        output_buffer = OutputAudioBuffer()
        model = payload.get("model")
        behaviour = self._behaviour()
        session = SessionRunner(
            self._pool,
            behaviour,
            self._clock,
            model=model if isinstance(model, str) else None,
            output_buffer=output_buffer,
            transcription=payload.get("type") == "transcription",
            on_end=lambda reason: self._schedule_end(call, reason),
        )
        connection = CallerConnection(
            session,
            CALLER,
            options=self._media,
            ports=self._ports,
            disconnects=behaviour.disconnects,
            on_live=lambda: self._live(call),
            on_lost=lambda reason: self._caller_lost(call, output_buffer, reason),
        )
        call.session, call.connection = session, connection
        try:
            if payload:
                session.conversation.config.update(payload)
            session.open()
            answer = await connection.answer(offer)
        except BaseException:
            await self._close(call)
            raise
        call.known_at = self._clock.now() + behaviour.unknown_call_ms / 1000
        self._calls[call.id] = self._open_calls[call.id] = call
        while len(self._calls) > _MAX_ENDED:
            self._calls.pop(next(iter(self._calls)))
        self._on_change()
        return call, answer

    def find(self, call_id: str) -> WebRtcCall:
        """Return a call that has not ended.

        Raises:
            Refusal: `call_id_not_found`; there is no such call, or it has ended.
        """
        call = self._open_calls.get(call_id)
        if call is None or call.state == "ended":
            raise _not_found()
        return call

    def find_for_sideband(self, call_id: str) -> WebRtcCall:
        """Return a call to attach to; a new call may be unknown for a while, as the behaviour says.

        Raises:
            Refusal: `call_id_not_found`; there is no such call, it has ended, or it is too new.
        """
        call = self.find(call_id)
        if self._clock.now() < call.known_at:
            raise _not_found()
        return call

    async def hang_up(self, call_id: str) -> None:
        """End a call at the request of a client.

        Raises:
            Refusal: `call_id_not_found`; the call has ended.
        """
        known = self._calls.get(call_id)
        if known is not None:
            known.hangups += 1
        call = self._open_calls.get(call_id)
        if call is None:
            raise _not_found()
        await self.end(call, "hangup")

    async def end(self, call: WebRtcCall, reason: str) -> None:
        """End a call: close its legs, its connection and its session."""
        # Popped before the first await: a hang-up and a lost caller may end the same call at once.
        if self._open_calls.pop(call.id, None) is None:
            return
        self._mark_ended(call, reason)
        if call.session is not None:
            call.session.end_legs(*((_ICE_FAILED, reason) if reason == "ice_failed" else (1000, "")))
        await self._close(call)
        call.release()
        self._on_change()

    def leg_left(self, call: WebRtcCall) -> None:
        """Handle the end of a sideband: a call without caller and without legs is over."""
        if call.state == "ended" and call.legs == 0:
            self._schedule_end(call, call.end_reason or "peer_gone")

    async def close(self) -> None:
        """End every call."""
        for call in list(self._open_calls.values()):
            await self.end(call, "shutdown")
        await self._tasks.close()

    def _live(self, call: WebRtcCall) -> None:
        if call.state == "connecting":
            call.state = "live"

    def _mark_ended(self, call: WebRtcCall, reason: str) -> None:
        if call.state != "ended":
            call.state = "ended"
            call.end_reason = reason

    def _schedule_end(self, call: WebRtcCall, reason: str) -> None:
        """End a call in a task of its own; the caller is often a task or callback of the call itself."""
        self._tasks.start(self.end(call, reason), f"end {call.id}")

    def _caller_lost(self, call: WebRtcCall, output_buffer: OutputAudioBuffer, reason: str) -> None:
        """Handle the loss of the caller: drop its audio and close its connection."""
        if reason == "ice_failed":
            _log.warning(
                "call %s: no media connection within %g s (ice_failed); hint: let UDP through between the caller and "
                "this machine; --udp-ports LOW-HIGH fixes the ports, --advertise ADDRESS names the address",
                *(call.id, self._media.connect_seconds),
            )
        output_buffer.close()
        self._mark_ended(call, reason)
        self._on_change()
        self._tasks.start(self._after_loss(call, reason), f"close {call.id}")

    async def _after_loss(self, call: WebRtcCall, reason: str) -> None:
        """Close the connection, then end the call unless a sideband keeps it open.

        The order matters: closing the connection detaches the caller's own leg, so that `legs` counts sidebands only.
        """
        if call.connection is not None:
            await call.connection.close()
        if reason == "ice_failed" or self._behaviour().vanish_notifies_sideband or call.legs == 0:
            await self.end(call, reason)

    async def _close(self, call: WebRtcCall) -> None:
        if call.connection is not None:
            await call.connection.close()
        if call.session is not None:
            await call.session.close()


def _not_found() -> Refusal:
    return Refusal("No session found for the provided call_id", code="call_id_not_found", param="call_id")
