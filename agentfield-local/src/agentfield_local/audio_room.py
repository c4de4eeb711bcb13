"""The audio routes: a recording to text, and a text to exact speech, streamed as it is spoken."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from agentfield_local.engines_pool import EnginesPool
from agentfield_local.media import Resampler
from agentfield_local.realtime.session_config import OPENAI_VOICES, StrictModel
from agentfield_local.refusals import Refusal
from agentfield_local.rooms import Shared, read_model
from agentfield_local.tempo import Tempo
from agentfield_local.transcriptions import transcribe_recording

__all__ = ["audio_room"]

_RATE = 24_000
_MAX_TEXT = 4096
_MAX_BODY = 128 * 1024
_MORE_VOICES = ("fable", "onyx", "nova")
_UNKNOWN_SIZE = 0xFFFFFFFF
_TYPES = {"wav": "audio/wav", "pcm": "audio/pcm"}


class _Speech(StrictModel):
    """The body of `POST /v1/audio/speech`; without a `response_format` the answer is WAV."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]
    voice: str
    instructions: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    response_format: Literal["wav", "pcm"] = "wav"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio"] = "audio"


def audio_room(shared: Shared) -> Iterable[web.AbstractRouteDef]:
    """Return the routes under `/v1/audio`."""
    room = _Room(shared)
    return (web.post("/v1/audio/speech", room.speak), web.post("/v1/audio/transcriptions", room.transcribe))


class _Room:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json":
            return await self._shared.transcribe_json(request)
        self._shared.access.identify(request, client_secret=False)
        self._shared.refuser.check("transcriptions")
        if request.content_type != "multipart/form-data":
            raise Refusal("Send multipart/form-data.", code="invalid_content_type")
        return await transcribe_recording(request, self._shared.pool)

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """Stream a text's audio, 24 kHz s16le mono; what cannot be spoken is refused before the first byte."""
        self._shared.access.identify(request, client_secret=False)
        self._shared.refuser.check("speech")
        if request.content_type != "application/json":
            raise Refusal("Send application/json.", code="invalid_content_type")
        wanted = await read_model(request, _Speech, _MAX_BODY)
        _check_voice(wanted.voice, self._shared.pool)
        pieces = _pieces(self._shared.pool, wanted.input, wanted.speed)
        first = await _first(pieces)
        response = web.StreamResponse(headers={"Content-Type": _TYPES[wanted.response_format]})
        await response.prepare(request)
        await response.write((_wav_header() if wanted.response_format == "wav" else b"") + first)
        if self._shared.behaviour().breaks.speech and request.transport is not None:
            request.transport.abort()
            return response
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response


async def _first(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the first piece, nothing for a text without words.

    Raises:
        Refusal: The voice failed.
    """
    try:
        return await anext(pieces, b"")
    except Refusal:
        raise
    except Exception as error:  # an engine may raise anything; the client is told
        raise Refusal(
            "The server had an error while processing your request.", code="server_error", kind="server_error"
        ) from error


async def _pieces(pool: EnginesPool, text: str, speed: float) -> AsyncIterator[bytes]:
    resampler = Resampler(pool.engines.tts.rate, _RATE)
    tempo = Tempo(_RATE, speed)
    async for clause in pool.speak(text):
        piece = tempo.feed(resampler.feed(clause))
        if piece:
            yield piece
    rest = tempo.feed(resampler.flush()) + tempo.flush()
    if rest:
        yield rest


def _check_voice(voice: str, pool: EnginesPool) -> None:
    known = tuple(dict.fromkeys((*pool.engines.tts.voices, *OPENAI_VOICES, *_MORE_VOICES)))
    if voice not in known:
        names = ", ".join(repr(name) for name in known)
        raise Refusal(
            f"Invalid value: {voice!r:.200}. Supported values are: {names}.", code="invalid_value", param="voice"
        )


def _wav_header() -> bytes:
    """Return the header of a WAV stream whose length nobody knows yet (RIFF, sizes all ones)."""
    body = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, _RATE * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN_SIZE, b"WAVE") + body + struct.pack("<4sI", b"data", _UNKNOWN_SIZE)
