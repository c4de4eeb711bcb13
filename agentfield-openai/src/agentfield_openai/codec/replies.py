"""Replies of the agent: generation, text, tool calls, audio, playout, and how much was heard."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.adapterkit.json_fields import count_at, id_at, object_at, objects_at, text_at
from agentfield.adapterkit.tool_names import ToolNames
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import (
    Event,
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    ToolRequested,
    Warned,
)
from agentfield_openai.codec.response_outcome import (
    Status,
    end_reason,
    expects_playout,
    fatal_faults,
    response_status,
    response_usage,
)
from agentfield_openai.codec.state import MAX_TEXT, CodecState, ReplyState
from agentfield_openai.codec.truncation import ReceivedAudio

__all__ = ["ReplyTracker"]

_TRUNCATION_WAIT = 0.2
"""Seconds that a cleared reply waits for the provider's own count of the heard audio."""

_NOT_ECHOED = (
    "The provider does not repeat the metadata of a response; replies are matched with commands by their order."
)
_MAX_ARGUMENTS = 1_000_000
_MAX_ITEMS = 256
"""Most items of one reply that are tracked."""


@dataclass(frozen=True, slots=True)
class _PendingClear:
    """A reply whose playout was cleared, with the heard milliseconds by our own clock."""

    reply: ReplyState
    heard_ms: int
    due: float


_FOREIGN = "A response outside of the conversation, which a page asked for, called a tool; it was not run."


