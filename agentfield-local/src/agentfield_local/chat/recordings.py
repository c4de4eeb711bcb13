"""Recordings in requests: strict decoding of base64 files or PCM, and their words, cached per conversation."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict

from agentfield.recordings import MAX_BYTES
from agentfield_local.audio.resampler import Resampler
from agentfield_local.audio.transcriptions import decode_upload, transcribe_pcm
from agentfield_local.chat.refusals import ChatRefusal, invalid, to_chat_refusal
from agentfield_local.chat.request import InputAudio
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.wire.refusals import Refusal

__all__ = ["CHAT_RATE", "RecordingTranscriber", "decode_audio"]

CHAT_RATE = 24_000
"""Samples per second of `pcm16`, in and out."""
_MAX_SECONDS = 600
_MAX_CACHED = 512


class RecordingTranscriber:
    """Transcribes recordings; the same recording after the same history is transcribed once.

    A client sends the whole conversation with every turn, so transcripts are cached under a digest of all that precedes
    the recording. The same sound in another conversation has another digest and is transcribed again.

    Args:
        pool: The engines.
    """

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._cache: OrderedDict[bytes, str] = OrderedDict()

    async def words(self, digest: bytes, pcm: bytes) -> tuple[bytes, str]:
        """Return the digest that includes a recording, and its words.

        Args:
            digest: Digest of the conversation before the recording.
            pcm: 16 kHz s16le mono.
        """
        key = hashlib.sha256(digest + pcm).digest()
        text = self._cache.get(key)
        if text is None:
            text = await transcribe_pcm(self._pool, pcm)
            self._cache[key] = text
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return key, text


def decode_audio(audio: InputAudio, param: str) -> bytes:
    """Return a recording as 16 kHz s16le mono; slow, so run it in a worker thread.

    Args:
        audio: Audio of the client.
        param: Path of the field, for refusals.

    Raises:
        ChatRefusal: The recording is not base64, not of its format, empty or too long.
    """
    data = _decode_base64(audio.data, f"{param}.data")
    if audio.format == "pcm16":
        return _decode_pcm(data, f"{param}.data")
    if audio.format == "wav" and (data[:4] != b"RIFF" or data[8:12] != b"WAVE"):
        raise invalid("The recording is not a WAV file.", f"{param}.data")
    try:
        pcm = decode_upload(data)
    except Refusal as refusal:
        raise invalid(to_chat_refusal(refusal).message, f"{param}.data") from None
    if not pcm:
        raise invalid("The recording is empty.", f"{param}.data")
    return pcm


def _decode_base64(text: str, param: str) -> bytes:
    if text[:5].lower() == "data:":
        raise invalid("Send raw base64, not a data: URI.", param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("The recording is not valid base64.", param) from None
    if len(data) > MAX_BYTES:
        raise ChatRefusal(413, f"The recording is larger than {MAX_BYTES} bytes.", param=param)
    return data


def _decode_pcm(data: bytes, param: str) -> bytes:
    if len(data) % 2 or not data:
        raise invalid(f"'pcm16' must be whole 16-bit samples; this has {len(data)} bytes.", param)
    if len(data) > _MAX_SECONDS * CHAT_RATE * 2:
        raise invalid(f"The recording is longer than {_MAX_SECONDS} s.", param)
    resampler = Resampler(CHAT_RATE, SPEECH_RATE)
    return resampler.feed(data) + resampler.flush()
