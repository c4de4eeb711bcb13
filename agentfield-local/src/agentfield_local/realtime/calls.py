"""The calls of a server: each a session with its peer, until somebody hangs up or the caller is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from agentfield_local.behaviour import Behaviour
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.ids import new_id
from agentfield_local.realtime.live import LiveSession
from agentfield_local.refusals import Refusal
from agentfield_local.tasks import Tasks
from agentfield_local.webrtc.gathering import UdpPorts
from agentfield_local.webrtc.options import MediaOptions
from agentfield_local.webrtc.peer import Peer
from agentfield_local.webrtc.playout import Playout

__all__ = ["Call", "Calls"]

_log = logging.getLogger(__name__)
_MAX_CALLS = 64
_MAX_ENDED = 1000
_ICE_FAILED = 4408
"""Close code of a sideband whose caller never connected."""


class Call:
    """One WebRTC call, as a test may look at it.

    Attributes:
        id: The `rtc_…` id.
        state: `connecting`, `live` or `ended`.
        end_reason: `hangup`, `peer_gone`, `ice_failed`, `expired` or `shutdown`, once ended.
        hangups: How often a hang-up was asked for.
        session_payload: The `session` that the call was created with.
        headers: Names and values of the creating request, without credentials.
    """

    def __init__(self, call_id: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.id = call_id
        self.state: Literal["connecting", "live", "ended"] = "connecting"
        self.end_reason: str | None = None
        self.hangups = 0
        self.session_payload = dict(payload)
        self.headers = dict(headers)
        self.session: LiveSession | None = None
        self.peer: Peer | None = None
        self.known_at = 0.0
        self._updates: list[dict[str, Any]] = []

    @property
    def session_updates(self) -> list[dict[str, Any]]:
        """The `session` objects that clients sent in `session.update`, in order."""
        return list(self._updates if self.session is None else self.session.session_updates)

    @property
    def legs(self) -> int:
        """How many legs are attached."""
        return 0 if self.session is None else self.session.legs

    def forget(self) -> None:
        """Let go of the session and the peer, whose audio would be kept as long as the record of the call."""
        self._updates = self.session_updates
        self.session = self.peer = None


class Calls:
    """All calls of a server.

    Args:
        pool: The engines.
        behaviour: Returns the switches that hold now.
        clock: The sessions' clock.
        on_change: Called when a call began or ended.
        media: How media is received.
    """

    def __init__(
        self,
        pool: EnginesPool,
        behaviour: Callable[[], Behaviour],
        clock: Clock,
        on_change: Callable[[], None],
        media: MediaOptions,
    ) -> None:
        self._media = media
        self._ports = None if media.udp_ports is None else UdpPorts(*media.udp_ports)
        self._pool = pool
        self._behaviour = behaviour
        self._clock = clock
        self._on_change = on_change
        self._tasks = Tasks()
        self._calls: dict[str, Call] = {}
        self._open: dict[str, Call] = {}

    @property
    def all(self) -> list[Call]:
        """Calls, oldest first, ended ones included."""
        return list(self._calls.values())

    @property
    def open_count(self) -> int:
        """Calls with a caller or a sideband."""
        return len(self._open)

    async def create(self, offer: str, payload: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[Call, str]:
        """Answer an offer.

        Returns:
            The call and the SDP answer.

        Raises:
            Refusal: The session or the offer is wrong, or there are too many calls.
        """
        if len(self._open) >= _MAX_CALLS:
            raise Refusal("Too many calls at once.", code="rate_limit_exceeded", kind="rate_limit_error")
        call = Call(new_id("rtc"), payload, headers)
        playout = Playout()
        model = payload.get("model")
        behaviour = self._behaviour()
        session = LiveSession(
            self._pool,
            behaviour,
            self._clock,
            model=model if isinstance(model, str) else None,
            playout=playout,
            transcription=payload.get("type") == "transcription",
            on_end=lambda reason: self._end_soon(call, reason),
        )
        peer = Peer(
            session,
            options=self._media,
            ports=self._ports,
            breaks=behaviour.breaks,
            on_live=lambda: self._live(call),
            on_gone=lambda reason: self._gone(call, playout, reason),
        )
        call.session, call.peer = session, peer
        try:
            if payload:
                session.conversation.config.update(payload)
            session.open()
            answer = await peer.answer(offer)
        except BaseException:
            await self._free(call)
            raise
        call.known_at = self._clock.now() + behaviour.unknown_call_ms / 1000
        self._calls[call.id] = self._open[call.id] = call
        while len(self._calls) > _MAX_ENDED:
            self._calls.pop(next(iter(self._calls)))
        self._on_change()
        return call, answer

    def find(self, call_id: str) -> Call:
        """Return a call that has a session to attach to.

        Raises:
            Refusal: `call_id_not_found`; it never was, or it is over.
        """
        call = self._open.get(call_id)
        if call is None or call.state == "ended":
            raise Refusal("No session found for the provided call_id", code="call_id_not_found", param="call_id")
        return call

    def find_for_sideband(self, call_id: str) -> Call:
        """Return a call to attach to; a new one may not be known yet, as the switches say.

        Raises:
            Refusal: `call_id_not_found`; it never was, is over, or is too new.
        """
        call = self.find(call_id)
        if self._clock.now() < call.known_at:
            raise Refusal("No session found for the provided call_id", code="call_id_not_found", param="call_id")
        return call

    async def hang_up(self, call_id: str) -> None:
        """End a call because a client asked for it.

        Raises:
            Refusal: `call_id_not_found`; the call is over already.
        """
        known = self._calls.get(call_id)
        if known is not None:
            known.hangups += 1
        call = self._open.get(call_id)
        if call is None:
            raise Refusal("No session found for the provided call_id", code="call_id_not_found", param="call_id")
        await self.end(call, "hangup")

    async def end(self, call: Call, reason: str) -> None:
        """End a call: tell its legs, free everything."""
        if self._open.pop(call.id, None) is None:
            return
        self._mark(call, reason)
        if call.session is not None:
            call.session.end_legs(*((_ICE_FAILED, reason) if reason == "ice_failed" else (1000, "")))
        await self._free(call)
        call.forget()
        self._on_change()

    def leg_left(self, call: Call) -> None:
        """A sideband is gone: a call without caller and without legs is over."""
        if call.state == "ended" and call.legs == 0:
            self._end_soon(call, call.end_reason or "peer_gone")

    async def close(self) -> None:
        """End every call."""
        for call in list(self._open.values()):
            await self.end(call, "shutdown")
        await self._tasks.close()

    def _live(self, call: Call) -> None:
        if call.state == "connecting":
            call.state = "live"

    def _mark(self, call: Call, reason: str) -> None:
        if call.state != "ended":
            call.state = "ended"
            call.end_reason = reason

    def _end_soon(self, call: Call, reason: str) -> None:
        self._tasks.start(self.end(call, reason), f"end {call.id}")

    def _gone(self, call: Call, playout: Playout, reason: str) -> None:
        """The caller is gone; the media is freed, a sideband is told only if the switch says so."""
        if reason == "ice_failed":
            _log.warning(
                "call %s: no media connection within %g s (ice_failed); hint: let UDP through between the caller and "
                "this machine; --udp-ports LOW-HIGH fixes the ports, --advertise ADDRESS names the address",
                *(call.id, self._media.connect_seconds),
            )
        playout.close()
        self._mark(call, reason)
        self._on_change()
        self._tasks.start(self._settle(call, reason), f"settle {call.id}")

    async def _settle(self, call: Call, reason: str) -> None:
        """Close the peer first, which takes its own leg away; then end the call unless a silent sideband holds it."""
        if call.peer is not None:
            await call.peer.close()
        if reason == "ice_failed" or self._behaviour().vanish_notifies_sideband or call.legs == 0:
            await self.end(call, reason)

    async def _free(self, call: Call) -> None:
        if call.peer is not None:
            await call.peer.close()
        if call.session is not None:
            await call.session.close()