class ReplyTracker:
    """Tracks the replies of the agent; one method per server event.

    Args:
        state: The state of the codec.
        names: Maps targets to tool names on the wire.
        audio: Format of the audio on this connection; None if it carries none.
    """

    def __init__(self, state: CodecState, names: ToolNames, audio: AudioFormat | None = None) -> None:
        self._state = state
        self._names = names
        self._audio = audio
        self._pending_clears: dict[str, _PendingClear] = {}
        self._warned_of_metadata = False

    # generation -------------------------------------------------------------------------------------------------

    def response_created(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `response.created`."""
        response = object_at(event, "response")
        reply_id = id_at(response, "id")
        if reply_id is None or reply_id in self._state.replies:
            return []
        flushed = self.flush()
        return [*flushed, *self._begin(reply_id, response)[1]]

    def response_done(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `response.done`; the reply ends at most once, even if the event is repeated."""
        response = object_at(event, "response")
        reply_id = id_at(response, "id")
        if reply_id is None:
            return []
        reply, events = self._begin(reply_id, response)
        if reply.ended:
            return events
        status = response_status(response.get("status"))
        self._take_output(reply, response, status, events)
        reply.ended = True
        details = object_at(response, "status_details")
        interrupted = status == "cancelled" and details.get("reason") == "turn_detected" and not reply.cancel_requested
        if self._audio is None and interrupted and reply.playout == "none" and not reply.interruption_told:
            reply.interruption_told = True
            events.append(Interrupted(reply=reply.id, heard_ms=0, method="wallclock"))
        text = reply.text()
        if text is not None:
            events.append(ReplyTranscript(reply=reply.id, text=text, final=True))
        events.append(
            ReplyEnded(
                reply=reply.id,
                command=reply.command,
                status=status,
                why=end_reason(status, details, interrupted=interrupted),
                text=text,
                audio=expects_playout(reply, status) if self._audio is None else bool(self._received(reply)),
                audio_ms=self._audio_ms(reply),
                tools=len(reply.calls),
                usage=response_usage(object_at(response, "usage")),
            )
        )
        events.extend(fatal_faults(reply, details))
        return events

    def text_delta(self, event: Mapping[str, Any], *, spoken: bool) -> list[Event]:
        """Handle a text or transcript delta."""
        reply, item, piece = self._generating_reply(event), id_at(event, "item_id"), text_at(event, "delta")
        if reply is None or item is None or not piece:
            return []
        self._mark_spoken(reply, item, spoken=spoken)
        return [ReplyTranscript(reply=reply.id, text=piece)] if reply.add(item, piece) else []

    def text_done(self, event: Mapping[str, Any], key: str, *, spoken: bool) -> list[Event]:
        """Handle the complete text of an item; it replaces the deltas when the reply ends."""
        reply, item, text = self._generating_reply(event), id_at(event, "item_id"), text_at(event, key)
        if reply is not None and item is not None and text:
            self._mark_spoken(reply, item, spoken=spoken)
            reply.item(item)
            reply.whole[item] = text[:MAX_TEXT]
        return []

    def item_added(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `response.output_item.added`."""
        reply, item = self._generating_reply(event), id_at(object_at(event, "item"), "id")
        if reply is not None and item is not None and len(reply.items) < _MAX_ITEMS:
            reply.items[item] = None
        return []

    def content_part_added(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `response.content_part.added`, the first sign of audio."""
        reply, item = self._generating_reply(event), id_at(event, "item_id")
        if reply is not None and item is not None:
            spoken = object_at(event, "part").get("type") == "audio"
            self._mark_spoken(reply, item, spoken=spoken, index=count_at(event, "content_index"))
        return []

    def item_done(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `response.output_item.done`; besides `response.done` the only event whose tool calls are accepted."""
        reply = self._generating_reply(event)
        if reply is None:
            return []
        item = object_at(event, "item")
        return self._call(reply, item) if item.get("status") == "completed" else []

    def item_retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        """Handle an item that was retrieved after a gap: take the text and tool calls that were missed."""
        item_id = id_at(item, "id")
        open_replies = (reply for reply in self._state.replies.values() if not reply.ended)
        reply = next((each for each in open_replies if item_id in each.items or item_id in each.pieces), None)
        if reply is None or item_id is None:
            return []
        if item.get("type") == "function_call":
            return self._call(reply, item) if item.get("status") == "completed" else []
        spoken = [text_at(part, "transcript") or text_at(part, "text") for part in objects_at(item, "content")]
        text = "".join(part for part in spoken if part)
        if text and item.get("status") == "completed":
            reply.item(item_id)
            reply.whole[item_id] = text[:MAX_TEXT]
        return []

    # audio ------------------------------------------------------------------------------------------------------

    def audio_delta(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle an audio delta; audio that arrives after a cancellation is dropped."""
        reply, item, delta = self._generating_reply(event), id_at(event, "item_id"), event.get("delta")
        if self._audio is None or reply is None or item is None or reply.cancel_requested:
            return []
        if not isinstance(delta, str) or not delta:
            return []
        try:
            data = base64.b64decode(delta, validate=True)
        except (binascii.Error, ValueError):
            return [Warned(code="invalid_event", message="The provider sent audio that is not base64.")]
        self._mark_spoken(reply, item, spoken=True, index=count_at(event, "content_index"))
        part = reply.parts.get(item)
        if part is None:
            return []
        if part.odd or len(data) % self._audio.frame:
            data = part.odd + data
            whole = len(data) - len(data) % self._audio.frame
            data, part.odd = data[:whole], data[whole:]
        part.size += len(data)
        return [ReplyAudio(reply=reply.id, data=data)] if data else []

    def audio_done(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle the end of the audio of an item."""
        reply, item = self._generating_reply(event), id_at(event, "item_id")
        part = None if reply is None or item is None else reply.parts.get(item)
        if reply is not None and part is not None and not reply.cancel_requested:
            part.complete = True
        return []

    @staticmethod
    def _received(reply: ReplyState) -> int:
        return sum(part.size for part in reply.parts.values())

    def _audio_ms(self, reply: ReplyState) -> int | None:
        return None if self._audio is None else int(self._audio.ms(self._received(reply)))

    # ------------------------------------------------------------------------------------------------------------

    def _begin(self, reply_id: str, response: Mapping[str, Any]) -> tuple[ReplyState, list[Event]]:
        known = self._state.replies.get(reply_id)
        if known is not None:
            return known, []
        # with WebRTC the page may send `response.create` itself; our commands ask for answers inside the conversation only
        foreign = "conversation_id" in response and response["conversation_id"] is None
        command, events = (None, []) if foreign else self._match(response)
        reply = ReplyState(reply_id, command, foreign=foreign)
        self._state.replies.set(reply_id, reply)
        return reply, [*events, ReplyStarted(reply=reply_id, command=command)]

    def _match(self, response: Mapping[str, Any]) -> tuple[str | None, list[Event]]:
        """Return the command that a response answers, None if the model or the caller's client asked for it.

        The metadata of a response names the command. Some look-alike services do not repeat it. Until it was repeated once,
        a response without it answers the command that was sent last, except where the model is about to answer by itself.
        """
        state = self._state
        named = id_at(object_at(response, "metadata"), "af_id")
        if named is not None:
            known = state.awaiting_reply.pop(named) is not None
            state.echoes_metadata = state.echoes_metadata or known
            return named if known else None, []
        automatic, state.automatic_reply_due = state.automatic_reply_due, False
        newest = state.awaiting_reply.newest
        if state.echoes_metadata or automatic or newest is None:
            return None, []
        state.awaiting_reply.clear()
        if self._warned_of_metadata:
            return newest, []
        self._warned_of_metadata = True
        return newest, [Warned(code="metadata_not_echoed", message=_NOT_ECHOED)]

    def _generating_reply(self, event: Mapping[str, Any]) -> ReplyState | None:
        """Return the reply of an event while it is being generated, None if it is unknown or has ended."""
        reply_id = id_at(event, "response_id")
        reply = None if reply_id is None else self._state.replies.get(reply_id)
        return None if reply is None or reply.ended else reply

    def _mark_spoken(self, reply: ReplyState, item: str, *, spoken: bool, index: int | None = None) -> None:
        if not spoken or item in reply.spoken or len(reply.spoken) >= _MAX_ITEMS:
            return
        reply.spoken.append(item)
        reply.audio = True
        self._state.voice_locked = True
        if reply.is_truncated:
            self._state.outbox.append(self._state.delete(item))  # the item began before the provider read our cancel
        elif self._audio is not None:
            reply.parts[item] = ReceivedAudio(item, index or 0)

    def _take_output(self, reply: ReplyState, response: Mapping[str, Any], status: Status, events: list[Event]) -> None:
        """Take the output of `response.done` that no earlier event delivered."""
        for item in objects_at(response, "output"):
            item_id = id_at(item, "id")
            if item.get("type") == "function_call":
                complete = item.get("status") == "completed" or (status == "completed" and "status" not in item)
                events.extend(self._call(reply, item) if complete else [])
            elif item.get("type") == "message" and item_id is not None and item_id not in reply.pieces:
                for part in objects_at(item, "content"):
                    spoken = text_at(part, "type") in {"output_audio", "audio"}
                    self._mark_spoken(reply, item_id, spoken=spoken)
                    reply.add(item_id, text_at(part, "transcript" if spoken else "text") or "")

    def _call(self, reply: ReplyState, item: Mapping[str, Any]) -> list[Event]:
        call_id, name, arguments = id_at(item, "call_id"), id_at(item, "name"), _arguments(item)
        if item.get("type") != "function_call" or call_id is None or name is None or arguments is None:
            return []
        if call_id in self._state.calls:
            return []
        self._state.calls.set(call_id, reply.id)
        if reply.foreign:
            return [Warned(code="tool_refused", message=_FOREIGN)]
        reply.calls.add(call_id)
        target = self._names.target(name)
        return [ToolRequested(call_id=call_id, name=target, arguments=arguments, reply=reply.id)]

    # playback ---------------------------------------------------------------------------------------------------

    def playout_started(self, event: Mapping[str, Any], now: float) -> list[Event]:
        """Handle `output_audio_buffer.started`: the caller begins to hear the reply."""
        reply_id = id_at(event, "response_id")
        if reply_id is None:
            return []
        reply = self._state.replies.get(reply_id)
        if reply is None:
            return [PlayoutStarted(reply=reply_id)]
        if reply.playout != "none":
            return []
        reply.playout, reply.playing_since, reply.audio = "playing", now, True
        self._state.voice_locked = True
        return [PlayoutStarted(reply=reply_id)]

    def playout_stopped(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `output_audio_buffer.stopped`: the caller has heard the whole reply."""
        reply_id = id_at(event, "response_id")
        if reply_id is None:
            return []
        reply = self._state.replies.get(reply_id)
        if reply is None:
            return [PlayoutStopped(reply=reply_id, method="provider")]
        if reply.playout in {"stopped", "cleared"}:
            return []
        reply.playout = "stopped"
        return [PlayoutStopped(reply=reply_id, method="provider")]

    def playout_cleared(self, event: Mapping[str, Any], now: float) -> list[Event]:
        """Handle `output_audio_buffer.cleared`: the rest of the reply was discarded.

        The event is held back until the provider's `conversation.item.truncated` tells how much was heard, or until
        `_TRUNCATION_WAIT` has passed; the two arrive in either order.
        """
        reply_id = id_at(event, "response_id")
        if reply_id is None:
            return []
        reply = self._state.replies.get(reply_id)
        if reply is None:
            return [PlayoutCleared(reply=reply_id)]
        if reply.playout in {"stopped", "cleared"}:
            return []
        heard = max(0, round((now - reply.playing_since) * 1000)) if reply.playout == "playing" else 0
        reply.playout = "cleared"
        self._pending_clears[reply.id] = _PendingClear(reply, heard, now + _TRUNCATION_WAIT)
        return self._resolve_clear(reply.id) if reply.heard is not None else []

    def item_truncated(self, event: Mapping[str, Any]) -> list[Event]:
        """Handle `conversation.item.truncated`: the provider's count of the heard audio of an item."""
        item, heard = id_at(event, "item_id"), count_at(event, "audio_end_ms")
        if item is None or heard is None:
            return []
        for reply in reversed(self._state.replies.values()):
            if item in reply.spoken:
                reply.heard = (item, heard)
                return self._resolve_clear(reply.id)
        return []

    def handle_timer(self, now: float) -> list[Event]:
        """Return the events of cleared replies whose wait is over."""
        due = [reply_id for reply_id, cleared in self._pending_clears.items() if cleared.due <= now]
        return [event for reply_id in due for event in self._resolve_clear(reply_id)]

    @property
    def waiting(self) -> bool:
        """Whether a cleared reply waits for `handle_timer`."""
        return bool(self._pending_clears)

    def get_timer(self) -> float | None:
        """Return the time at which `handle_timer` must be called, None if nothing waits."""
        return min((cleared.due for cleared in self._pending_clears.values()), default=None)

    def flush(self) -> list[Event]:
        """Return the events of all cleared replies that still wait."""
        return [event for reply_id in list(self._pending_clears) for event in self._resolve_clear(reply_id)]

    def _resolve_clear(self, reply_id: str) -> list[Event]:
        cleared = self._pending_clears.pop(reply_id, None)
        if cleared is None:
            return []
        reply, heard_ms = cleared.reply, cleared.heard_ms
        method: Literal["provider", "wallclock"] = "wallclock"
        if reply.heard is not None and len(reply.spoken) == 1:
            # the provider counts within one item; in a reply of several items the total is unknown
            method, heard_ms = "provider", reply.heard[1]
        events: list[Event] = [PlayoutCleared(reply=reply.id)]
        if not reply.interruption_told:
            reply.interruption_told = True
            events.insert(0, Interrupted(reply=reply.id, heard_ms=heard_ms, method=method))
        return events


def _arguments(item: Mapping[str, Any]) -> str | None:
    """Return the arguments of a call as JSON text; some look-alike services send the object itself.

    What is cut at the limit is no JSON any more: the call is then refused to the model.
    """
    found = item.get("arguments")
    text = json.dumps(found) if isinstance(found, dict) else text_at(item, "arguments")
    return None if text is None else text[:_MAX_ARGUMENTS]
