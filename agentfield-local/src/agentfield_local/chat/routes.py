"""The routes of chat completions with audio: recorded turns in, a streamed spoken answer out, compatible with OpenRouter and OpenAI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from agentfield_local.access import Access
from agentfield_local.chat.answer import Answer, Broken, as_refusal
from agentfield_local.chat.audio import Hearing, decode_audio
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.checks import check_request
from agentfield_local.chat.chunks import Chunks
from agentfield_local.chat.generations import Generations
from agentfield_local.chat.history import decode_recordings, read_conversation, recall
from agentfield_local.chat.listener import Gone, abort, while_there
from agentfield_local.chat.listing import models
from agentfield_local.chat.refusals import ChatRefusal, Refusals, invalid, of_validation, overloaded, translated
from agentfield_local.chat.request import Assistant, ChatRequest, TranscriptionRequest
from agentfield_local.chat.stream import Stream
from agentfield_local.chat.whole import whole_answer
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.realtime.session_config import OPENAI_VOICES
from agentfield_local.refusals import Refusal
from agentfield_local.rooms import Shared, json_object, read_body
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.transcriptions import words_of

__all__ = ["Chat"]

MAX_ANSWERS = 64
"""Answers that may be in the making at once."""
_MAX_BODY = 48 * 1024 * 1024
_BODY_SECONDS = 60.0
ModelT = TypeVar("ModelT", bound=BaseModel)
Handler = Callable[[Any, web.Request], Awaitable[web.StreamResponse]]


def _answered(handler: Handler) -> Handler:
    """Answer refusals in the shape of these routes."""

    @wraps(handler)
    async def answering(chat: Any, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(chat, request)
        except ChatRefusal as refusal:
            return refusal.response()
        except Refusal as refusal:
            return translated(refusal).response()

    return answering


class Chat:
    """Chat completions of one server.

    Args:
        pool: The engines and the brain.
        access: Who may use the server.
        clock: For the dates of answers and the end of their audio.

    Attributes:
        behaviour: The switches; may be replaced between requests.
        generations: What was answered lately.
    """

    def __init__(self, pool: EnginesPool, access: Access, clock: Clock) -> None:
        self.behaviour = ChatBehaviour()
        self.generations = Generations()
        self._pool = pool
        self._access = access
        self._clock = clock
        self._hearing = Hearing(pool)
        self._refusals = Refusals()
        self._stopping = asyncio.Event()
        self._answers = 0

    def room(self, _: Shared) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return (
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/generation", self.generation),
            web.get("/v1/models", self.models),
        )

    def stop(self) -> None:
        """Break off every answer; for the end of the server."""
        self._stopping.set()

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices that can be asked for; those that the engines do not have are spoken by the one they have."""
        return tuple(dict.fromkeys((*self._pool.engines.tts.voices, *OPENAI_VOICES)))

    @_answered
    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`: answer a conversation."""
        behaviour = self.behaviour
        self._access.identify(request, client_secret=False)
        self._refusals.check(behaviour, "chat")
        asked = await _read(request, ChatRequest)
        check_request(asked, self.voices)
        if self._answers >= MAX_ANSWERS:
            raise overloaded()
        self._answers += 1
        try:
            return await self._complete(request, asked, behaviour)
        finally:
            self._answers -= 1

    async def _complete(self, request: web.Request, asked: ChatRequest, behaviour: ChatBehaviour) -> web.StreamResponse:
        now = self._clock.now()
        recalled = recall(asked.messages, lambda audio_id: self.generations.spoken(audio_id, now))
        recordings = await self._decoded(decode_recordings, asked.messages)
        generation = self.generations.begin(
            model=asked.model, now=now, streamed=bool(asked.stream), speaks=asked.speaks, session_id=asked.session_id
        )
        begun = time.monotonic()

        def answer(emit: Callable[[dict[str, Any]], Awaitable[None]]) -> Answer:
            chunks = Chunks(generation.head, behaviour, generation.audio_id)
            continued = any(isinstance(message, Assistant) for message in asked.messages)
            return Answer(
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
                return await read_conversation(asked, recordings, recalled, self._hearing)
            except Exception as error:
                raise as_refusal(error) from error

        try:
            if asked.stream:
                return await Stream(request, generation, behaviour, self._stopping).run(answer, prepare)
            return await while_there(request, self._stopping, whole_answer(generation, answer, prepare))
        except (Gone, Broken) as why:
            generation.cancelled = isinstance(why, Gone)
            abort(request)
            return web.Response(status=HTTPStatus.INTERNAL_SERVER_ERROR)  # nobody reads it
        finally:
            generation.ended = True
            generation.seconds = time.monotonic() - begun

    @_answered
    async def generation(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/generation?id=`: what an answer took, cancelled ones included."""
        self._access.identify(request, client_secret=False)
        wanted = request.query.get("id")
        if not wanted:
            raise invalid("Missing required parameter: 'id'.", "id")
        found = self.generations.get(wanted)
        if found is None or not found.ended:
            raise ChatRefusal(404, "There is no such generation (yet).", param="id")
        return web.json_response({"data": found.view()})

    @_answered
    async def models(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models`: what can be asked for."""
        self._access.identify(request, client_secret=False)
        return web.json_response({"object": "list", "data": models(request.query.get("output_modalities"))})

    @_answered
    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/audio/transcriptions` with a JSON body: a recording to text."""
        self._access.identify(request, client_secret=False)
        self._refusals.check(self.behaviour, "transcriptions")
        asked = await _read(request, TranscriptionRequest)
        pcm = await self._decoded(decode_audio, asked.input_audio, "input_audio")
        try:
            text = await words_of(self._pool, pcm)
        except Exception as error:
            raise as_refusal(error) from error
        seconds = round(len(pcm) / (SPEECH_RATE * 2), 3)
        return web.json_response({"text": text, "usage": {"seconds": seconds, "cost": 0}})

    async def _decoded(self, decode: Callable[..., Any], *args: Any) -> Any:
        try:
            return await self._pool.ears.run(decode, *args)
        except Exception as error:
            raise as_refusal(error) from error


async def _read(request: web.Request, model: type[ModelT]) -> ModelT:
    """Return the body as a model; a large one is read in a worker thread.

    Raises:
        ChatRefusal: It is too long or too slow, no JSON object, or has a wrong field.
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
        raise of_validation(error, data) from None
