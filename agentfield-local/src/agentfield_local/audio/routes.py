"""The `/v1/audio` routes: a recording to text, and text to exact speech, streamed while it is synthesised."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from agentfield_local.audio.resampler import Resampler
from agentfield_local.audio.tempo import TempoFilter
from agentfield_local.audio.transcriptions import transcribe_upload
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.refusal_injector import RefusalInjector
from agentfield_local.http.access import AccessControl
from agentfield_local.http.bodies import read_model
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.voices import accepted_voices
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import StrictModel

__all__ = ["AudioRoutes"]

_RATE = 24_000
_MAX_TEXT = 4096
_MAX_BODY = 128 * 1024
_SPEECH_ONLY_VOICES = ("fable", "onyx", "nova")
_UNKNOWN_SIZE = 0xFFFFFFFF
_TYPES = {"wav": "audio/wav", "pcm": "audio/pcm"}


class _SpeechRequest(StrictModel):
    """The body of `POST /v1/audio/speech`; without a `response_format` the answer is WAV."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]
    voice: str
    instructions: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    response_format: Literal["wav", "pcm"] = "wav"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio"] = "audio"


class AudioRoutes:
    """Handlers of the routes under `/v1/audio`.

    Args:
        pool: The engines.
        access: Access control.
        behaviour: Returns the current behaviour.
        refusals: Injected refusals.
        transcribe_json: Handles a transcription request with a JSON body, which has the format of chat completions.
    """

    def __init__(
        self,
        pool: EnginePool,
        access: AccessControl,
        behaviour: Callable[[], Behaviour],
        refusals: RefusalInjector,
        transcribe_json: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> None:
        self._pool = pool
        self._access = access
        self._behaviour = behaviour
        self._refusals = refusals
        self._transcribe_json = transcribe_json

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return (web.post("/v1/audio/speech", self._speak), web.post("/v1/audio/transcriptions", self._transcribe))

    async def _transcribe(self, request: web.Request) -> web.StreamResponse:
        if request.content_type == "application/json":
            return await self._transcribe_json(request)
        self._access.identify(request, client_secret=False)
        self._refusals.check("transcriptions")
        if request.content_type != "multipart/form-data":
            raise Refusal("Send multipart/form-data.", code="invalid_content_type")
        return await transcribe_upload(request, self._pool)

    async def _speak(self, request: web.Request) -> web.StreamResponse:
        """Stream the audio of a text, 24 kHz s16le mono; refuse unspeakable text before the first byte."""
        self._access.identify(request, client_secret=False)
        self._refusals.check("speech")
        if request.content_type != "application/json":
            raise Refusal("Send application/json.", code="invalid_content_type")
        asked = await read_model(request, _SpeechRequest, _MAX_BODY)
        _check_voice(asked.voice, self._pool)
        pieces = _pieces(self._pool, asked.input, asked.speed)
        # The first piece comes before the status line: an engine that fails at once still gets an HTTP error.
        first = await _first(pieces)
        response = web.StreamResponse(headers={"Content-Type": _TYPES[asked.response_format]})
        await response.prepare(request)
        await response.write((_wav_header() if asked.response_format == "wav" else b"") + first)
        if self._behaviour().disconnects.speech and request.transport is not None:
            request.transport.abort()
            return response
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response


async def _first(pieces: AsyncIterator[bytes]) -> bytes:
    """Return the first piece, empty for a text without words.

    Raises:
        Refusal: The voice failed.
    """
    try:
        return await anext(pieces, b"")
    except Refusal:
        raise
    except Exception as error:  # an engine may raise anything; the client gets one typed error
        raise Refusal(
            "The server had an error while processing your request.", code="server_error", kind="server_error"
        ) from error


async def _pieces(pool: EnginePool, text: str, speed: float) -> AsyncIterator[bytes]:
    resampler = Resampler(pool.engines.tts.rate, _RATE)
    tempo = TempoFilter(_RATE, speed)
    async for clause in pool.speak(text):
        piece = tempo.feed(resampler.feed(clause))
        if piece:
            yield piece
    rest = tempo.feed(resampler.flush()) + tempo.flush()
    if rest:
        yield rest


def _check_voice(voice: str, pool: EnginePool) -> None:
    known = (*accepted_voices(pool.engines.tts.voices), *_SPEECH_ONLY_VOICES)
    if voice not in known:
        names = ", ".join(repr(name) for name in known)
        raise Refusal(
            f"Invalid value: {voice!r:.200}. Supported values are: {names}.", code="invalid_value", param="voice"
        )


def _wav_header() -> bytes:
    """Return the header of a WAV stream of unknown length (RIFF, all sizes 0xFFFFFFFF)."""
    body = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, _RATE * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN_SIZE, b"WAVE") + body + struct.pack("<4sI", b"data", _UNKNOWN_SIZE)
