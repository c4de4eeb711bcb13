"""Hears a WebRTC caller without delay: who only listens needs packets in order, not a steady pace."""

from __future__ import annotations

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer

__all__ = ["receive_promptly"]

_HELD_BACK = 1


def receive_promptly(receiver: RTCRtpReceiver) -> None:
    """Let a receiver hand on each frame when the next one has come, which saves 60 ms of every turn.

    The library holds four frames back, so that playback of them would be steady; it waits for a missing packet
    either way, and has no setting for it. Where a version of it works otherwise, nothing is changed.
    """
    buffer = getattr(receiver, "_RTCRtpReceiver__jitter_buffer", None)
    if isinstance(buffer, JitterBuffer):
        buffer._prefetch = _HELD_BACK  # noqa: SLF001 - there is no other way
