"""The fake of the Live API: a WebSocket server on loopback that behaves as the service does, as far as that is known."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from agentfield_gemini.testing.conversation import Conversation
from agentfield_gemini.testing.model import FakeModel

__all__ = ["LiveServer"]

_PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
_MODELS = (
    "gemini-3.8-live",
    "gemini-3.1-flash-live-preview",
    "gemini-2.5-flash-native-audio-preview-12-2025",
)


class LiveServer:
    """The server; an async context manager that listens on loopback.

    Args:
        key: The key that clients must send.
    """

    def __init__(self, key: str) -> None:
        self.port = 0
        self.models = _MODELS
        self.model = FakeModel()
        self.calls_at_once = 1
        """How many functions the model calls in one message."""
        self.received: list[str] = []
        """Messages of clients without audio, oldest first."""
        self.sent: list[Mapping[str, Any]] = []
        """Messages of the server, oldest first."""
        self.faults: list[str] = []
        """What was wrong with messages of clients."""
        self.handles: dict[str, list[dict[str, Any]]] = {}
        """Conversations that can be continued, by their handles."""
        self.refusals: deque[tuple[int, str]] = deque()
        """Close codes and reasons for the next sessions."""
        self.noisy = False
        """Whether to send unknown messages and to repeat known ones."""
        self.conversations: list[Conversation] = []
        """Open sessions."""
        self._announced: deque[str] = deque()
        self._key = key
        self._connections: list[asyncio.Transport] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get(_PATH, self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    def announce(self, text: str) -> None:
        """Understand the next turn of a caller as `text`."""
        self._announced.append(text)

    def take_announced(self) -> str:
        """Return how the turn that begins now is understood."""
        return self._announced.popleft() if self._announced else "hello"

    def drop(self) -> None:
        """Drop all connections without a word."""
        for connection in list(self._connections):
            connection.abort()

    async def go_away(self, seconds: float) -> None:
        """Announce the end of all connections."""
        for conversation in list(self.conversations):
            await conversation.send(goAway={"timeLeft": f"{seconds:g}s"})

    async def expire(self) -> None:
        """End all connections, as at the end of their time."""
        for conversation in list(self.conversations):
            await conversation.close(1011, "Deadline expired before operation could complete.")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=2**22)
        await socket.prepare(request)
        if self.refusals:
            code, reason = self.refusals.popleft()
            await socket.close(code=code, message=reason.encode()[:123])
            return socket
        if request.headers.get("x-goog-api-key", request.query.get("key")) != self._key:
            await socket.close(code=1007, message=b"API key not valid. Please pass a valid API key.")
            return socket
        connection = request.transport
        if connection is None:  # already lost
            return socket
        conversation = Conversation(self, socket)
        self._connections.append(connection)
        self.conversations.append(conversation)
        try:
            with suppress(ConnectionError):
                await conversation.run()
        finally:
            self._connections.remove(connection)
            self.conversations.remove(conversation)
        return socket
