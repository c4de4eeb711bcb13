"""What the routes of the server share, and how bodies are read; a room is a function that returns its routes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from agentfield_local.access import Access
from agentfield_local.behaviour import Behaviour
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import EnginesPool
from agentfield_local.forms import too_large
from agentfield_local.realtime.calls import Calls
from agentfield_local.realtime.sockets import Sockets
from agentfield_local.refusals import Refusal, from_validation
from agentfield_local.refusing import Refuser

__all__ = ["Room", "Shared", "json_object", "read_body", "read_model"]

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Shared:
    """What every room may use.

    Attributes:
        pool: The engines and the brain.
        calls: The calls.
        sockets: The WebSocket sessions.
        access: Who may use the server.
        clock: For sessions and client secrets.
        behaviour: Returns the switches that hold now.
        refuser: Refuses as the switches say; a handler calls `check` with its place after the key was checked.
        loopback: Whether media is bound to loopback.
        transcribe_json: Answers a transcription that was asked for in JSON.
    """

    pool: EnginesPool
    calls: Calls
    sockets: Sockets
    access: Access
    clock: Clock
    behaviour: Callable[[], Behaviour]
    refuser: Refuser
    loopback: bool
    transcribe_json: Callable[[web.Request], Awaitable[web.StreamResponse]]


Room = Callable[[Shared], Iterable[web.AbstractRouteDef]]


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        Refusal: `request_too_large`; it is longer than `limit` bytes.
    """
    held = bytearray()
    async for chunk in request.content.iter_chunked(16 * 1024):
        held += chunk
        if len(held) > limit:
            raise too_large("body", limit)
    return bytes(held)


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Raises:
        Refusal: `invalid_json`, naming what should have been one.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(f"'{name}' is not valid JSON.", code="invalid_json", param=name) from None
    if not isinstance(found, dict):
        raise Refusal(f"'{name}' is not a JSON object.", code="invalid_json", param=name)
    return found


async def read_model(request: web.Request, model: type[ModelT], limit: int, *, empty: bytes = b"") -> ModelT:
    """Return the JSON body as a model.

    Args:
        request: The request.
        model: What the body must be.
        limit: Bytes that it may have.
        empty: What an empty body stands for.

    Raises:
        Refusal: It is too long, no JSON object, or has a wrong field.
    """
    data = json_object(await read_body(request, limit) or empty, "body")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data) from None
