"""Streamed completion over HTTP: keep-alive comments while the engines work, and cancellation on disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.completion import Completion, StreamBroken
from agentfield_local.chat.disconnect import ClientDisconnected, abort_connection, wait_for_disconnect
from agentfield_local.chat.generations import Generation
from agentfield_local.chat.prompt import BrainInput
from agentfield_local.chat.refusals import ChatRefusal
from agentfield_local.chat.sse import SseWriter

__all__ = ["CompletionStream", "Emit", "Prepare"]

Emit = Callable[[dict[str, Any]], Awaitable[None]]
Prepare = Callable[[], Awaitable[BrainInput]]
_MAX_QUEUED_CHUNKS = 8


class CompletionStream:
    """Sends one completion as server-sent events.

    Args:
        request: The request.
        generation: Record of the completion.
        behaviour: Variants and faults.
        stopping: Set at the end of the server.
    """

    def __init__(
        self, request: web.Request, generation: Generation, behaviour: ChatBehaviour, stopping: asyncio.Event
    ) -> None:
        self._request = request
        self._generation = generation
        self._behaviour = behaviour
        self._stopping = stopping
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MAX_QUEUED_CHUNKS)

    async def run(self, make_completion: Callable[[Emit], Completion], prepare: Prepare) -> web.StreamResponse:
        """Send the completion to its end, or until the client disconnects.

        Args:
            make_completion: Makes a completion that emits its chunks to a function.
            prepare: Returns the brain's input. It runs after the response has begun, so that a client gets comments
                while its recordings are transcribed.
        """
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "X-Generation-Id": self._generation.head.id,
        }
        response = web.StreamResponse(headers=headers)
        complete = False
        try:
            await response.prepare(self._request)
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(wait_for_disconnect(self._request, self._stopping), name="chat disconnect")
                group.create_task(self._work(make_completion(self._queue.put), prepare), name="chat completion")
                await self._write(SseWriter(response, self._behaviour))
                watch.cancel()
                complete = True
            await response.write_eof()
        except* (ClientDisconnected, ConnectionError, TimeoutError):
            self._generation.cancelled = not complete
            abort_connection(self._request)
        except* StreamBroken:
            abort_connection(self._request)
        return response

    async def _work(self, completion: Completion, prepare: Prepare) -> None:
        try:
            conversation = await prepare()
        except ChatRefusal as refusal:
            self._generation.finish_reason = "error"
            await self._queue.put(completion.chunks.begin())
            await self._queue.put(completion.chunks.error(refusal))
        else:
            await completion.run(conversation)
        await self._queue.put(None)

    async def _write(self, writer: SseWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(self._behaviour.comment_seconds):
                    chunk = await self._queue.get()
            except TimeoutError:
                await writer.comment()
                continue
            if chunk is None:
                break
            await writer.event(chunk)
        if self._behaviour.ending == "done":
            await writer.event("[DONE]")
