"""Hears a WebRTC caller without delay: who only listens needs packets in order, not a steady pace."""

from __future__ import annotations

from importlib.metadata import version

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer

from agentfield.errors import Unavailable

__all__ = ["receive_promptly", "require_jitter_buffer"]

_BUFFER = "_RTCRtpReceiver__jitter_buffer"


def require_jitter_buffer() -> None:
    """Check that this version of aiortc lets the jitter buffer be set; for the start of a server.

    Raises:
        Unavailable: It keeps its jitter buffer elsewhere; the error names the version.
    """
    # the names that the compiled constructors refer to: a receiver itself can be made only from a live transport
    names = RTCRtpReceiver.__init__.__code__.co_names
    if _BUFFER not in names or not hasattr(JitterBuffer(capacity=16), "_prefetch"):
        raise _moved()


def receive_promptly(receiver: RTCRtpReceiver, held_back: int = 1) -> None:
    """Let a receiver hand on each frame when so many more have come; 1 saves 60 ms of every turn.

    The library holds four frames back, so that playback of them would be steady; it waits for a missing packet
    either way, and has no setting for it.

    Args:
        receiver: The receiver of the caller's sound.
        held_back: Frames that are held back.

    Raises:
        Unavailable: This version of the library keeps its jitter buffer elsewhere.
    """
    buffer = getattr(receiver, _BUFFER, None)
    if not isinstance(buffer, JitterBuffer) or not hasattr(buffer, "_prefetch"):
        raise _moved()
    buffer._prefetch = held_back  # noqa: SLF001 - there is no other way


def _moved() -> Unavailable:
    return Unavailable(
        f"aiortc {version('aiortc')} keeps its jitter buffer elsewhere: callers would be heard 60 ms late",
        code="local_server_unusable",
        hint="install aiortc 1.16.0, which this version of agentfield-local is made for",
    )
