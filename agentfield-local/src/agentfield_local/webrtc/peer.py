"""The server's end of a WebRTC call: answers one offer, carries audio and the event channel, knows when it is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from agentfield_local.behaviour import Breaks
from agentfield_local.media import PacedTrack
from agentfield_local.realtime.conversation import CALLER
from agentfield_local.realtime.legs import ChannelLeg
from agentfield_local.realtime.live import LiveSession
from agentfield_local.refusals import Refusal
from agentfield_local.tasks import Tasks
from agentfield_local.webrtc.gathering import UdpPorts, advertise, gather_from
from agentfield_local.webrtc.jitter import receive_promptly
from agentfield_local.webrtc.options import MediaOptions

__all__ = ["CHANNEL_LABEL", "Peer"]

CHANNEL_LABEL = "oai-events"
_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5.0
_GAP_MS = 400
_UNANSWERABLE = (
    *(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError),
    *(InternalError, InvalidAccessError, InvalidStateError, OperationError),
)
"""What the library raises on an offer that it cannot parse or answer."""


class Peer:
    """One peer connection of a session.

    Args:
        session: What is heard, said and told.
        options: How media is received.
        ports: Where; None lets the system choose.
        breaks: How the connection breaks.
        on_live: Called when the connection is up.
        on_gone: Called once, with `ice_failed` or `peer_gone`, when there is no connection (any more).
    """

    def __init__(
        self,
        session: LiveSession,
        *,
        options: MediaOptions,
        ports: UdpPorts | None,
        breaks: Breaks,
        on_live: Callable[[], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self._session = session
        self._options = options
        self._ports = ports
        self._breaks = breaks
        self._on_live = on_live
        self._on_gone = on_gone
        self._tasks = Tasks()
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track = PacedTrack(session.pull)
        self._leg: ChannelLeg | None = None
        self._up = asyncio.Event()
        self._over = False
        self._connection.addTrack(self._track)
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer that passed the gate.

        Raises:
            Refusal: The library cannot make a connection of it, or no UDP port is free.
        """
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            if self._ports is not None:
                gather_from(self._connection, self._ports)
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except _UNANSWERABLE as error:
            _log.info("an offer was refused: %s", type(error).__name__)
            raise Refusal(
                "The SDP offer was refused: it cannot be answered.", code="invalid_offer", param="sdp"
            ) from None
        self._tasks.start(self._watch(), "connect")
        sdp = self._connection.localDescription.sdp
        return sdp if self._options.advertise is None else advertise(sdp, self._options.advertise)

    async def close(self) -> None:
        """Close the connection and everything that it runs."""
        self._over = True
        self._drop_leg()
        self._track.stop()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.close()
        except TimeoutError:
            _log.warning("a peer connection did not close in %s s", _CLOSE_SECONDS)
        await self._tasks.close()

    async def _watch(self) -> None:
        try:
            async with asyncio.timeout(self._options.connect_seconds):
                await self._up.wait()
        except TimeoutError:
            self._gone("ice_failed")

    def _on_state(self) -> None:
        match self._connection.connectionState:
            case "connected":
                self._up.set()
                self._on_live()
            case "failed" | "closed":
                self._gone("peer_gone" if self._up.is_set() else "ice_failed")

    def _gone(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._on_gone(reason)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL_LABEL or self._leg is not None:
            channel.close()
            return
        leg = self._leg = ChannelLeg(CALLER, channel, breaks=self._breaks, vanish=lambda: self._gone("peer_gone"))
        channel.on("message", lambda message: self._session.receive(leg, message))
        channel.on("close", self._drop_leg)
        self._session.attach(leg)

    def _drop_leg(self) -> None:
        if self._leg is not None:
            self._session.detach(self._leg)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            for receiver in self._connection.getReceivers():
                receive_promptly(receiver, self._options.jitter_prefetch)
            self._tasks.start(self._listen(track), "listen")

    async def _listen(self, track: MediaStreamTrack) -> None:
        """Pass on what the caller says; a caller whose packets stop is silent, not frozen in mid-word."""
        await self._up.wait()
        while True:
            try:
                async with asyncio.timeout(_GAP_MS / 1000):
                    frame = await track.recv()
            except TimeoutError:
                self._session.caller_silence(_GAP_MS)
            except MediaStreamError:
                return
            else:
                if isinstance(frame, AudioFrame):
                    self._session.caller_frame(frame)
