"""The `/v1/audio` routes: a recording to text, and text to exact speech, streamed while it is synthesised."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from agentfield_local.audio.encodings import CONTENT_TYPES, FILE_RATE, FileFormat, encode_stream
from agentfield_local.audio.resampler import Resampler
from agentfield_local.audio.tempo import TempoFilter
from agentfield_local.audio.transcriptions import transcribe_upload
from agentfield_local.brain.tokens import text_tokens
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.refusal_injector import RefusalInjector
from agentfield_local.http.access import AccessControl
from agentfield_local.http.bodies import read_model
from agentfield_local.http.sse import open_event_stream, send_event
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.voices import accepted_voices
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import StrictModel

__all__ = ["AudioRoutes"]

_MAX_TEXT = 4096
_MAX_BODY = 128 * 1024
_BYTES_PER_TOKEN = 512
_SPEECH_ONLY_VOICES = ("fable", "onyx", "nova")


class _VoiceId(StrictModel):
    id: Annotated[str, Field(min_length=1, max_length=200)]


class _SpeechRequest(StrictModel):
    """The body of `POST /v1/audio/speech`; without a `response_format` the answer is mp3."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Annotated[str, Field(min_length=1, max_length=_MAX_TEXT)]
    voice: str | _VoiceId
    instructions: Annotated[str, Field(max_length=_MAX_TEXT)] | None = None
    response_format: FileFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


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
        """Stream the audio of a text, 24 kHz mono; refuse unspeakable text before the first byte."""
        self._access.identify(request, client_secret=False)
        self._refusals.check("speech")
        if request.content_type != "application/json":
            raise Refusal("Send application/json.", code="invalid_content_type")
        asked = await read_model(request, _SpeechRequest, _MAX_BODY)
        _check_voice(asked.voice, self._pool)
        pieces = encode_stream(_pieces(self._pool, asked.input, asked.speed), asked.response_format)
        # The first piece comes before the status line: an engine that fails at once still gets an HTTP error.
        first = await _first(pieces)
        if asked.stream_format == "sse":
            return await self._send_events(request, asked.input, first, pieces)
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPES[asked.response_format]})
        await response.prepare(request)
        await response.write(first)
        if self._behaviour().disconnects.speech and request.transport is not None:
            request.transport.abort()
            return response
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response

    @staticmethod
    async def _send_events(
        request: web.Request, text: str, first: bytes, pieces: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        response = await open_event_stream(request)
        size = 0
        piece: bytes | None = first
        while piece is not None:
            size += len(piece)
            if piece:
                audio = base64.b64encode(piece).decode()
                await send_event(response, {"type": "speech.audio.delta", "audio": audio})
            piece = await anext(pieces, None)
        read, spoken = text_tokens(text), -(-size // _BYTES_PER_TOKEN)
        usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
        await send_event(response, {"type": "speech.audio.done", "usage": usage})
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
    resampler = Resampler(pool.engines.tts.rate, FILE_RATE)
    tempo = TempoFilter(FILE_RATE, speed)
    async for clause in pool.speak(text):
        piece = tempo.feed(resampler.feed(clause))
        if piece:
            yield piece
    rest = tempo.feed(resampler.flush()) + tempo.flush()
    if rest:
        yield rest


def _check_voice(voice: str | _VoiceId, pool: EnginePool) -> None:
    """Reject an unknown name; any custom voice is accepted, and spoken with the engine's own."""
    known = (*accepted_voices(pool.engines.tts.voices), *_SPEECH_ONLY_VOICES)
    if isinstance(voice, str) and voice not in known:
        names = ", ".join(repr(name) for name in known)
        raise Refusal(
            f"Invalid value: {voice!r:.200}. Supported values are: {names}.", code="invalid_value", param="voice"
        )
