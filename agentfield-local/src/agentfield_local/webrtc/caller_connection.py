"""Peer connection of a WebRTC caller: answers one offer, carries audio and the event channel, and reports its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from agentfield_local.faults.behaviour import DisconnectFaults
from agentfield_local.runtime.tasks import TaskSet
from agentfield_local.webrtc.data_channel import DataChannelLeg
from agentfield_local.webrtc.ice import UdpPortRange, gather_on_ports, release_transports, with_address
from agentfield_local.webrtc.jitter_buffer import set_jitter_prefetch
from agentfield_local.webrtc.media import PacedTrack
from agentfield_local.webrtc.options import MediaOptions
from agentfield_local.wire.refusals import Refusal

__all__ = ["CallerConnection", "CallerSession"]

_CHANNEL_LABEL = "oai-events"
_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5.0
_GAP_MS = 400


class CallerSession(Protocol):
    """What a connection needs from the session that it belongs to."""

    def attach(self, leg: DataChannelLeg) -> None:
        """Add the caller's data channel."""

    def detach(self, leg: DataChannelLeg) -> None:
        """Remove it."""

    def receive(self, leg: DataChannelLeg, text: str | bytes) -> None:
        """Handle one client event."""

    def caller_frame(self, frame: AudioFrame) -> None:
        """Take a decoded frame of the caller's audio."""

    def caller_silence(self, ms: int) -> None:
        """Take this much silence."""

    def pull(self, size: int) -> bytes:
        """Return the next bytes to play (48 kHz s16le mono)."""


class CallerConnection:
    """One peer connection of a session.

    It owns the aiortc connection, the outgoing track and the background tasks; `close` releases all of them.

    Args:
        session: The session of the caller.
        leg_name: Name of the caller's data channel in the session.
        options: Settings of media.
        ports: UDP ports of media; None lets the system choose.
        disconnects: Connection faults to inject.
        on_live: Called when the connection is established.
        on_lost: Called once with `ice_failed` (never established) or `peer_gone` when the connection ends, unless
            `close` ended it.
    """

    def __init__(
        self,
        session: CallerSession,
        leg_name: str,
        *,
        options: MediaOptions,
        ports: UdpPortRange | None,
        disconnects: DisconnectFaults,
        on_live: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._session = session
        self._leg_name = leg_name
        self._options = options
        self._ports = ports
        self._disconnects = disconnects
        self._on_live = on_live
        self._on_lost = on_lost
        self._tasks = TaskSet()
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track = PacedTrack(session.pull)
        self._leg: DataChannelLeg | None = None
        self._has_channel = False
        self._connected = asyncio.Event()
        self._ended = False
        self._connection.addTrack(self._track)
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, offer: str) -> str:
        """Return the answer to an offer that passed `check_offer`.

        Raises:
            Refusal: aiortc cannot answer the offer, or no UDP port is free.
        """
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            if self._ports is not None:
                gather_on_ports(self._connection, self._ports)
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except (Refusal, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - aiortc validates nothing and may raise anything, also StopIteration
            _log.info("an offer was refused: %s", type(error).__name__)
            raise Refusal(
                "The SDP offer was refused: it cannot be answered.", code="invalid_offer", param="sdp"
            ) from None
        self._tasks.start(self._watch_connect(), "connect")
        sdp = self._connection.localDescription.sdp
        return sdp if self._options.advertise is None else with_address(sdp, self._options.advertise)

    async def close(self) -> None:
        """Close the connection and stop its tasks."""
        self._ended = True  # before the close: its state change must not be reported as a lost connection
        self._drop_leg()
        self._track.stop()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.close()
        except TimeoutError:
            _log.warning("a peer connection did not close in %s s", _CLOSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - aiortc cannot close a connection whose offer it took only in part
            _log.info("a peer connection did not close: %s", type(error).__name__)
        await self._tasks.close()
        release_transports(self._connection)

    async def _watch_connect(self) -> None:
        try:
            async with asyncio.timeout(self._options.connect_seconds):
                await self._connected.wait()
        except TimeoutError:
            self._lost("ice_failed")

    def _on_state(self) -> None:
        match self._connection.connectionState:
            case "connected":
                self._connected.set()
                self._on_live()
            case "failed" | "closed":
                self._lost("peer_gone" if self._connected.is_set() else "ice_failed")

    def _lost(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._on_lost(reason)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != _CHANNEL_LABEL or self._has_channel:
            channel.close()
            return
        self._has_channel = True
        leg = self._leg = DataChannelLeg(
            self._leg_name,
            channel,
            vanish_after=self._disconnects.vanish_after,
            vanish=lambda: self._lost("peer_gone"),
        )
        channel.on("message", lambda message: self._session.receive(leg, message))
        channel.on("close", self._drop_leg)
        self._session.attach(leg)

    def _drop_leg(self) -> None:
        leg, self._leg = self._leg, None
        if leg is not None:
            self._session.detach(leg)

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            for receiver in self._connection.getReceivers():
                set_jitter_prefetch(receiver, self._options.jitter_prefetch)
            self._tasks.start(self._listen(track), "listen")

    async def _listen(self, track: MediaStreamTrack) -> None:
        """Pass the caller's audio on; replace a gap in its packets with silence.

        Without the silence a caller whose packets stop in mid-word would never end its turn: voice activity detection
        advances with the audio only.
        """
        await self._connected.wait()
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
