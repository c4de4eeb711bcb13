"""A server that accepts connections and never answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["SilentServer", "silent_server"]


@dataclass
class SilentServer:
    """The address of the server, and whether anyone has connected."""

    url: str = ""
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection until the end."""
        self.connected.set()
        try:
            await self.over.wait()
        finally:
            writer.transport.abort()


@asynccontextmanager
async def silent_server() -> AsyncIterator[SilentServer]:
    """Run the server on this machine."""
    silent = SilentServer()
    server = await asyncio.start_server(silent.serve, "127.0.0.1", 0)
    silent.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield silent
    finally:
        silent.over.set()
        server.close()
