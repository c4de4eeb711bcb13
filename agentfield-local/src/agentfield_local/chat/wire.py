"""Server-sent events as bytes, cut and ended as the switches say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Protocol

from agentfield_local.chat.behaviour import ChatBehaviour

__all__ = ["Sink", "Wire", "pieces"]

_COMMENT = ": LOCAL PROCESSING"
_WRITE_SECONDS = 60.0
_LEAD = 0xC0


class Sink(Protocol):
    """Where the bytes go."""

    async def write(self, data: bytes) -> None:
        """Send bytes; returns when there is room for more."""


class Wire:
    """Writes the events of one answer.

    Args:
        sink: The response.
        behaviour: The switches.
    """

    def __init__(self, sink: Sink, behaviour: ChatBehaviour) -> None:
        self._sink = sink
        self._behaviour = behaviour
        self._newline = "\r\n" if behaviour.newline == "crlf" else "\n"
        self._begun = False

    async def event(self, data: dict[str, Any] | str) -> None:
        """Send an event, with a comment before it where the switches put one.

        Raises:
            TimeoutError: The client does not read.
            ConnectionError: It is gone.
        """
        comments = self._behaviour.comments
        if comments == "between" or (comments == "before" and not self._begun):
            await self.comment()
        self._begun = True
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        await self._send(f"data: {text}")

    async def comment(self) -> None:
        """Send what clients must ignore.

        Raises:
            TimeoutError: The client does not read.
            ConnectionError: It is gone.
        """
        await self._send(_COMMENT)

    async def _send(self, line: str) -> None:
        for piece in pieces(f"{line}{self._newline}{self._newline}".encode(), self._behaviour.writes):
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._sink.write(piece)


def pieces(data: bytes, how: str) -> Iterator[bytes]:
    """Yield data as it is to be written: whole, with every line cut in two, or with every long character cut in two.

    Args:
        data: A line of UTF-8 and the empty line after it.
        how: `events`, `split_lines` or `split_characters`.
    """
    begin = 0
    for cut in _cuts(data, how):
        yield data[begin:cut]
        begin = cut
    yield data[begin:]


def _cuts(data: bytes, how: str) -> Iterator[int]:
    match how:
        case "split_lines":
            yield len(data.rstrip()) // 2
            yield len(data) - 1  # between the two line ends, or inside the last one
        case "split_characters":
            yield from (at + 1 for at, byte in enumerate(data) if byte >= _LEAD)
        case _:
            return
