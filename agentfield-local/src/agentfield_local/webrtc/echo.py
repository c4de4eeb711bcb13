"""A measuring instrument: what a caller says goes straight back to it, through the same media path as a call with speech."""

from __future__ import annotations

from agentfield_local.media import Resampler
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.webrtc.playout import PLAYOUT_RATE, Playout

__all__ = ["Echo"]

_RESPONSE = "echo"
_MAX_LEAD_MS = 40


class Echo:
    """Stands where the engines stand: takes what they would hear, queues it as what they would say.

    Args:
        playout: What the caller hears.
    """

    def __init__(self, playout: Playout) -> None:
        self._playout = playout
        self._resampler = Resampler(SPEECH_RATE, PLAYOUT_RATE)

    def heard(self, pcm: bytes) -> None:
        """Play 16 kHz s16le mono back; of a burst after a stall only its end, since old sound is of no use to anybody."""
        if self._playout.buffered_ms > _MAX_LEAD_MS:
            self._playout.clear(lambda response_id: response_id == _RESPONSE)
        self._playout.push(_RESPONSE, _RESPONSE, self._resampler.feed(pcm))
