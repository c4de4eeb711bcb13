"""Sans-I/O parser of server-sent events (``text/event-stream``).

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from agentfield.errors import LimitExceeded

__all__ = ["EventParser", "ServerSentEvent"]

MAX_BUFFER = 16 * 1024 * 1024
"""Characters that an event may have."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event, as dispatched by the stream."""

    data: str
    event: str = "message"
    id: str | None = None


class EventParser:
    """Incremental parser: bytes in, events out; comments and unknown fields are ignored."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """Parse a chunk and yield the events that it completes.

        Raises:
            LimitExceeded: An event is longer than `MAX_BUFFER`.
        """
        self._text += self._decoder.decode(chunk)
        if len(self._text) > MAX_BUFFER:
            raise LimitExceeded("An event of the stream is too large.")
        while (line := self._line()) is not None:
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                yield event

    def _line(self) -> str | None:
        ends = [at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._text[end] == "\r" and end + 1 == len(self._text):
            return None  # the "\n" of a "\r\n" may follow in the next chunk
        line = self._text[:end]
        self._text = self._text[end + (2 if self._text.startswith("\r\n", end) else 1) :]
        return line

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case _:
                pass

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent("\n".join(data), event or "message", self._id) if data else None
