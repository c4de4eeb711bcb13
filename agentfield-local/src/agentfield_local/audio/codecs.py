"""Wire formats of a session: decoding of client audio and encoding of the voice."""

from __future__ import annotations

from typing import Any

from agentfield_local.audio.pcm import WEBRTC_RATE, alaw_decode, alaw_encode, ulaw_decode, ulaw_encode
from agentfield_local.audio.resampler import Resampler
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["Decoder", "Encoder"]


class Decoder:
    """Decodes the session's input format to 16 kHz s16le mono.

    Args:
        audio_format: The `format` object of the session.
    """

    def __init__(self, audio_format: dict[str, Any]) -> None:
        self.format = audio_format
        self._odd_byte = b""
        rate = 24_000 if audio_format["type"] == "audio/pcm" else 8_000
        self._resampler = Resampler(rate, SPEECH_RATE)

    def feed(self, audio: bytes) -> bytes:
        """Return the decoded audio; half a sample waits for its other half."""
        match self.format["type"]:
            case "audio/pcmu":
                pcm = ulaw_decode(audio)
            case "audio/pcma":
                pcm = alaw_decode(audio)
            case _:
                data = self._odd_byte + audio
                whole = len(data) - len(data) % 2
                pcm, self._odd_byte = data[:whole], data[whole:]
        return self._resampler.feed(pcm)


class Encoder:
    """Encodes the voice's audio to a wire format.

    Args:
        source_rate: Samples per second of the voice.
        audio_format: The wire format; None is 48 kHz s16le mono, for WebRTC.

    Attributes:
        bytes_per_ms: Encoded bytes of one millisecond.
    """

    def __init__(self, source_rate: int, audio_format: dict[str, Any] | None) -> None:
        self._kind = "webrtc" if audio_format is None else str(audio_format["type"])
        rate = {"webrtc": WEBRTC_RATE, "audio/pcm": 24_000}.get(self._kind, 8_000)
        self._resampler = Resampler(source_rate, rate)
        self.bytes_per_ms = rate * (1 if self._kind in {"audio/pcmu", "audio/pcma"} else 2) // 1000

    def feed(self, pcm: bytes) -> bytes:
        """Return the encoded audio of this piece."""
        return self._encode(self._resampler.feed(pcm))

    def flush(self) -> bytes:
        """Return the tail."""
        return self._encode(self._resampler.flush())

    def _encode(self, pcm: bytes) -> bytes:
        match self._kind:
            case "audio/pcmu":
                return ulaw_encode(pcm)
            case "audio/pcma":
                return alaw_encode(pcm)
            case _:
                return pcm
