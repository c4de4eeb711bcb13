"""HTTP sessions of adapters, and response bodies of limited size."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

__all__ = ["http_session", "read_body"]

_PIECE = 64 * 1024


def http_session(
    connections: int = 32, *, middlewares: Sequence[aiohttp.ClientMiddlewareType] = ()
) -> aiohttp.ClientSession:
    """Return an HTTP session without cookies, to be used as an async context manager.

    Args:
        connections: Maximum open connections.
        middlewares: Middlewares of each request.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), cookie_jar=aiohttp.DummyCookieJar(), middlewares=middlewares
    )


async def read_body(stream: aiohttp.StreamReader, limit: int) -> bytes:
    """Read a body of at most about `limit` bytes.

    Returns:
        The body. Of a larger one, slightly more than `limit` bytes, so that the caller can tell it was cut off.
    """
    body = bytearray()
    while len(body) <= limit and (chunk := await stream.read(_PIECE)):
        body += chunk
    return bytes(body)
