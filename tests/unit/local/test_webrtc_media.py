"""Media of a WebRTC call: the jitter buffer of aiortc, and the echo that measures the path."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
from aiortc import RTCPeerConnection

from agentfield.errors import Unavailable
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.webrtc.jitter_buffer import require_jitter_buffer, set_jitter_prefetch
from agentfield_local.webrtc.media import AudioEcho
from agentfield_local.webrtc.options import MediaOptions
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer

FRAME_16K, FRAME_48K = 640, 1920


class _OtherJitterBuffer:
    """Jitter buffer of another aiortc version, without the attribute that is set."""

    def __init__(self, capacity: int, prefetch: int = 0, is_video: bool = False) -> None:
        self.arguments = (capacity, prefetch, is_video)


def _tone(frames: int) -> list[bytes]:
    samples = (8000 * np.sin(np.arange(frames * FRAME_16K // 2) / 5)).astype("<i2").tobytes()
    return [samples[at : at + FRAME_16K] for at in range(0, len(samples), FRAME_16K)]


def test_the_jitter_buffer_of_the_installed_aiortc_can_be_set() -> None:
    """The pinned version passes the check; by default one frame is held back."""
    require_jitter_buffer()
    assert MediaOptions().jitter_prefetch == 1


async def test_the_setting_reaches_the_receiver() -> None:
    """The jitter buffer holds back the configured number of frames."""
    connection = RTCPeerConnection()
    try:
        receiver = connection.addTransceiver("audio").receiver
        set_jitter_prefetch(receiver, 3)
        assert receiver._RTCRtpReceiver__jitter_buffer._prefetch == 3  # type: ignore[attr-defined]
    finally:
        await connection.close()


async def test_an_unsupported_aiortc_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With other internals the server does not start, and the error names the installed version."""
    monkeypatch.setattr("agentfield_local.webrtc.jitter_buffer.JitterBuffer", _OtherJitterBuffer)
    server = LocalServer(load_engines("echo"), load_brain("obedient"))
    with pytest.raises(Unavailable, match=version("aiortc")) as caught:
        await server.start()
    await server.stop()
    assert caught.value.hint is not None
    assert "aiortc" in caught.value.hint


def test_the_echo_plays_the_callers_audio() -> None:
    """Audio at real-time pace is played back without loss."""
    output_buffer = OutputAudioBuffer()
    echo = AudioEcho(output_buffer)
    loud = 0
    for frame in _tone(50):
        echo.feed(frame)
        pcm, _ = output_buffer.pull(FRAME_48K)
        loud += bool(np.abs(np.frombuffer(pcm, "<i2")).max() > 4000)
    assert loud >= 48
    assert output_buffer.buffered_ms <= 40


def test_the_echo_drops_the_backlog_of_a_burst() -> None:
    """Of audio that arrives at once after a stall, only the end is played."""
    output_buffer = OutputAudioBuffer()
    echo = AudioEcho(output_buffer)
    for frame in _tone(25):
        echo.feed(frame)
    assert output_buffer.buffered_ms <= 80
