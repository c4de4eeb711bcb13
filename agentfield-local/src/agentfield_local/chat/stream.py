"""One streamed answer over HTTP: keeps the line alive while the engines work, and stops them when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from agentfield_local.chat.answer import Answer, Broken
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.generations import Generation
from agentfield_local.chat.history import Conversation
from agentfield_local.chat.listener import Gone, abort, gone
from agentfield_local.chat.refusals import ChatRefusal
from agentfield_local.chat.wire import Wire

__all__ = ["Emit", "Prepare", "Stream"]

Emit = Callable[[dict[str, Any]], Awaitable[None]]
Prepare = Callable[[], Awaitable[Conversation]]
_WAITING_CHUNKS = 8


class Stream:
    """Sends one answer.

    Args:
        request: Who asked.
        generation: The record of the answer.
        behaviour: The switches.
        stopping: Set when the server ends.
    """

    def __init__(
        self, request: web.Request, generation: Generation, behaviour: ChatBehaviour, stopping: asyncio.Event
    ) -> None:
        self._request = request
        self._generation = generation
        self._behaviour = behaviour
        self._stopping = stopping
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_WAITING_CHUNKS)

    async def run(self, answer: Callable[[Emit], Answer], prepare: Prepare) -> web.StreamResponse:
        """Send the answer to its end, or until the client is gone.

        Args:
            answer: Makes the answer that sends its chunks where it is told.
            prepare: Returns what the brain reads; the client already hears from us meanwhile.
        """
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Generation-Id": self._generation.head.id,
        }
        response = web.StreamResponse(headers=headers)
        whole = False
        try:
            await response.prepare(self._request)
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(gone(self._request, self._stopping), name="chat client")
                group.create_task(self._work(answer(self._queue.put), prepare), name="chat answer")
                await self._write(Wire(response, self._behaviour))
                watch.cancel()
                whole = True
            await response.write_eof()
        except* (Gone, ConnectionError, TimeoutError):
            self._generation.cancelled = not whole
            abort(self._request)
        except* Broken:
            abort(self._request)
        return response

    async def _work(self, answer: Answer, prepare: Prepare) -> None:
        try:
            conversation = await prepare()
        except ChatRefusal as refusal:
            self._generation.finish_reason = "error"
            await self._queue.put(answer.chunks.begin())
            await self._queue.put(answer.chunks.error(refusal))
        else:
            await answer.run(conversation)
        await self._queue.put(None)

    async def _write(self, wire: Wire) -> None:
        while True:
            try:
                async with asyncio.timeout(self._behaviour.comment_seconds):
                    chunk = await self._queue.get()
            except TimeoutError:
                await wire.comment()
                continue
            if chunk is None:
                break
            await wire.event(chunk)
        if self._behaviour.ending == "done":
            await wire.event("[DONE]")
