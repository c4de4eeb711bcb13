"""The WebRTC caller against a real peer on loopback: it speaks, listens, measures and hangs up."""

from __future__ import annotations

import asyncio
import fractions
import time
from typing import Self

import aioice.ice
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler

from agentfield.errors import ProviderError, ProviderUnavailable
from agentfield_cli.call import webrtc as caller
from agentfield_cli.call.recordings import FRAME, RATE, is_loud
from agentfield_cli.call.webrtc import place_webrtc_call


def tone(seconds: float) -> np.ndarray:
    at = np.arange(int(RATE * seconds)) / RATE
    return (9000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)


class Voice(MediaStreamTrack):
    """A track of silence, with a tone while one is queued."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.left = np.zeros(0, np.int16)
        self._begun = time.monotonic()
        self._count = 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(max(0.0, self._begun + self._count * 0.02 - time.monotonic()))
        piece, self.left = self.left[:FRAME], self.left[FRAME:]
        frame = AudioFrame.from_ndarray(np.pad(piece, (0, FRAME - piece.size)).reshape(1, -1), layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * FRAME, fractions.Fraction(1, RATE)
        self._count += 1
        return frame


class Agent:
    """The remote peer: records the caller and answers with a tone once the caller is silent."""

    def __init__(self, *, answers: bool = True) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.offer = ""
        self.heard = np.zeros(0, np.int16)
        self.channels: list[str] = []
        self.gone = asyncio.Event()
        self._answers = answers
        self._voice = Voice()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.connection.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def exchange(self, offer: str) -> str:
        self.offer = offer
        self.connection.on("track", self._on_track)
        self.connection.on("datachannel", lambda channel: self.channels.append(channel.label))
        self.connection.addTrack(self._voice)
        await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.connection.setLocalDescription(await self.connection.createAnswer())
        return str(self.connection.localDescription.sdp)

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._task = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler, spoke = AudioResampler(format="s16", layout="mono", rate=RATE), False
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                self.gone.set()
                return
            for out in resampler.resample(frame):
                piece = out.to_ndarray().reshape(-1)
                self.heard = np.append(self.heard, piece)
                if is_loud(piece):
                    spoke = True
                elif spoke and self._answers and not is_loud(self.heard[-FRAME * 10 :]):
                    spoke, self._voice.left = False, tone(0.6)


@pytest.fixture
def own_machine(monkeypatch):
    """The remote peer offers only 127.0.0.1, as on a machine with nothing but `lo`."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


async def test_a_turn_is_spoken_heard_and_measured(own_machine):
    """The caller speaks in real time after a lead-in of silence, and hears the answer after its own last sound."""
    async with Agent() as agent, place_webrtc_call(agent.exchange, loopback=True) as call:
        begun = time.monotonic()
        end = await call.speak(np.append(tone(0.5), np.zeros(RATE // 5, np.int16)))
        first = await call.wait_for_voice(end)
        await call.wait_for_quiet(0.3)
        assert 0 < call.offer_to_answer < 10
        assert begun + 0.3 < end < first
        assert end + 0.15 < time.monotonic()
        assert call.first_heard_at(end) == first
        assert call.first_heard_at(time.monotonic()) is None
        loud = [is_loud(frame) for frame in call.recording[: call.recording.size // FRAME * FRAME].reshape(-1, FRAME)]
        assert 0.5 < sum(loud) * 0.02 < 0.8
    await asyncio.wait_for(agent.gone.wait(), 60)
    frames = agent.heard[: agent.heard.size // FRAME * FRAME].reshape(-1, FRAME)
    spoken = [number for number, frame in enumerate(frames) if is_loud(frame)]
    assert 0.4 < len(spoken) * 0.02 < 0.7
    assert agent.channels == ["oai-events"]


async def test_loopback_is_offered_only_to_a_local_control_plane(monkeypatch):
    """127.0.0.1 is offered to a control plane on loopback and to no other; aioice is restored afterwards."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    original, offers = aioice.ice.get_host_addresses, []

    async def exchange(offer: str) -> str:
        offers.append(offer)
        raise ProviderError("not today")

    for loopback in (True, False):
        with pytest.raises(ProviderError, match="not today"):
            async with place_webrtc_call(exchange, loopback=loopback):
                pass
    assert " 127.0.0.1 " in offers[0]
    assert " 127.0.0.1 " not in offers[1]
    assert aioice.ice.get_host_addresses is original


async def test_a_call_without_a_media_path_fails(own_machine, monkeypatch):
    """A call that is answered but never connects fails with a typed error."""
    monkeypatch.setattr(caller, "_CONNECT_TIMEOUT", 0.3)

    async def exchange(offer: str) -> str:
        async with Agent() as agent:
            answer = await agent.exchange(offer)
        return "\r\n".join(line for line in answer.split("\r\n") if not line.startswith("a=candidate"))

    with pytest.raises(ProviderUnavailable, match="no media path was found") as caught:
        async with place_webrtc_call(exchange, loopback=True):
            pass
    assert caught.value.code == "ice_failed"
