"""What is being played to a WebRTC caller: a queue of replies that only a clear empties early. Sans-I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["PLAYOUT_RATE", "Cleared", "Played", "Playout"]

PLAYOUT_RATE = 48_000
_BYTES_PER_MS = PLAYOUT_RATE * 2 // 1000


@dataclass(frozen=True, slots=True)
class Played:
    """The first or the last sound of a response has left."""

    what: Literal["started", "stopped"]
    response_id: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """A response that was cut: `started` says whether any of it was heard, `heard` is in ms per item."""

    response_id: str
    started: bool
    heard: dict[str, int]


@dataclass(slots=True)
class _Reply:
    response_id: str
    chunks: deque[tuple[str, bytes]] = field(default_factory=deque)
    offset: int = 0
    heard: dict[str, int] = field(default_factory=dict)
    started: bool = False
    complete: bool = False


class Playout:
    """Replies in the order in which they began, pulled frame by frame (48 kHz s16le mono)."""

    def __init__(self) -> None:
        self._replies: deque[_Reply] = deque()
        self._open = True
        self.buffered_bytes = 0

    @property
    def playing(self) -> bool:
        """Whether any reply is unfinished."""
        return bool(self._replies)

    def holds(self, response_id: str) -> bool:
        """Whether audio of this response waits or plays."""
        return any(reply.response_id == response_id for reply in self._replies)

    @property
    def buffered_ms(self) -> int:
        """Milliseconds that wait to be played."""
        return self.buffered_bytes // _BYTES_PER_MS

    def close(self) -> None:
        """Nobody listens any more: drop what waits and what comes."""
        self._open = False
        self._replies.clear()
        self.buffered_bytes = 0

    def push(self, response_id: str, item_id: str, pcm: bytes) -> None:
        """Queue audio of an item of a response."""
        if not self._open or not pcm:
            return
        reply = next((r for r in self._replies if r.response_id == response_id), None)
        if reply is None:
            reply = _Reply(response_id)
            self._replies.append(reply)
        reply.chunks.append((item_id, pcm))
        reply.heard.setdefault(item_id, 0)
        self.buffered_bytes += len(pcm)

    def finish(self, response_id: str) -> None:
        """Say that no more audio comes for a response."""
        for reply in self._replies:
            if reply.response_id == response_id:
                reply.complete = True

    def pull(self, size: int) -> tuple[bytes, list[Played]]:
        """Take `size` bytes to play now, filled up with silence."""
        out = bytearray()
        events: list[Played] = []
        while self._replies and len(out) < size:
            reply = self._replies[0]
            if reply.chunks:
                if not reply.started:
                    reply.started = True
                    events.append(Played("started", reply.response_id))
                self._take(reply, out, size)
            elif reply.complete:
                self._replies.popleft()
                if reply.started:
                    events.append(Played("stopped", reply.response_id))
            else:
                break
        self.buffered_bytes -= len(out)
        return bytes(out).ljust(size, b"\0"), events

    @staticmethod
    def _take(reply: _Reply, out: bytearray, size: int) -> None:
        item_id, chunk = reply.chunks[0]
        piece = chunk[reply.offset : reply.offset + size - len(out)]
        out += piece
        reply.heard[item_id] += len(piece)
        reply.offset += len(piece)
        if reply.offset >= len(chunk):
            reply.chunks.popleft()
            reply.offset = 0

    def clear(self, wanted: Callable[[str], bool]) -> list[Cleared]:
        """Drop the replies whose response id is wanted and say how much of each was played."""
        cut = [reply for reply in self._replies if wanted(reply.response_id)]
        self._replies = deque(reply for reply in self._replies if not wanted(reply.response_id))
        for reply in cut:
            self.buffered_bytes -= sum(len(chunk) for _, chunk in reply.chunks) - reply.offset
        return [
            Cleared(r.response_id, r.started, {item: count // _BYTES_PER_MS for item, count in r.heard.items()})
            for r in cut
        ]
