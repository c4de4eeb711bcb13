"""Reads multipart forms field by field, each within its own limit."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import BodyPartReader, web

from agentfield_local.refusals import Refusal

__all__ = ["read_form", "too_large"]

_MAX_PARTS = 32


async def read_form(request: web.Request, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Return the fields of a multipart body; fields without a limit are not read.

    Raises:
        Refusal: The body is not a form, or a field is too long.
    """
    fields: dict[str, bytes] = {}
    try:
        reader = await request.multipart()
        for _ in range(_MAX_PARTS):
            part = await reader.next()
            if part is None:
                return fields
            if isinstance(part, BodyPartReader) and part.name is not None and part.name in limits:
                fields[part.name] = await _read(part, limits[part.name])
    except (ValueError, AssertionError):
        raise Refusal("The body is not a valid multipart form.", code="invalid_body") from None
    raise Refusal("The form has too many parts.", code="invalid_body")


async def _read(part: BodyPartReader, limit: int) -> bytes:
    held = bytearray()
    while chunk := await part.read_chunk(64 * 1024):
        held += chunk
        if len(held) > limit:
            raise too_large(part.name or "", limit)
    return bytes(held)


def too_large(name: str, limit: int) -> Refusal:
    """Return the refusal of something longer than `limit` bytes."""
    return Refusal(f"'{name}' is larger than {limit} bytes.", code="request_too_large", param=name)
