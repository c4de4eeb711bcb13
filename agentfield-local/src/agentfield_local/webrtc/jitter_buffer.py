"""Jitter buffer of a receiver: reduced to the minimum, since speech recognition needs packets in order, not at a pace."""

from __future__ import annotations

from importlib.metadata import version

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer

from agentfield.errors import Unavailable

__all__ = ["require_jitter_buffer", "set_jitter_prefetch"]

_BUFFER = "_RTCRtpReceiver__jitter_buffer"


def require_jitter_buffer() -> None:
    """Check at the start of a server that the jitter buffer of this aiortc version can be set.

    Raises:
        Unavailable: Its internals differ; the error names the version.
    """
    # A receiver needs a live transport, so check the attribute names that the compiled constructor uses instead.
    names = RTCRtpReceiver.__init__.__code__.co_names
    if _BUFFER not in names or not hasattr(JitterBuffer(capacity=16), "_prefetch"):
        raise _unsupported()


def set_jitter_prefetch(receiver: RTCRtpReceiver, prefetch: int = 1) -> None:
    """Set how many frames a receiver holds back; 1 saves 60 ms of every turn.

    aiortc holds four frames back for steady playback and has no setting for it. It waits for a missing packet in any
    case.

    Args:
        receiver: The receiver of the caller's audio.
        prefetch: Frames that are held back.

    Raises:
        Unavailable: The internals of this aiortc version differ.
    """
    buffer = getattr(receiver, _BUFFER, None)
    if not isinstance(buffer, JitterBuffer) or not hasattr(buffer, "_prefetch"):
        raise _unsupported()
    buffer._prefetch = prefetch  # noqa: SLF001 - aiortc has no setting for it


def _unsupported() -> Unavailable:
    return Unavailable(
        f"aiortc {version('aiortc')} keeps its jitter buffer elsewhere: callers would be heard 60 ms late",
        code="local_server_unusable",
        hint="install aiortc 1.16.0, which this version of agentfield-local supports",
    )
