"""Server-sent events as bytes, split into writes as the behaviour says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Protocol

from agentfield_local.chat.behaviour import ChatBehaviour

__all__ = ["ByteSink", "SseWriter", "split_writes"]

_COMMENT = ": LOCAL PROCESSING"
_WRITE_SECONDS = 60.0
_UTF8_LEAD = 0xC0


class ByteSink(Protocol):
    """Destination of the bytes."""

    async def write(self, data: bytes) -> None:
        """Send bytes; return when the transport can take more."""


class SseWriter:
    """Writes the events of one completion.

    Args:
        sink: The HTTP response.
        behaviour: Variants and faults.
    """

    def __init__(self, sink: ByteSink, behaviour: ChatBehaviour) -> None:
        self._sink = sink
        self._behaviour = behaviour
        self._newline = "\r\n" if behaviour.newline == "crlf" else "\n"
        self._started = False

    async def event(self, data: dict[str, Any] | str) -> None:
        """Send an event, and a comment before it where the behaviour puts one.

        Raises:
            TimeoutError: The client does not read.
            ConnectionError: The client has disconnected.
        """
        comments = self._behaviour.comments
        if comments == "between" or (comments == "before" and not self._started):
            await self.comment()
        self._started = True
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        await self._send(f"data: {text}")

    async def comment(self) -> None:
        """Send a comment, which clients must ignore.

        Raises:
            TimeoutError: The client does not read.
            ConnectionError: The client has disconnected.
        """
        await self._send(_COMMENT)

    async def _send(self, line: str) -> None:
        for piece in split_writes(f"{line}{self._newline}{self._newline}".encode(), self._behaviour.writes):
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._sink.write(piece)


def split_writes(data: bytes, mode: str) -> Iterator[bytes]:
    """Yield data in the pieces of its writes: whole, or split inside every line or every multi-byte character.

    Args:
        data: A line of UTF-8 and the empty line after it.
        mode: `events`, `split_lines` or `split_characters`.
    """
    start = 0
    for point in _split_points(data, mode):
        yield data[start:point]
        start = point
    yield data[start:]


def _split_points(data: bytes, mode: str) -> Iterator[int]:
    match mode:
        case "split_lines":
            yield len(data.rstrip()) // 2
            yield len(data) - 1  # between the two line ends, or inside the last CRLF
        case "split_characters":
            yield from (at + 1 for at, byte in enumerate(data) if byte >= _UTF8_LEAD)
        case _:
            return
