"""HTTP connections of an adapter, and bodies that cannot be too large."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

__all__ = ["http_session", "read_body"]

_PIECE = 64 * 1024


def http_session(
    connections: int = 32, *, middlewares: Sequence[aiohttp.ClientMiddlewareType] = ()
) -> aiohttp.ClientSession:
    """Return connections for an adapter, to be used as an async context manager; no cookie is kept.

    Args:
        connections: The most that are open at a time.
        middlewares: What every request passes through.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections), cookie_jar=aiohttp.DummyCookieJar(), middlewares=middlewares
    )


async def read_body(stream: aiohttp.StreamReader, largest: int) -> bytes:
    """Return a body, of a larger one than `largest` bytes a little more than that.

    Whoever cares whether it was too large compares; what is cut off is JSON no more.
    """
    body = bytearray()
    while len(body) <= largest and (chunk := await stream.read(_PIECE)):
        body += chunk
    return bytes(body)
