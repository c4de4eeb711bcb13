"""Routes of chat completions: `/v1/chat/completions`, `/v1/generation`, `/v1/models`, JSON transcriptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from agentfield_local.audio.transcriptions import transcribe_pcm
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.chunks import ChunkBuilder
from agentfield_local.chat.completion import Completion, StreamBroken, engine_refusal
from agentfield_local.chat.disconnect import ClientDisconnected, abort_connection, run_while_connected
from agentfield_local.chat.generations import GenerationLog
from agentfield_local.chat.json_response import complete_as_json
from agentfield_local.chat.model_list import list_models
from agentfield_local.chat.prompt import decode_recordings, read_messages, recall_spoken_words
from agentfield_local.chat.recordings import RecordingTranscriber, decode_audio
from agentfield_local.chat.refusals import (
    ChatRefusal,
    ChatRefusalInjector,
    chat_refusal_from_validation,
    invalid,
    overloaded,
    to_chat_refusal,
)
from agentfield_local.chat.request import AssistantMessage, ChatRequest, TranscriptionRequest
from agentfield_local.chat.streaming import CompletionStream
from agentfield_local.chat.validation import validate_request
from agentfield_local.http.access import AccessControl
from agentfield_local.http.bodies import json_object, read_body
from agentfield_local.runtime.clock import Clock
from agentfield_local.speech.pool import EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.speech.voices import accepted_voices
from agentfield_local.wire.refusals import Refusal

__all__ = ["ChatService"]

MAX_COMPLETIONS = 64
"""Maximum number of completions at once."""
_MAX_BODY = 48 * 1024 * 1024
_BODY_SECONDS = 60.0
ModelT = TypeVar("ModelT", bound=BaseModel)
Handler = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]


def _with_chat_refusals(handler: Handler) -> Handler:
    """Answer refusals in the error shape of chat completions instead of the Realtime one."""

    @wraps(handler)
    async def wrapped(service: Any, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(service, request)
        except ChatRefusal as refusal:
            return refusal.response()
        except Refusal as refusal:
            return to_chat_refusal(refusal).response()

    return wrapped


class ChatService:
    """Chat completions of one server.

    Args:
        pool: The engines and the brain.
        access: Access control.
        clock: Clock for creation dates and the expiry of audio ids.

    Attributes:
        behaviour: Variants and faults; set it to replace them between requests.
        generations: Records of the latest completions.
        asked: The names in the latest requests: `model`, `voice` and `transcription`.
    """

    def __init__(self, pool: EnginePool, access: AccessControl, clock: Clock) -> None:
        self.behaviour = ChatBehaviour()
        self.generations = GenerationLog()
        self.asked: dict[str, str | None] = {}
        self._pool = pool
        self._access = access
        self._clock = clock
        self._transcriber = RecordingTranscriber(pool)
        self._refusals = ChatRefusalInjector()
        self._stopping = asyncio.Event()
        self._active = 0

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return (
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/generation", self.generation),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        )

    def stop(self) -> None:
        """Abort every completion, at the end of the server."""
        self._stopping.set()

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices that requests may name; the engine's own voice speaks all of them."""
        return accepted_voices(self._pool.engines.tts.voices)

    @_with_chat_refusals
    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`: complete a conversation."""
        behaviour = self.behaviour
        self._access.identify(request, client_secret=False)
        self._refusals.check(behaviour, "chat")
        asked = await _read(request, ChatRequest)
        validate_request(asked, self.voices)
        voice = asked.audio.voice if asked.audio is not None else None
        self.asked |= {"model": asked.model, "voice": voice if isinstance(voice, str) else None}
        if self._active >= MAX_COMPLETIONS:
            raise overloaded()
        self._active += 1
        try:
            return await self._complete(request, asked, behaviour)
        finally:
            self._active -= 1

    async def _complete(self, request: web.Request, asked: ChatRequest, behaviour: ChatBehaviour) -> web.StreamResponse:
        now = self._clock.now()
        recalled = recall_spoken_words(asked.messages, lambda audio_id: self.generations.spoken(audio_id, now))
        recordings = await self._run_decoder(decode_recordings, asked.messages)
        generation = self.generations.begin(
            model=asked.model, now=now, streamed=bool(asked.stream), speaks=asked.speaks, session_id=asked.session_id
        )
        started = time.monotonic()

        def make_completion(emit: Callable[[dict[str, Any]], Awaitable[None]]) -> Completion:
            chunks = ChunkBuilder(generation.head, behaviour, generation.audio_id)
            continued = any(isinstance(message, AssistantMessage) for message in asked.messages)
            return Completion(
                pool=self._pool,
                generation=generation,
                chunks=chunks,
                emit=emit,
                behaviour=behaviour,
                speaks=asked.speaks,
                limit=asked.limit,
                wants_usage=asked.wants_usage,
                continued=continued,
            )

        async def prepare() -> Any:
            try:
                return await read_messages(asked, recordings, recalled, self._transcriber)
            except Exception as error:
                raise engine_refusal(error) from error

        try:
            if asked.stream:
                return await CompletionStream(request, generation, behaviour, self._stopping).run(
                    make_completion, prepare
                )
            file_format = asked.audio.format if asked.speaks and asked.audio is not None else None
            return await run_while_connected(
                request,
                self._stopping,
                complete_as_json(generation, make_completion, prepare, file_format=file_format),
            )
        except (ClientDisconnected, StreamBroken) as why:
            generation.cancelled = isinstance(why, ClientDisconnected)
            abort_connection(request)
            return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)  # the connection is cut: no client reads it
        finally:
            generation.ended = True
            generation.seconds = time.monotonic() - started

    @_with_chat_refusals
    async def generation(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/generation?id=`: usage of a completion that has ended, including cancelled ones."""
        self._access.identify(request, client_secret=False)
        generation_id = request.query.get("id")
        if not generation_id:
            raise invalid("Missing required parameter: 'id'.", "id")
        found = self.generations.get(generation_id)
        if found is None or not found.ended:
            raise ChatRefusal(404, "There is no such generation (yet).", param="id")
        return web.json_response({"data": found.view()})

    @_with_chat_refusals
    async def models(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models`: the available models."""
        self._access.identify(request, client_secret=False)
        return web.json_response({"object": "list", "data": list_models(request.query.get("output_modalities"))})

    async def model(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models/{model}`: one of them."""
        self._access.identify(request, client_secret=False)
        name = request.match_info["model"]
        found = next((model for model in list_models(None) if model["id"] == name), None)
        if found is None:
            text = f"The model {name!r:.200} does not exist; GET /v1/models lists those of this server."
            raise Refusal(text, code="model_not_found", param="model")
        return web.json_response(found)

    @_with_chat_refusals
    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/audio/transcriptions` with a JSON body: a recording to text."""
        self._access.identify(request, client_secret=False)
        self._refusals.check(self.behaviour, "transcriptions")
        asked = await _read(request, TranscriptionRequest)
        self.asked["transcription"] = asked.model
        pcm = await self._run_decoder(decode_audio, asked.input_audio, "input_audio")
        try:
            text = await transcribe_pcm(self._pool, pcm)
        except Exception as error:
            raise engine_refusal(error) from error
        seconds = round(len(pcm) / (SPEECH_RATE * 2), 3)
        return web.json_response({"text": text, "usage": {"seconds": seconds, "cost": 0}})

    async def _run_decoder(self, decode: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._pool.vad_worker.run(decode, *args)
        except Exception as error:
            raise engine_refusal(error) from error


async def _read(request: web.Request, model: type[ModelT]) -> ModelT:
    """Return the body as a model; it is parsed in a worker thread, since it may hold megabytes of base64.

    Raises:
        ChatRefusal: The body is too long or too slow, no JSON object, or has an invalid field.
    """
    if request.content_type != "application/json":
        raise invalid("Send application/json.", "Content-Type")
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await read_body(request, _MAX_BODY)
    except TimeoutError:
        raise ChatRefusal(408, f"The body did not arrive within {_BODY_SECONDS:g} s.") from None
    return await asyncio.to_thread(_parse, body, model)


def _parse(body: bytes, model: type[ModelT]) -> ModelT:
    data = json_object(body, "body")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise chat_refusal_from_validation(error, data) from None
