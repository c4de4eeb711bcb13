"""Recorded turns over REST: a request carries a recording, its response streams the turn's events and audio."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext

from aiohttp import web
from aiohttp_sse import EventSourceResponse
from pydantic import BaseModel

from agentfield.errors import AgentFieldError, LimitExceeded, NotFound, SessionEnded
from agentfield.ids import new_id
from agentfield.recordings import MAX_BYTES, MEDIA_TYPES
from agentfield_server.access.attempts import Attempts
from agentfield_server.access.guard import CALLER
from agentfield_server.api.http.caller_view import CallerView, for_caller
from agentfield_server.api.http.idempotency import idempotency_key
from agentfield_server.api.http.route import Route, view_of
from agentfield_server.media.decode import check_content_type, decode, too_large
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.recorded_turns.replay_buffer import Message, ReplayBuffer
from agentfield_server.sessions.recorded_turns.service import RecordedTurnService
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey, SessionRow

__all__ = ["TurnRoutes"]

_KEEP_ALIVE = 15.0
_BODY_WAIT = 60.0
_DECODING = 2
_ITEM = 32
_ANSWER = (
    "At most 25 MB and 600 s. The answer is an event stream: first `turn` with the item of the turn, then live events "
    "(`reply.audio` holds base64 of 16-bit samples) and recorded ones with their ids. It ends when the turn was answered "
    "or discarded, or the session ended. A request with the same `Idempotency-Key` gets the same answer from the "
    "beginning. After the answer began, an error is an event `problem`."
)


class TurnRoutes:
    """The handler of recorded turns.

    Args:
        recorded_turns: The legs and buffered answers of sessions of recorded turns.
        sessions: The session service.
        store: The store.
        attempts: Limits the recordings that are received at once.
    """

    def __init__(
        self, recorded_turns: RecordedTurnService, sessions: SessionService, store: Store, attempts: Attempts
    ) -> None:
        self._recorded_turns = recorded_turns
        self._sessions = sessions
        self._store = store
        self._attempts = attempts
        # decoding holds a recording and its samples in memory and occupies a thread
        self._decoding = asyncio.Semaphore(_DECODING)

    def routes(self) -> list[Route]:
        """Return the route of the resource."""
        path = "/api/v1/sessions/{session_id}/turns"
        return [
            Route(
                "POST",
                path,
                self.post,
                ("token", "starter", "operator"),
                "Send a recorded turn",
                view="caller",
                counts="inputs",
                accepts=MEDIA_TYPES,
                media_type="text/event-stream",
                stream=True,
                description=_ANSWER,
            ),
        ]

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Take a recorded turn and stream its answer; a repeated request gets the same answer from the beginning."""
        row = await self._row(request)
        self._recorded_turns.require_recorded_turns(row)
        media_type = request.headers.get("Content-Type", "")
        check_content_type(media_type)
        # before the body is read, which is kept in memory; one without a length may be as large as any
        with self._attempts.upload(row.id, min(request.content_length or MAX_BYTES, MAX_BYTES)):
            data = await _read_audio(request)
            key = _key(request, row, media_type, data)
            async with self._recorded_turns.serialize_requests(row.id):
                messages = await self._admit(row, key, data, media_type)
        view = CallerView(self._store, row) if view_of(request) == "caller" else None
        attached = request.get(CALLER) and self._recorded_turns.had_audio_follower(row.id)
        # for a caller whose audio stream was lost, reading the answer counts as presence
        with self._sessions.caller_attached(row.id) if attached else nullcontext():
            return await _stream(request, messages, view)

    async def _admit(
        self, row: SessionRow, key: IdempotencyKey | None, data: bytes, media_type: str
    ) -> AsyncGenerator[Message, None]:
        """Return the answer of a new turn, or of the earlier turn with the same key."""
        if key is not None and (buffer := self._recorded_turns.kept_buffer(key)) is not None:
            return buffer.read()
        item = new_id("op")[:_ITEM]
        if key is None:
            return (await self._start_turn(row, item, None, data, media_type)).read()
        claimed = await self._store.save_response(key, response={"item": item})
        earlier = str(claimed["item"]) if claimed is not None else item
        if earlier != item:
            messages = await self._recorded_turns.replay_recorded(row, earlier, key)
            if messages is not None:
                return messages
        # a turn that was lost before anything of it was recorded is started again, under the same name
        try:
            return (await self._start_turn(row, earlier, key, data, media_type)).read()
        except AgentFieldError:
            await self._store.release_key(key)
            raise

    async def _start_turn(
        self, row: SessionRow, item: str, key: IdempotencyKey | None, data: bytes, media_type: str
    ) -> ReplayBuffer:
        if row.state == "ended":
            raise SessionEnded(
                f"Session {row.id} is over: {row.end_reason or 'ended'}.",
                hint=f"start another one: af session start {row.target}",
                reason=row.end_reason or "ended",
            )
        rate = (await self._recorded_turns.format(row)).rate
        async with self._decoding:
            samples = await asyncio.to_thread(decode, data, media_type, rate)
        return self._recorded_turns.post(await self._recorded_turns.leg(row), item, samples, key)

    async def _row(self, request: web.Request) -> SessionRow:
        session_id = request.match_info["session_id"]
        row = await self._store.get_session(session_id)
        if row is None:
            raise NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        return row


class _Recording(BaseModel):
    """Fingerprint of a recording, to which its Idempotency-Key is bound."""

    media_type: str
    sha256: str


def _key(request: web.Request, row: SessionRow, media_type: str, data: bytes) -> IdempotencyKey | None:
    recording = _Recording(media_type=media_type, sha256=hashlib.sha256(data).hexdigest())
    return idempotency_key(request, route="turns", target=row.id, body=recording)


async def _read_audio(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_BYTES:
        raise too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_WAIT):
            async for chunk in request.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise too_large()
    except TimeoutError:
        slow = LimitExceeded(
            f"The recording did not arrive within {_BODY_WAIT:g} s.",
            code="body_too_slow",
            hint="send it again, at once",
        )
        slow.status = 408
        raise slow from None
    return bytes(body)


async def _stream(
    request: web.Request, messages: AsyncGenerator[Message, None], view: CallerView | None
) -> web.StreamResponse:
    stream = EventSourceResponse(allow_all_methods=True, ping_interval=_KEEP_ALIVE)
    stream.headers["Cache-Control"] = "no-store"
    await stream.prepare(request)
    try:
        async with stream, aclosing(messages):
            await _send(stream, messages, view)
    except (ConnectionResetError, TimeoutError):
        # the caller disconnected or reads no more: the turn continues, and may be requested again
        return stream
    return stream


async def _send(stream: EventSourceResponse, messages: AsyncGenerator[Message, None], view: CallerView | None) -> None:
    try:
        async for message in messages:
            data = message.data if view is None else await view.message(message.event, message.data)
            if data is not None:
                await stream.send(data, id=message.id, event=message.event)
    except AgentFieldError as error:
        shown = error if view is None else for_caller(error)
        await stream.send(json.dumps(shown.to_problem()), event="problem")
