"""The media of a WebRTC call: the jitter buffer that must be settable, and the echo that measures the path."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
from aiortc import RTCPeerConnection

from agentfield.errors import Unavailable
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.webrtc.echo import Echo
from agentfield_local.webrtc.jitter import receive_promptly, require_jitter_buffer
from agentfield_local.webrtc.options import MediaOptions
from agentfield_local.webrtc.playout import Playout

FRAME_16K, FRAME_48K = 640, 1920


class _Elsewhere:
    """What a later version might keep in place of the jitter buffer."""

    def __init__(self, capacity: int, prefetch: int = 0, is_video: bool = False) -> None:
        self.held_back = (capacity, prefetch, is_video)


def _tone(frames: int) -> list[bytes]:
    samples = (8000 * np.sin(np.arange(frames * FRAME_16K // 2) / 5)).astype("<i2").tobytes()
    return [samples[at : at + FRAME_16K] for at in range(0, len(samples), FRAME_16K)]


def test_the_installed_library_lets_the_jitter_buffer_be_set() -> None:
    """The version that is pinned passes the check, and one frame is held back unless asked otherwise."""
    require_jitter_buffer()
    assert MediaOptions().jitter_prefetch == 1


async def test_the_setting_reaches_the_receiver() -> None:
    """As many frames as were asked for are held back."""
    connection = RTCPeerConnection()
    try:
        receiver = connection.addTransceiver("audio").receiver
        receive_promptly(receiver, 3)
        assert receiver._RTCRtpReceiver__jitter_buffer._prefetch == 3  # type: ignore[attr-defined]
    finally:
        await connection.close()


async def test_a_library_that_works_otherwise_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another aiortc the server does not start, and says which version it found."""
    monkeypatch.setattr("agentfield_local.webrtc.jitter.JitterBuffer", _Elsewhere)
    server = LocalServer(load_engines("echo"), load_brain("obedient"))
    with pytest.raises(Unavailable, match=version("aiortc")) as caught:
        await server.start()
    await server.stop()
    assert caught.value.hint is not None
    assert "aiortc" in caught.value.hint


def test_the_echo_plays_what_was_heard() -> None:
    """Sound that comes at the pace of the clock comes out again, none of it lost."""
    playout = Playout()
    echo = Echo(playout)
    loud = 0
    for frame in _tone(50):
        echo.heard(frame)
        pcm, _ = playout.pull(FRAME_48K)
        loud += bool(np.abs(np.frombuffer(pcm, "<i2")).max() > 4000)
    assert loud >= 48
    assert playout.buffered_ms <= 40


def test_the_echo_of_a_burst_is_not_late() -> None:
    """Of what arrives at once after a stall only the end is played."""
    playout = Playout()
    echo = Echo(playout)
    for frame in _tone(25):
        echo.heard(frame)
    assert playout.buffered_ms <= 80
