"""The caller's side of the event stream: turns, their words, and items that somebody put into the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.fields import count, ident, mapping, mappings, number, words
from agentfield.adapterkit.redact import redact
from agentfield.realtime.events import (
    Event,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    Usage,
    UsageReported,
    Warned,
)
from agentfield_openai.codec.ledger import Ledger, Recent

__all__ = ["Turns"]

_LONGEST_TEXT = 100_000


class Turns:
    """Follows what the caller says.

    Args:
        ledger: The memory of the call.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: str | None = None
        self._committed: Recent[str, None] = Recent(1024)
        self._final: Recent[str, None] = Recent(1024)
        self._partial: Recent[str, str] = Recent(64)
        self._told: Recent[str, None] = Recent(256)
        self._wordless: Recent[str, None] = Recent(8)

    def started(self, event: Mapping[str, Any]) -> list[Event]:
        """The caller began to speak."""
        item = ident(event, "item_id")
        if item is None:
            return []
        self._open = item
        return [TurnStarted(item=item, at_ms=count(event, "audio_start_ms"))]

    def stopped(self, event: Mapping[str, Any]) -> list[Event]:
        """The caller fell silent."""
        item = ident(event, "item_id")
        return [] if item is None else [TurnStopped(item=item, at_ms=count(event, "audio_end_ms"))]

    def committed(self, event: Mapping[str, Any]) -> list[Event]:
        """What was said is an item now."""
        item = ident(event, "item_id")
        return [] if item is None else self._commit(item, ident(event, "previous_item_id"), None)

    def cleared(self) -> list[Event]:
        """What was heard and not committed is gone."""
        item, self._open = self._open, None
        if item is None or item in self._committed:
            return []
        return [TurnDiscarded(item=item, why="cleared")]

    def transcript_delta(self, event: Mapping[str, Any]) -> list[Event]:
        """Some words are known; what is passed on is all of them so far."""
        item, piece = ident(event, "item_id"), words(event, "delta")
        if item is None or not piece or item in self._final:
            return []
        so_far = ((self._partial.get(item) or "") + piece)[:_LONGEST_TEXT]
        self._partial.set(item, so_far)
        return [TurnTranscript(item=item, text=so_far, final=False)]

    def transcript_done(self, event: Mapping[str, Any]) -> list[Event]:
        """All words are known."""
        item = ident(event, "item_id")
        if item is None or item in self._final:
            return []
        self._final.set(item, None)
        self._partial.pop(item)
        text = (words(event, "transcript") or "").strip()
        events: list[Event] = [TurnTranscript(item=item, text=text)]
        usage = _transcription_usage(mapping(event, "usage"))
        if usage is not None:
            events.append(UsageReported(kind="transcription", item=item, usage=usage))
        return events

    def transcript_failed(self, event: Mapping[str, Any]) -> list[Event]:
        """There will be no words."""
        item = ident(event, "item_id")
        if item is None or item in self._final:
            return []
        self._final.set(item, None)
        error = mapping(event, "error")
        why = words(error, "code") or words(error, "message") or words(error, "type") or "transcription_failed"
        return [TurnTranscript(item=item, text="", failed=redact(why))]

    def item(self, event: Mapping[str, Any]) -> list[Event]:
        """An item is in the conversation: a typed turn, or something that is not the caller's to put there."""
        item = mapping(event, "item")
        item_id = ident(item, "id")
        if item_id is None:
            return []
        match item.get("type"), item.get("role"):
            case "message", "user":
                return self._commit(self._ledger.our_item(item_id), ident(event, "previous_item_id"), _typed(item))
            case "function_call_output", _:
                return self._output(item_id, item)
            case _:
                return []

    def unfinished(self) -> list[str]:
        """Return the items of which more is to come: being spoken, or without their words."""
        waiting = [item for item in self._wordless if item not in self._final]
        return [*waiting, *([] if self._open is None else [self._open])]

    def retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        """A turn that was asked for after a gap: committed, and with the words that there are."""
        item_id = ident(item, "id")
        if item_id is None or item.get("type") != "message" or item.get("role") != "user":
            return []
        events = self._commit(self._ledger.our_item(item_id), None, _typed(item))
        spoken = [words(part, "transcript") for part in mappings(item, "content") if part.get("type") == "input_audio"]
        text = " ".join(each.strip() for each in spoken if each)
        if text and item_id not in self._final:
            self._final.set(item_id, None)
            events.append(TurnTranscript(item=item_id, text=text[:_LONGEST_TEXT]))
        return events

    def _commit(self, item: str, previous: str | None, text: str | None) -> list[Event]:
        if item in self._committed:
            return []
        self._committed.set(item, None)
        if text is None:
            self._wordless.set(item, None)
        if self._open == item:
            self._open = None
        follows = None if previous is None else self._ledger.our_item(previous)
        return [TurnCommitted(item=item, previous=follows, text=text)]

    def _output(self, item_id: str, item: Mapping[str, Any]) -> list[Event]:
        call = ident(item, "call_id")
        if call is None or call not in self._ledger.calls or item_id in self._ledger.outputs:
            return []
        return self._warn(
            item_id, "tampered_output", f"The result of tool call {redact(call)} was put in by the caller."
        )

    def _warn(self, item_id: str, code: str, message: str) -> list[Event]:
        if item_id in self._told:
            return []
        self._told.set(item_id, None)
        return [Warned(code=code, message=message)]


def _typed(item: Mapping[str, Any]) -> str | None:
    """Return the text of an item that was typed, None when it was spoken."""
    parts = [words(part, "text") for part in mappings(item, "content") if part.get("type") == "input_text"]
    text = "\n".join(part for part in parts if part)
    return text[:_LONGEST_TEXT] or None


def _transcription_usage(usage: Mapping[str, Any]) -> Usage | None:
    match usage.get("type"):
        case "duration":
            return Usage(seconds=number(usage, "seconds"))
        case "tokens":
            details = mapping(usage, "input_token_details")
            return Usage(
                input_text_tokens=count(details, "text_tokens"),
                input_audio_tokens=count(details, "audio_tokens"),
                cached_tokens=count(details, "cached_tokens"),
                output_text_tokens=count(usage, "output_tokens"),
            )
        case _:
            return None
