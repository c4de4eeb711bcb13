"""Conversation items: their order, wire form, audio and truncation."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_local.audio.pcm import resample_linear
from agentfield_local.realtime.configuration.client_events import NewFunctionCall, NewFunctionOutput, NewMessage
from agentfield_local.realtime.conversation.client_audio import decode_audio, to_speech_pcm
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.wire.refusals import Refusal

__all__ = ["Item", "ItemStore", "item_from_client"]

_MAX_AUDIO_BYTES = 64 * 1024 * 1024

Status = Literal["completed", "incomplete", "in_progress"]


@dataclass(slots=True)
class Item:
    """One item; `text` is what a brain reads, None while a transcript is pending."""

    id: str
    type: Literal["message", "function_call", "function_call_output"]
    status: Status = "completed"
    role: Literal["system", "user", "assistant"] | None = None
    content: list[dict[str, Any]] = field(default_factory=list)
    name: str = ""
    call_id: str = ""
    arguments: str = ""
    output: str = ""
    text: str | None = ""
    audio: bytearray = field(default_factory=bytearray)
    audio_rate: int = 24_000
    audio_ms: int = 0

    def view(self, *, with_audio: bool = False) -> dict[str, Any]:
        """Return the wire form of the item; only a retrieved item includes its audio."""
        base: dict[str, Any] = {"id": self.id, "object": "realtime.item", "type": self.type, "status": self.status}
        match self.type:
            case "function_call":
                return {**base, "name": self.name, "call_id": self.call_id, "arguments": self.arguments}
            case "function_call_output":
                return {**base, "call_id": self.call_id, "output": self.output}
            case _:
                return {**base, "role": self.role, "content": [self._part(p, with_audio) for p in self.content]}

    def _part(self, part: dict[str, Any], with_audio: bool) -> dict[str, Any]:
        if with_audio and part["type"] in {"input_audio", "output_audio"}:
            return {**part, "audio": base64.b64encode(self._wire_audio()).decode()}
        return dict(part)

    def _wire_audio(self) -> bytes:
        pcm = bytes(self.audio)
        return resample_linear(pcm, self.audio_rate, 24_000) if self.audio_rate != 24_000 else pcm

    @property
    def is_spoken(self) -> bool:
        """Whether the item is an assistant message with audio."""
        return self.role == "assistant" and any(part["type"] == "output_audio" for part in self.content)

    def truncate(self, audio_end_ms: int) -> None:
        """Truncate audio and text to what was heard, and remove the transcript.

        The text keeps its words in proportion to the audio: the speech engine reports no word times.
        """
        if self.audio_ms:
            keep = len(self.audio) * audio_end_ms // self.audio_ms
            del self.audio[keep - keep % 2 :]
            words = (self.text or "").split()
            self.text = " ".join(words[: len(words) * audio_end_ms // self.audio_ms])
        self.audio_ms = audio_end_ms
        for part in self.content:
            part.pop("transcript", None)


class ItemStore:
    """Items in conversation order. An id is never used twice, even if its item was deleted."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._items: dict[str, Item] = {}
        self._order: list[str] = []
        self._assigned_ids: set[str] = set()
        self._calls: dict[str, str] = {}

    def __iter__(self) -> Iterator[Item]:
        return (self._items[item_id] for item_id in self._order)

    def __len__(self) -> int:
        return len(self._order)

    def reserve(self) -> str:
        """Return a fresh item id."""
        item_id = self._new_id("item")
        while item_id in self._assigned_ids:
            item_id = self._new_id("item")
        self._assigned_ids.add(item_id)
        return item_id

    def claim(self, item_id: str) -> None:
        """Reserve an id that the client chose.

        Raises:
            Refusal: The id was used before.
        """
        if item_id in self._assigned_ids:
            raise Refusal(
                f"Item with item_id already exists: {item_id}", code="item_create_duplicate_item_id", param="item.id"
            )
        self._assigned_ids.add(item_id)

    def index_after(self, previous: str | None) -> int:
        """Return the index of an item that follows `previous` (None appends, "root" is the front).

        Raises:
            Refusal: There is no item `previous`.
        """
        if previous is None:
            return len(self._order)
        if previous == "root":
            return 0
        if previous not in self._items:
            raise Refusal(
                f"Item with item_id not found: {previous}",
                code="item_create_invalid_previous_item_id",
                param="previous_item_id",
            )
        return self._order.index(previous) + 1

    def insert(self, item: Item, index: int | None = None) -> str | None:
        """Insert an item and return the id of the item before it."""
        at = len(self._order) if index is None else index
        self._items[item.id] = item
        self._order.insert(at, item.id)
        self.remember_call(item)
        self._drop_old_audio()
        return self._order[at - 1] if at else None

    def remember_call(self, item: Item) -> None:
        """Record the call id of a function call, including calls outside the conversation."""
        if item.type == "function_call":
            self._calls[item.call_id] = item.name

    def previous(self, item_id: str) -> str | None:
        """Return the id of the item before this one."""
        at = self._order.index(item_id)
        return self._order[at - 1] if at else None

    def last_id(self) -> str | None:
        """Return the id of the newest item."""
        return self._order[-1] if self._order else None

    def get(self, item_id: str) -> Item | None:
        """Return an item; None if there is none, or it was removed."""
        return self._items.get(item_id)

    def require(self, item_id: str, verb: str) -> Item:
        """Return an item.

        Raises:
            Refusal: There is no such item; the code contains the verb.
        """
        found = self._items.get(item_id)
        if found is None:
            code = f"item_{verb}_invalid_item_id"
            raise Refusal(f"Item with item_id not found: {item_id}", code=code, param="item_id")
        return found

    def remove(self, item_id: str) -> None:
        """Remove an item from the conversation."""
        del self._items[item_id]
        self._order.remove(item_id)

    def call_name(self, call_id: str) -> str | None:
        """Return the function name of a call id; None if the call id is unknown."""
        return self._calls.get(call_id)

    def _drop_old_audio(self) -> None:
        total = 0
        for item_id in reversed(self._order):
            item = self._items[item_id]
            total += len(item.audio)
            if total > _MAX_AUDIO_BYTES:
                item.audio.clear()


