"""Request bodies: raw bytes, JSON models and multipart forms, each read within a size limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ValidationError

from agentfield_local.wire.json_values import parse_json
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import refusal_from_validation

__all__ = ["json_object", "read_body", "read_form", "read_model"]

_MAX_PARTS = 32

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the body.

    Raises:
        Refusal: `request_too_large`; it is longer than `limit` bytes.
    """
    body = bytearray()
    async for chunk in request.content.iter_chunked(16 * 1024):
        body += chunk
        if len(body) > limit:
            raise _too_large("body", limit)
    return bytes(body)


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in `data`.

    Args:
        data: Bytes from the client.
        name: Name of the field or body, for the refusal.

    Raises:
        Refusal: `invalid_json`.
    """
    return parse_json(data, f"'{name}'", param=name)


async def read_model(request: web.Request, model: type[ModelT], limit: int, *, empty: bytes = b"") -> ModelT:
    """Return the JSON body as a model.

    Args:
        request: The request.
        model: Type of the body.
        limit: Maximum size in bytes.
        empty: JSON that replaces an empty body.

    Raises:
        Refusal: The body is too long, no JSON object, or has an invalid field.
    """
    data = json_object(await read_body(request, limit) or empty, "body")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise refusal_from_validation(error, data) from None


async def read_form(request: web.Request, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Return the fields of a multipart body; the values of a list (`name[]`) are joined with commas.

    Args:
        request: The request.
        limits: Maximum size in bytes of each known field; other fields are skipped.

    Raises:
        Refusal: The body is not a form, has too many parts, or a field is too long.
    """
    fields: dict[str, bytes] = {}
    try:
        reader = await request.multipart()
        for _ in range(_MAX_PARTS):
            part = await reader.next()
            if part is None:
                return fields
            if isinstance(part, BodyPartReader) and part.name is not None and part.name in limits:
                value = await _read_part(part, limits[part.name])
                earlier = fields.get(part.name) if part.name.endswith("[]") else None
                fields[part.name] = value if earlier is None else earlier + b"," + value
    except (ValueError, AssertionError):  # aiohttp asserts on malformed multipart headers
        raise Refusal("The body is not a valid multipart form.", code="invalid_body") from None
    raise Refusal("The form has too many parts.", code="invalid_body")


async def _read_part(part: BodyPartReader, limit: int) -> bytes:
    content = bytearray()
    while chunk := await part.read_chunk(64 * 1024):
        content += chunk
        if len(content) > limit:
            raise _too_large(part.name or "", limit)
    return bytes(content)


def _too_large(name: str, limit: int) -> Refusal:
    return Refusal(f"'{name}' is larger than {limit} bytes.", code="request_too_large", param=name)
