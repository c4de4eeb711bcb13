"""What a caller is told about one recorded turn, kept so that a retried request hears it from its beginning."""

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

__all__ = ["MAX_TAPE", "Message", "TurnEnd", "TurnTape", "live_message"]

MAX_TAPE = 32 * 1024 * 1024
"""Bytes of one turn that are kept; beyond it what is not recorded is forgotten, the oldest first."""

_OVERHEAD = 200
_TELLING = frozenset({"execution.ended", "session.state", "turn.committed", "turn.discarded"})


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    event: str
    data: str
    id: str | None = None


def live_message(body: Mapping[str, Any]) -> Message:
    """Return a live event as it is sent."""
    return Message("live", json.dumps(body, separators=(",", ":"), ensure_ascii=False))


_GAP = live_message(
    {"type": "warning", "code": "audio_dropped", "message": "Some of the answer was not read in time and is gone."}
)


class TurnEnd:
    """Finds the end of a turn among the recorded events of its session.

    Args:
        item: What the turn is called.
    """

    def __init__(self, item: str) -> None:
        self._item = item
        self._turn_id: str | None = None
        self._ended: set[str] = set()
        self.taken = False
        """Whether the session decided about the turn: it counts, or it was discarded."""

    def over(self, row: EventRow) -> bool:
        """Tell whether the turn is over with this event."""
        body = json.loads(row.canonical)["body"] if row.type in _TELLING else {}
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


class TurnTape:
    """The messages of one turn; written by the session's leg, read by any number of requests, each from the beginning.

    Args:
        item: What the turn is called.
        key: The Idempotency-Key it came with, None for one that nobody can ask for again.
        since: Number of the event that the turn was taken with, where that was before; by it turns are told apart in age.
        limit: Bytes that are kept.
    """

    def __init__(
        self, item: str, key: IdempotencyKey | None = None, *, since: float = math.inf, limit: int = MAX_TAPE
    ) -> None:
        self.item = item
        self.key = key
        self.since = since
        self.closed = False
        self._limit = limit
        self._messages: list[Message | None] = []
        self._passing: deque[int] = deque()
        self._size = 0
        self._seq = 0
        self._readers = 0
        self._begun = False
        self._end = TurnEnd(item)
        self._more = asyncio.Event()
        self.add(Message("turn", json.dumps({"item": item})))

    @property
    def taken(self) -> bool:
        """Whether the session decided about the turn: it counts, or it was discarded."""
        return self._end.taken

    @property
    def heard(self) -> bool:
        """Whether what is added now reaches somebody: a request that reads, or one that may be sent again."""
        return not self.closed and (self._readers > 0 or not self._begun or self.key is not None)

    def add(self, message: Message) -> None:
        """Append a message; ignored once the tape is closed."""
        if self.closed:
            return
        if message.event == "live":
            self._passing.append(len(self._messages))
        self._messages.append(message)
        self._size += len(message.data) + _OVERHEAD
        while self._size > self._limit and self._passing:
            self._forget(self._passing.popleft())
        self._wake()

    def record(self, row: EventRow) -> bool:
        """Append a recorded event, once; returns whether the turn is over with it."""
        if row.seq <= self._seq:
            return False
        self._seq = row.seq
        self.add(Message(row.type, row.canonical.decode(), str(row.seq)))
        return self._end.over(row)

    def fail(self, error: AgentFieldError) -> None:
        """Say what went wrong and end."""
        self.add(Message("problem", json.dumps(error.to_problem(), separators=(",", ":"), ensure_ascii=False)))
        self.close()

    def close(self) -> None:
        """Nothing follows; idempotent."""
        self.closed = True
        self._wake()

    async def ended(self) -> None:
        """Wait until nothing follows."""
        while not self.closed:
            await self._more.wait()

    async def read(self) -> AsyncGenerator[Message, None]:
        """Yield all messages from the first one on; ends after the last one of a closed tape."""
        place = 0
        told = False
        self._readers += 1
        self._begun = True
        try:
            while True:
                while place < len(self._messages):
                    message = self._messages[place]
                    place += 1
                    if message is not None:
                        yield message
                    elif not told:
                        told = True
                        yield _GAP
                if self.closed:
                    return
                await self._more.wait()
        finally:
            self._readers -= 1

    def _forget(self, place: int) -> None:
        message = self._messages[place]
        if message is not None:
            self._size -= len(message.data) + _OVERHEAD
            self._messages[place] = None

    def _wake(self) -> None:
        """Let everybody who waits look again; the next wait is on a new event."""
        self._more.set()
        self._more = asyncio.Event()
