"""Completion as one JSON object, for clients that do not stream: text, tool calls, and speech as one file."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from aiohttp import web

from agentfield_local.audio.encodings import encode_file
from agentfield_local.chat.chunks import usage_view
from agentfield_local.chat.completion import Completion
from agentfield_local.chat.generations import AUDIO_SECONDS, Generation
from agentfield_local.chat.refusals import ChatRefusal
from agentfield_local.chat.streaming import Emit, Prepare

__all__ = ["complete_as_json"]


async def complete_as_json(
    generation: Generation,
    make_completion: Callable[[Emit], Completion],
    prepare: Prepare,
    *,
    file_format: str | None,
) -> web.StreamResponse:
    """Return the completion as one JSON object.

    Args:
        generation: Record of the completion.
        make_completion: Makes a completion that emits its chunks to a function.
        prepare: Returns the brain's input.
        file_format: Format of its speech; None for text.

    Raises:
        ChatRefusal: The engines are overloaded, or failed.
        StreamBroken: The behaviour breaks the connection.
    """
    calls: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    pcm = bytearray()

    async def collect(chunk: dict[str, Any]) -> None:
        errors.extend([chunk["error"]] if "error" in chunk else [])
        for choice in chunk["choices"]:
            for part in choice["delta"].get("tool_calls", ()):
                _merge_call(calls, part)
            pcm.extend(base64.b64decode((choice["delta"].get("audio") or {}).get("data", "")))

    try:
        await make_completion(collect).run(await prepare())
    except ChatRefusal:
        generation.finish_reason = "error"
        raise
    speech = None if file_format is None or not pcm else await asyncio.to_thread(_encode, bytes(pcm), file_format)
    body = _view(generation, calls, errors, speech)
    return web.json_response(body, headers={"X-Generation-Id": generation.head.id})


def _merge_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Merge a streamed piece of a tool call."""
    if part["index"] == len(calls):
        calls.append({"id": part["id"], "type": "function", "function": {**part["function"]}})
    else:
        calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]


def _encode(pcm: bytes, file_format: str) -> str:
    data = encode_file(pcm, "pcm" if file_format == "pcm16" else file_format)
    return base64.b64encode(data).decode()


def _view(
    generation: Generation, calls: list[dict[str, Any]], errors: list[dict[str, Any]], speech: str | None
) -> dict[str, Any]:
    content = None if speech is not None else generation.said or None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if speech is not None:
        message["audio"] = {
            "id": generation.audio_id,
            "data": speech,
            "expires_at": generation.head.created + AUDIO_SECONDS,
            "transcript": generation.said,
        }
    if calls:
        message["tool_calls"] = calls
    reason = generation.finish_reason
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    if errors:
        choice["error"] = errors[0]
    return {
        "id": generation.head.id,
        "object": "chat.completion",
        "created": generation.head.created,
        "model": generation.head.model,
        "provider": generation.head.provider,
        "choices": [{**choice, "native_finish_reason": reason}],
        "usage": usage_view(generation.usage, cost=True),
    }
