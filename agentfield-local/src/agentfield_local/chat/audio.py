"""Recordings inside JSON: raw base64 of a WAV file or of bare samples, decoded strictly, and their words, kept while a conversation goes on."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict

from agentfield_local.chat.refusals import ChatRefusal, invalid, translated
from agentfield_local.chat.request import InputAudio
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.media import Resampler
from agentfield_local.refusals import Refusal
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.transcriptions import MAX_RECORDING_BYTES, decode_recording, words_of

__all__ = ["CHAT_RATE", "Hearing", "decode_audio"]

CHAT_RATE = 24_000
"""Samples per second of `pcm16`, in and out."""
_MAX_SECONDS = 600
_KEPT = 512


class Hearing:
    """Turns recordings to words; the same recording at the same place of a conversation is heard once.

    A client sends the whole conversation with every turn. The words of a recording are therefore kept under what came
    before it, and never taken for those of another conversation that happens to hold the same sound.

    Args:
        pool: The engines.
    """

    def __init__(self, pool: EnginesPool) -> None:
        self._pool = pool
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    async def words(self, place: bytes, pcm: bytes) -> tuple[bytes, str]:
        """Return the words of a recording, and the place after it.

        Args:
            place: A digest of all that came before it in the conversation.
            pcm: 16 kHz s16le mono.
        """
        key = hashlib.sha256(place + pcm).digest()
        text = self._kept.get(key)
        if text is None:
            text = await words_of(self._pool, pcm)
            self._kept[key] = text
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return key, text


def decode_audio(audio: InputAudio, param: str) -> bytes:
    """Return a recording as 16 kHz s16le mono; slow, for a worker thread.

    Args:
        audio: As the client sent it.
        param: Path of the field, for refusals.

    Raises:
        ChatRefusal: It is not base64, not of its format, empty or too long.
    """
    data = _base64(audio.data, f"{param}.data")
    if audio.format == "pcm16":
        return _bare(data, f"{param}.data")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise invalid("The recording is not a WAV file.", f"{param}.data")
    try:
        pcm = decode_recording(data)
    except Refusal as refusal:
        raise invalid(translated(refusal).message, f"{param}.data") from None
    if not pcm:
        raise invalid("The recording is empty.", f"{param}.data")
    return pcm


def _base64(text: str, param: str) -> bytes:
    if text[:5].lower() == "data:":
        raise invalid("Send raw base64, not a data: URI.", param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("The recording is not valid base64.", param) from None
    if len(data) > MAX_RECORDING_BYTES:
        raise ChatRefusal(413, f"The recording is larger than {MAX_RECORDING_BYTES} bytes.", param=param)
    return data


def _bare(data: bytes, param: str) -> bytes:
    if len(data) % 2 or not data:
        raise invalid(f"'pcm16' must be whole 16-bit samples; this has {len(data)} bytes.", param)
    if len(data) > _MAX_SECONDS * CHAT_RATE * 2:
        raise invalid(f"The recording is longer than {_MAX_SECONDS} s.", param)
    resampler = Resampler(CHAT_RATE, SPEECH_RATE)
    return resampler.feed(data) + resampler.flush()
