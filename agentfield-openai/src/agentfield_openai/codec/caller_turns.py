"""Turns of the caller: speech, transcripts, typed items, and items that were injected into the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.json_fields import count_at, id_at, number_at, object_at, objects_at, text_at
from agentfield.adapterkit.redact import redact
from agentfield.realtime.events import (
    Event,
    ToolTampered,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    Usage,
    UsageReported,
)
from agentfield_openai.codec.state import BoundedDict, CodecState

__all__ = ["CallerTurnTracker"]

_MAX_TEXT = 100_000


class CallerTurnTracker:
    """Tracks the turns of the caller; one method per server event.

    Args:
        state: The state of the codec.
        answered: Whether the model answers each spoken turn by itself.
    """

    def __init__(self, state: CodecState, *, answered: bool = False) -> None:
        self._state = state
        self._answered = answered
        self._open: str | None = None
        self._committed: BoundedDict[str, None] = BoundedDict(1024)
        self._final: BoundedDict[str, None] = BoundedDict(1024)
        self._partial: BoundedDict[str, str] = BoundedDict(64)
        self._deleted: BoundedDict[str, None] = BoundedDict(256)
        self._without_transcript: BoundedDict[str, None] = BoundedDict(8)

    def speech_started(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `input_audio_buffer.speech_started`."""
        item = id_at(event, "item_id")
        if item is None:
            return []
        self._open = item
        return [TurnStarted(item=item, at_ms=count_at(event, "audio_start_ms"))]

    def speech_stopped(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `input_audio_buffer.speech_stopped`."""
        item = id_at(event, "item_id")
        return [] if item is None else [TurnStopped(item=item, at_ms=count_at(event, "audio_end_ms"))]

    def buffer_committed(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `input_audio_buffer.committed`: the speech became an item."""
        item = id_at(event, "item_id")
        if item is None:
            return []
        self._state.automatic_reply_due = self._state.automatic_reply_due or self._answered
        return self._commit(item, id_at(event, "previous_item_id"), None)

    def buffer_cleared(self) -> list[Event]:
        """Handle `input_audio_buffer.cleared`: discard the uncommitted speech."""
        item, self._open = self._open, None
        if item is None or item in self._committed:
            return []
        return [TurnDiscarded(item=item, why="cleared")]

    def transcript_delta(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle a transcript delta; the returned event carries all text so far."""
        item, piece = id_at(event, "item_id"), text_at(event, "delta")
        if item is None or not piece or item in self._final:
            return []
        so_far = ((self._partial.get(item) or "") + piece)[:_MAX_TEXT]
        self._partial.set(item, so_far)
        return [TurnTranscript(item=item, text=so_far, final=False)]

    def transcript_done(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle the final transcript."""
        item = id_at(event, "item_id")
        if item is None or item in self._final:
            return []
        self._final.set(item, None)
        self._partial.pop(item)
        text = (text_at(event, "transcript") or "").strip()[:_MAX_TEXT]
        events: list[Event] = [TurnTranscript(item=item, text=text)]
        usage = _transcription_usage(object_at(event, "usage"))
        if usage is not None:
            events.append(UsageReported(kind="transcription", item=item, usage=usage))
        return events

    def transcript_failed(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle a failed transcription."""
        item = id_at(event, "item_id")
        if item is None or item in self._final:
            return []
        self._final.set(item, None)
        error = object_at(event, "error")
        why = text_at(error, "code") or text_at(error, "message") or text_at(error, "type") or "transcription_failed"
        return [TurnTranscript(item=item, text="", failed=redact(why))]

    def item_added(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle an added item: commit a typed turn; delete a tool result that we did not send."""
        item = object_at(event, "item")
        item_id = id_at(item, "id")
        if item_id is None:
            return []
        match item.get("type"), item.get("role"):
            case "message", "user":
                return self._commit(self._state.our_item(item_id), id_at(event, "previous_item_id"), _typed_text(item))
            case "function_call_output", _:
                return self._output(item_id, item)
            case _:
                return []

    def unfinished(self) -> list[str]:
        """Return the items that expect further events: being spoken, or without a transcript."""
        waiting = [item for item in self._without_transcript if item not in self._final]
        return [*waiting, *([] if self._open is None else [self._open])]

    def item_retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        """Handle a turn that was retrieved after a gap: commit it with its transcript, if it has one."""
        item_id = id_at(item, "id")
        if item_id is None or item.get("type") != "message" or item.get("role") != "user":
            return []
        events = self._commit(self._state.our_item(item_id), None, _typed_text(item))
        spoken = [
            text_at(part, "transcript") for part in objects_at(item, "content") if part.get("type") == "input_audio"
        ]
        text = " ".join(each.strip() for each in spoken if each)
        if text and item_id not in self._final:
            self._final.set(item_id, None)
            events.append(TurnTranscript(item=item_id, text=text[:_MAX_TEXT]))
        return events

    def _commit(self, item: str, previous: str | None, text: str | None) -> list[Event]:
        if item in self._committed:
            return []
        self._committed.set(item, None)
        if text is None:
            self._without_transcript.set(item, None)
        if self._open == item:
            self._open = None
        follows = None if previous is None else self._state.our_item(previous)
        return [TurnCommitted(item=item, previous=follows, text=text)]

    def _output(self, item_id: str, item: Mapping[str, Any]) -> list[Event]:
        call = id_at(item, "call_id")
        if call is None or call not in self._state.calls or item_id in self._state.outputs:
            return []
        if item_id in self._deleted:
            return []
        self._deleted.set(item_id, None)
        # deleted before ours is added: the model would otherwise speak about whichever came first
        self._state.outbox.append(self._state.delete(item_id))
        return [ToolTampered(call_id=call)]


def _typed_text(item: Mapping[str, Any]) -> str | None:
    """Return the text of a typed item, None for a spoken one."""
    parts = [text_at(part, "text") for part in objects_at(item, "content") if part.get("type") == "input_text"]
    text = "\n".join(part for part in parts if part)
    return text[:_MAX_TEXT] or None


def _transcription_usage(usage: Mapping[str, Any]) -> Usage | None:
    match usage.get("type"):
        case "duration":
            return Usage(seconds=number_at(usage, "seconds"))
        case "tokens":
            details = object_at(usage, "input_token_details")
            return Usage(
                input_text_tokens=count_at(details, "text_tokens"),
                input_audio_tokens=count_at(details, "audio_tokens"),
                cached_tokens=count_at(details, "cached_tokens"),
                output_text_tokens=count_at(usage, "output_tokens"),
            )
        case _:
            return None
