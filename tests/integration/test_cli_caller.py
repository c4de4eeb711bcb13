"""The terminal caller against a real WebRTC peer on loopback: it speaks, listens, measures and hangs up."""

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
from agentfield_cli import caller
from agentfield_cli.audio import FRAME, RATE, is_loud
from agentfield_cli.caller import place_call


def tone(seconds: float) -> np.ndarray:
    at = np.arange(int(RATE * seconds)) / RATE
    return (9000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)


class Voice(MediaStreamTrack):
    """Silence, and a tone while there is some left."""

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
    """The far end: keeps what the caller said and answers with a tone once the caller is silent."""

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
    """The far end offers 127.0.0.1 alone, as on a machine with nothing but `lo`."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


async def test_a_turn_is_spoken_heard_and_measured(own_machine):
    """The caller speaks after a moment of silence, at the pace of speech, and hears the answer after its own last sound."""
    async with Agent() as agent, place_call(agent.exchange, loopback=True) as call:
        begun = time.monotonic()
        end = await call.speak(np.append(tone(0.5), np.zeros(RATE // 5, np.int16)))
        first = await call.hear(end)
        await call.quiet(0.3)
        assert 0 < call.offer_to_answer < 10
        assert begun + 0.3 < end < first
        assert end + 0.15 < time.monotonic()
        assert call.heard_at(end) == first
        assert call.heard_at(time.monotonic()) is None
        loud = [is_loud(frame) for frame in call.recording[: call.recording.size // FRAME * FRAME].reshape(-1, FRAME)]
        assert 0.5 < sum(loud) * 0.02 < 0.8
    await asyncio.wait_for(agent.gone.wait(), 10)
    frames = agent.heard[: agent.heard.size // FRAME * FRAME].reshape(-1, FRAME)
    spoken = [number for number, frame in enumerate(frames) if is_loud(frame)]
    assert 0.4 < len(spoken) * 0.02 < 0.7
    assert agent.channels == ["oai-events"]


async def test_this_machines_own_address_is_offered_only_where_it_helps(monkeypatch):
    """127.0.0.1 is offered to a control plane on loopback and to no other; the library is left as it was."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    original, offers = aioice.ice.get_host_addresses, []

    async def exchange(offer: str) -> str:
        offers.append(offer)
        raise ProviderError("not today")

    for loopback in (True, False):
        with pytest.raises(ProviderError, match="not today"):
            async with place_call(exchange, loopback=loopback):
                pass
    assert " 127.0.0.1 " in offers[0]
    assert " 127.0.0.1 " not in offers[1]
    assert aioice.ice.get_host_addresses is original


async def test_a_call_without_a_path_for_its_media_is_an_error(own_machine, monkeypatch):
    """A call that is answered and never connects is given up with a typed error."""
    monkeypatch.setattr(caller, "_CONNECT", 0.3)

    async def exchange(offer: str) -> str:
        async with Agent() as agent:
            answer = await agent.exchange(offer)
        return "\r\n".join(line for line in answer.split("\r\n") if not line.startswith("a=candidate"))

    with pytest.raises(ProviderUnavailable, match="no media path was found") as caught:
        async with place_call(exchange, loopback=True):
            pass
    assert caught.value.code == "ice_failed"
