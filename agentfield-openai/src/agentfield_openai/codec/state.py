"""State of a session that both directions of the codec share: sent events, open replies, seen items; all bounded."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from agentfield_openai.codec.truncation import ReceivedAudio

__all__ = ["MAX_TEXT", "BoundedDict", "CodecState", "PendingEvent", "ReplyState"]

K = TypeVar("K")
V = TypeVar("V")

_MAX_ITEM_ID = 32
MAX_TEXT = 200_000
"""Longest text of a reply."""


class BoundedDict(Generic[K, V]):
    """A dictionary that keeps the `limit` entries that were set last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return an entry, None if it is unknown or was evicted."""
        return self._entries.get(key)

    def set(self, key: K, value: V) -> None:
        """Set an entry and evict the oldest one beyond the limit."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Remove an entry and return it, None if it is unknown."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries))

    @property
    def newest(self) -> K | None:
        """The key that was set last, None without any."""
        return next(reversed(self._entries), None)

    def values(self) -> list[V]:
        """Return the entries, oldest first."""
        return list(self._entries.values())


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """A client event that we sent and that the provider may refuse by its `event_id`; `kind` is part of that id."""

    kind: Literal["say", "reply", "update", "cancel", "add_text", "tool_result", "commit", "cut", "retrieve"]
    command: str | None = None


@dataclass(slots=True)
class ReplyState:
    """One reply of the agent, as far as its events were received."""

    id: str
    command: str | None
    foreign: bool = False
    """Whether a page asked for it, outside the conversation; it calls no tools."""
    ended: bool = False
    audio: bool = False
    cancel_requested: bool = False
    playout: Literal["none", "playing", "stopped", "cleared"] = "none"
    playing_since: float = 0.0
    pieces: OrderedDict[str, list[str]] = field(default_factory=OrderedDict)
    whole: dict[str, str] = field(default_factory=dict)
    spoken: list[str] = field(default_factory=list)
    heard: tuple[str, int] | None = None
    """The item that the provider truncated, and the milliseconds that were heard of it."""
    interruption_told: bool = False
    calls: set[str] = field(default_factory=set)
    items: dict[str, None] = field(default_factory=dict)
    """Ids of the items that belong to the reply."""
    parts: dict[str, ReceivedAudio] = field(default_factory=dict)
    """Received audio by item, on a connection that carries audio."""
    is_truncated: bool = False
    """Whether we truncated the reply in the conversation to what was heard."""
    length: int = 0

    def item(self, item_id: str) -> list[str]:
        """Return the text pieces of an item; items keep the order in which they began."""
        return self.pieces.setdefault(item_id, [])

    def add(self, item_id: str, piece: str) -> bool:
        """Append text, up to `MAX_TEXT` characters per reply; return whether it was appended."""
        if self.length + len(piece) > MAX_TEXT:
            return False
        self.length += len(piece)
        self.item(item_id).append(piece)
        return True

    def text(self) -> str | None:
        """Return the text of the reply, None if it has none."""
        items = (self.whole.get(item, "".join(pieces)).strip() for item, pieces in self.pieces.items())
        return " ".join(item for item in items if item) or None


class CodecState:
    """The state of one session; every collection in it is bounded.

    Args:
        mark: Random text in the ids of our events, which tells them from events of the caller's data channel.
    """

    def __init__(self, mark: str) -> None:
        self.interruptible = True
        self.updates: deque[bool] = deque(maxlen=64)
        """Value of `interruptible` in each unconfirmed update."""
        self.pending_events: BoundedDict[str, PendingEvent] = BoundedDict(1024)
        """Sent client events by their `event_id`."""
        self.awaiting_reply: BoundedDict[str, PendingEvent] = BoundedDict(256)
        """Commands whose reply has not started, by command id."""
        self.echoes_metadata = False
        """Whether the provider repeats the metadata of a response, which names our command."""
        self.automatic_reply_due = False
        """Whether the model is about to answer a turn by itself."""
        self.replies: BoundedDict[str, ReplyState] = BoundedDict(256)
        self.calls: BoundedDict[str, str] = BoundedDict(4096)
        """Reply id by the id of each reported tool call."""
        self.outputs: BoundedDict[str, None] = BoundedDict(4096)
        """Ids of our items with tool results."""
        self.items: BoundedDict[str, None] = BoundedDict(4096)
        """Ids of the items that were seen."""
        self.retrieved: BoundedDict[str, str] = BoundedDict(256)
        """Ids of the items that we retrieved after a sideband gap."""
        self.outbox: deque[dict[str, Any]] = deque(maxlen=64)
        """Client events that received server events require."""
        self.voice_locked = False
        """Whether audio was produced; after that the provider refuses a change of voice."""
        self._items: BoundedDict[str, str] = BoundedDict(1024)
        self._results: BoundedDict[str, int] = BoundedDict(4096)
        self._mark = mark
        self._count = 0

    def register(self, pending: PendingEvent) -> str:
        """Register a client event and return its `event_id`."""
        self._count += 1
        event_id = f"af_{pending.kind}_{self._mark}_{self._count}"
        self.pending_events.set(event_id, pending)
        return event_id

    def retrieve(self, item: str) -> None:
        """Queue a retrieve event for an item, once per item."""
        if item not in self.retrieved:
            self.retrieved.set(item, item)
            event_id = self.register(PendingEvent("retrieve"))
            self.outbox.append({"type": "conversation.item.retrieve", "event_id": event_id, "item_id": item})

    def delete(self, item: str) -> dict[str, Any]:
        """Return the event that deletes an item from the conversation."""
        return {"type": "conversation.item.delete", "event_id": self.register(PendingEvent("cut")), "item_id": item}

    def item_id(self, item: str) -> str:
        """Return the provider's id for our item; the provider allows 32 characters, so longer ids are hashed."""
        if len(item) <= _MAX_ITEM_ID:
            return item
        short = f"af_{hashlib.sha256(item.encode()).hexdigest()[: _MAX_ITEM_ID - 3]}"
        self._items.set(short, item)
        return short

    def our_item(self, item: str) -> str:
        """Return our id for an item of the provider."""
        return self._items.get(item) or item

    def output_id(self, call_id: str) -> str:
        """Return the item id for the next result of a tool call.

        The id is derived from the call id, so that after a restart the provider refuses a repeated result.
        """
        count = (self._results.get(call_id) or 0) + 1
        self._results.set(call_id, count)
        item = f"afo_{hashlib.sha256(f'{count}:{call_id}'.encode()).hexdigest()[:28]}"
        self.outputs.set(item, None)
        return item
