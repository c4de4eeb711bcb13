"""Messages of one recorded turn, buffered so that a repeated request gets the answer from the beginning."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield_server.store.records import EventRow, IdempotencyKey

__all__ = ["MAX_BUFFER", "Message", "ReplayBuffer", "TurnEndDetector", "live_message"]

MAX_BUFFER = 32 * 1024 * 1024
"""Bytes kept per turn; beyond it live messages are dropped, oldest first. Recorded messages are never dropped."""

_OVERHEAD = 200
_END_EVENTS = frozenset({"execution.ended", "session.state", "turn.committed", "turn.discarded"})


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    event: str
    data: str
    id: str | None = None


def live_message(body: Mapping[str, Any]) -> Message:
    """Return the message of a live event."""
    return Message("live", json.dumps(body, separators=(",", ":"), ensure_ascii=False))


_GAP_WARNING = live_message(
    {"type": "warning", "code": "audio_dropped", "message": "Some of the answer was not read in time and is gone."}
)


class TurnEndDetector:
    """Detects the end of a turn among the recorded events of its session.

    Args:
        item: Name of the turn.
    """

    def __init__(self, item: str) -> None:
        self._item = item
        self._turn_id: str | None = None
        self._ended: set[str] = set()
        self.taken = False
        """Whether the session committed or discarded the turn."""

    def is_end(self, row: EventRow) -> bool:
        """Tell whether this event ends the turn."""
        body = json.loads(row.canonical)["body"] if row.type in _END_EVENTS else {}
        match row.type:
            case "turn.committed" if body.get("item") == self._item:
                self.taken = True
                self._turn_id = body.get("turn_id")
                return self._turn_id in self._ended
            case "turn.discarded" if body.get("item") == self._item:
                self.taken = True
                return True
            case "execution.ended" if body.get("kind") == "turn" and row.execution_id is not None:
                self._ended.add(row.execution_id)
                return row.execution_id == self._turn_id
            case "session.state":
                return bool(body.get("state") == "ended")
            case _:
                return False


class ReplayBuffer:
    """The messages of one turn: written by the session's leg, read by any number of requests, each from the beginning.

    Args:
        item: Name of the turn.
        key: The Idempotency-Key of its request; None for a turn that cannot be requested again.
        since: Sequence number of the event with which an earlier leg's turn was committed; orders the turns by age.
        limit: Bytes that are kept.
    """

    def __init__(
        self, item: str, key: IdempotencyKey | None = None, *, since: float = math.inf, limit: int = MAX_BUFFER
    ) -> None:
        self.item = item
        self.key = key
        self.since = since
        self.closed = False
        self._limit = limit
        self._messages: list[Message | None] = []
        self._live_positions: deque[int] = deque()
        self._size = 0
        self._seq = 0
        self._readers = 0
        self._read_once = False
        self._end_detector = TurnEndDetector(item)
        self._changed = asyncio.Event()
        self.add(Message("turn", json.dumps({"item": item})))

    @property
    def taken(self) -> bool:
        """Whether the session committed or discarded the turn."""
        return self._end_detector.taken

    @property
    def has_reader(self) -> bool:
        """Whether an added message has a receiver: a reading request, the first request, or a repeated one."""
        return not self.closed and (self._readers > 0 or not self._read_once or self.key is not None)

    def add(self, message: Message) -> None:
        """Append a message; ignored once the buffer is closed."""
        if self.closed:
            return
        if message.event == "live":
            self._live_positions.append(len(self._messages))
        self._messages.append(message)
        self._size += len(message.data) + _OVERHEAD
        while self._size > self._limit and self._live_positions:
            self._drop_live(self._live_positions.popleft())
        self._notify()

    def record(self, row: EventRow) -> bool:
        """Append a recorded event, at most once; return whether it ends the turn."""
        if row.seq <= self._seq:
            return False
        self._seq = row.seq
        self.add(Message(row.type, row.canonical.decode(), str(row.seq)))
        return self._end_detector.is_end(row)

    def fail(self, error: AgentFieldError) -> None:
        """Append the problem document of `error` and close."""
        self.add(Message("problem", json.dumps(error.to_problem(), separators=(",", ":"), ensure_ascii=False)))
        self.close()

    def close(self) -> None:
        """Close the buffer: no message follows; idempotent."""
        self.closed = True
        self._notify()

    async def ended(self) -> None:
        """Wait until the buffer is closed."""
        while not self.closed:
            await self._changed.wait()

    async def read(self) -> AsyncGenerator[Message, None]:
        """Yield all messages from the first one on; end after the last one of a closed buffer."""
        position = 0
        gap_sent = False
        self._readers += 1
        self._read_once = True
        try:
            while True:
                while position < len(self._messages):
                    message = self._messages[position]
                    position += 1
                    if message is not None:
                        yield message
                    elif not gap_sent:
                        gap_sent = True
                        yield _GAP_WARNING
                if self.closed:
                    return
                await self._changed.wait()
        finally:
            self._readers -= 1

    def _drop_live(self, position: int) -> None:
        message = self._messages[position]
        if message is not None:
            self._size -= len(message.data) + _OVERHEAD
            self._messages[position] = None

    def _notify(self) -> None:
        """Wake all waiters; a new event serves the next wait."""
        self._changed.set()
        self._changed = asyncio.Event()