_CONTENT_TYPES = {
    "system": {"input_text"},
    "user": {"input_text", "input_audio", "input_image"},
    "assistant": {"output_text", "output_audio"},
}


def item_from_client(
    new: NewMessage | NewFunctionCall | NewFunctionOutput,
    item_id: str,
    *,
    call_id: str = "",
    audio_format: dict[str, Any] | None = None,
) -> Item:
    """Return a new item from a client's item.

    Args:
        new: The item that the client sent.
        item_id: The item's id.
        call_id: Call id of a function call without one.
        audio_format: Format of the caller's audio; None ignores audio.

    Raises:
        Refusal: The content does not fit the role, or its audio is not base64.
    """
    match new:
        case NewFunctionCall():
            return Item(
                item_id, "function_call", name=new.name, arguments=new.arguments, call_id=new.call_id or call_id
            )
        case NewFunctionOutput():
            return Item(item_id, "function_call_output", call_id=new.call_id, output=new.output)
    texts: list[str] = []
    audio = bytearray()
    content: list[dict[str, Any]] = []
    for index, part in enumerate(new.content):
        if part.type not in _CONTENT_TYPES[new.role]:
            known = ", ".join(repr(name) for name in sorted(_CONTENT_TYPES[new.role]))
            raise Refusal(
                f"Invalid value: '{part.type}'. Supported values are: {known}.",
                code="invalid_value",
                param=f"item.content[{index}].type",
            )
        fields = part.model_dump(exclude_none=True, exclude={"audio"})
        content.append(fields if part.type != "input_audio" else {"transcript": None, **fields})
        texts.append(part.text or part.transcript or "")
        if part.type == "input_audio" and part.audio and audio_format is not None:
            audio += to_speech_pcm(decode_audio(part.audio, f"item.content[{index}].audio"), audio_format)
    text = " ".join(filter(None, texts))
    item = Item(item_id, "message", role=new.role, content=content, text=text, audio=audio, audio_rate=SPEECH_RATE)
    item.audio_ms = len(audio) * 1000 // (SPEECH_RATE * 2)
    return item
