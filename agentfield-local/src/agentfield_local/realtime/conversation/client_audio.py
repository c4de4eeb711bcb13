"""Audio in client events: base64 in one of the formats of the protocol."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from agentfield_local.audio.pcm import alaw_decode, resample_linear, ulaw_decode
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.wire.refusals import Refusal

__all__ = ["audio_length_ms", "decode_audio", "to_speech_pcm"]


def decode_audio(text: str, param: str) -> bytes:
    """Return the bytes of base64 audio.

    Args:
        text: Base64 from the client.
        param: Name of the field, for the refusal.

    Raises:
        Refusal: The text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("Invalid value: the audio is not base64.", code="invalid_value", param=param) from None


def audio_length_ms(audio: bytes, audio_format: dict[str, Any]) -> float:
    """Return the length of audio of this format in milliseconds."""
    return len(audio) / (48 if audio_format["type"] == "audio/pcm" else 8)


def to_speech_pcm(audio: bytes, audio_format: dict[str, Any]) -> bytes:
    """Return a whole recording of this format as 16 kHz s16le mono."""
    match audio_format["type"]:
        case "audio/pcmu":
            return resample_linear(ulaw_decode(audio), 8_000, SPEECH_RATE)
        case "audio/pcma":
            return resample_linear(alaw_decode(audio), 8_000, SPEECH_RATE)
        case _:
            return resample_linear(audio[: len(audio) // 2 * 2], 24_000, SPEECH_RATE)
