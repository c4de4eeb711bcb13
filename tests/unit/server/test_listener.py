"""Connections have a limit, of all and by address, and those that send nothing are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from agentfield_server import listener
from agentfield_server.listener import listen
from agentfield_server.settings import Settings
from support.waiting import until_async


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """Serve one route, and yield the port."""

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    async with listen(app, Settings(_env_file=None, port=0)) as url:
        yield urlsplit(url).port or 0


async def begin(stack: AsyncExitStack, port: int, head: bytes) -> asyncio.StreamReader:
    """Connect, and send the beginning of a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    writer.write(head)
    return reader


@pytest.mark.parametrize("limit", ["MAX_OF_ADDRESS", "MAX_CONNECTIONS"])
async def test_connections_have_a_limit(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address beyond its own, and everybody beyond that of all, gets 503; closing makes room."""
    monkeypatch.setattr(listener, limit, 4)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving() as port:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                assert b"200" in await (await begin(stack, port, whole)).readline()
            assert b"503" in await (await begin(stack, port, whole)).readline()

        async def served() -> bool:
            async with AsyncExitStack() as again:
                return b"200" in await (await begin(again, port, whole)).readline()

        await until_async(served)


@pytest.mark.parametrize("head", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_that_sends_no_request_is_closed(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an idle connection nor half a header stays open."""
    monkeypatch.setattr(listener, "_KEEP_ALIVE", 0.5)
    async with serving() as port, AsyncExitStack() as stack:
        reader = await begin(stack, port, head)
        async with asyncio.timeout(30):
            while await reader.read(1000):
                pass
