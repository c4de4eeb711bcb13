"""What both directions of the codec remember about a call: what was asked, which replies there are, what was seen."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from agentfield_openai.codec.heard import Part

__all__ = ["Asked", "Ledger", "Recent", "Reply"]

K = TypeVar("K")
V = TypeVar("V")

_LONGEST_ITEM = 32
_LONGEST_TEXT = 200_000


class Recent(Generic[K, V]):
    """A dictionary of the `limit` entries that were set last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return an entry, None when it is unknown or forgotten."""
        return self._entries.get(key)

    def set(self, key: K, value: V) -> None:
        """Remember an entry, forgetting the oldest if there are too many."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> V | None:
        """Forget an entry and return it."""
        return self._entries.pop(key, None)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries))

    def values(self) -> list[V]:
        """Return the entries, oldest first."""
        return list(self._entries.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """A client event of ours that the provider may refuse by its `event_id`."""

    kind: Literal["say", "reply", "update", "cancel", "add_text", "tool_result", "commit", "cut", "retrieve"]
    command: str | None = None


@dataclass(slots=True)
class Reply:
    """One reply of the agent's side as far as it was seen."""

    id: str
    command: str | None
    ended: bool = False
    audio: bool = False
    asked_to_stop: bool = False
    playout: Literal["none", "playing", "stopped", "cleared"] = "none"
    playing_since: float = 0.0
    pieces: OrderedDict[str, list[str]] = field(default_factory=OrderedDict)
    whole: dict[str, str] = field(default_factory=dict)
    spoken: list[str] = field(default_factory=list)
    heard: tuple[str, int] | None = None
    """An item of it that the provider truncated, and at how many milliseconds."""
    interruption_told: bool = False
    calls: set[str] = field(default_factory=set)
    items: dict[str, None] = field(default_factory=dict)
    """Items that the provider said are its."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Its audio by item, where the media passes through us."""
    was_cut: bool = False
    """Whether we made the conversation hold only what was heard."""
    length: int = 0

    def item(self, item_id: str) -> list[str]:
        """Return the pieces of an item of it, in the order in which items began."""
        return self.pieces.setdefault(item_id, [])

    def add(self, item_id: str, piece: str) -> None:
        """Append words, as long as there is room."""
        if self.length + len(piece) <= _LONGEST_TEXT:
            self.length += len(piece)
            self.item(item_id).append(piece)

    def text(self) -> str | None:
        """Return all its words, None when it has none."""
        items = (self.whole.get(item, "".join(pieces)).strip() for item, pieces in self.pieces.items())
        return " ".join(item for item in items if item) or None


class Ledger:
    """The memory of one call; everything in it is bounded.

    Args:
        mark: Random text in the ids of our events, so that nobody else's are taken for ours.
    """

    def __init__(self, mark: str) -> None:
        self.interruptible = True
        self.updates: deque[bool] = deque(maxlen=64)
        """The interruptible switch of each update that is under way."""
        self.asked: Recent[str, Asked] = Recent(1024)
        self.awaited: Recent[str, Asked] = Recent(256)
        """Commands whose reply has not begun."""
        self.replies: Recent[str, Reply] = Recent(256)
        self.calls: Recent[str, str] = Recent(4096)
        """Tool calls that were passed on, and the reply they belong to."""
        self.outputs: Recent[str, None] = Recent(4096)
        """Items in which we gave results of tools."""
        self.items: Recent[str, None] = Recent(4096)
        """Items that were seen."""
        self.retrieved: Recent[str, str] = Recent(256)
        """Items that we asked for after a gap."""
        self.outbox: deque[dict[str, Any]] = deque(maxlen=64)
        """Client events that follow from what the provider sent."""
        self.voiced = False
        """Whether audio was produced, which locks the voice."""
        self._items: Recent[str, str] = Recent(1024)
        self._results: Recent[str, int] = Recent(4096)
        self._mark = mark
        self._count = 0

    def note(self, asked: Asked) -> str:
        """Remember a client event and return its id."""
        self._count += 1
        event_id = f"af_{asked.kind}_{self._mark}_{self._count}"
        self.asked.set(event_id, asked)
        return event_id

    def retrieve(self, item: str) -> None:
        """Ask for an item once."""
        if item not in self.retrieved:
            self.retrieved.set(item, item)
            event_id = self.note(Asked("retrieve"))
            self.outbox.append({"type": "conversation.item.retrieve", "event_id": event_id, "item_id": item})

    def delete(self, item: str) -> dict[str, Any]:
        """Return the event that takes an item out of the conversation."""
        return {"type": "conversation.item.delete", "event_id": self.note(Asked("cut")), "item_id": item}

    def item_id(self, item: str) -> str:
        """Return the id under which the provider knows an item of ours: it allows 32 characters."""
        if len(item) <= _LONGEST_ITEM:
            return item
        short = f"af_{hashlib.sha256(item.encode()).hexdigest()[: _LONGEST_ITEM - 3]}"
        self._items.set(short, item)
        return short

    def our_item(self, item: str) -> str:
        """Return our id of an item of the provider's."""
        return self._items.get(item) or item

    def output_id(self, call_id: str) -> str:
        """Return the item id for the next result of a call: the same after a restart, so that a repetition is refused."""
        count = (self._results.get(call_id) or 0) + 1
        self._results.set(call_id, count)
        item = f"afo_{hashlib.sha256(f'{count}:{call_id}'.encode()).hexdigest()[:28]}"
        self.outputs.set(item, None)
        return item
