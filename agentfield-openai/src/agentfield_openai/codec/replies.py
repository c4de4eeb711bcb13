"""The agent's side of the event stream: replies, their words and tools, and what of them was heard."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.adapterkit.fields import count, ident, mapping, mappings, words
from agentfield.adapterkit.names import ToolNames
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
from agentfield_openai.codec.heard import Part
from agentfield_openai.codec.ledger import Ledger, Reply
from agentfield_openai.codec.outcome import Status, fatal, plays, status_of, usage_of, why_of

__all__ = ["Replies"]

_TRUNCATION_WAIT = 0.2
"""Seconds that a cleared reply waits for the provider's own word on how much was heard."""

_MOST_ITEMS = 256
"""Items of one reply that are followed."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A reply that was cut, and how much of it was heard by our own clock."""

    reply: Reply
    heard_ms: int
    due: float


class Replies:
    """Follows what the agent's side says and does.

    Args:
        ledger: The memory of the call.
        names: How tools are called on the wire.
        audio: The format of the audio that passes through us; None where none does.
    """

    def __init__(self, ledger: Ledger, names: ToolNames, audio: AudioFormat | None = None) -> None:
        self._ledger = ledger
        self._names = names
        self._audio = audio
        self._held: dict[str, _Held] = {}

    # generation -------------------------------------------------------------------------------------------------

    def created(self, event: Mapping[str, Any]) -> list[Event]:
        """A response began."""
        response = mapping(event, "response")
        reply_id = ident(response, "id")
        if reply_id is None or reply_id in self._ledger.replies:
            return []
        flushed = self.flush()
        return [*flushed, *self._begin(reply_id, response)[1]]

    def done(self, event: Mapping[str, Any]) -> list[Event]:
        """A response is over; the provider sends this exactly once, and we pass it on at most once."""
        response = mapping(event, "response")
        reply_id = ident(response, "id")
        if reply_id is None:
            return []
        reply, events = self._begin(reply_id, response)
        if reply.ended:
            return events
        status = status_of(response.get("status"))
        self._take_output(reply, response, status, events)
        reply.ended = True
        details = mapping(response, "status_details")
        cut = status == "cancelled" and details.get("reason") == "turn_detected" and not reply.asked_to_stop
        if self._audio is None and cut and reply.playout == "none" and not reply.interruption_told:
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
                why=why_of(status, details, cut=cut),
                text=text,
                audio=plays(reply, status) if self._audio is None else bool(self._received(reply)),
                audio_ms=self._audio_ms(reply),
                tools=len(reply.calls),
                usage=usage_of(mapping(response, "usage")),
            )
        )
        events.extend(fatal(reply, details))
        return events

    def words(self, event: Mapping[str, Any], *, spoken: bool) -> list[Event]:
        """Some words of a reply."""
        reply, item, piece = self._known(event), ident(event, "item_id"), words(event, "delta")
        if reply is None or item is None or not piece:
            return []
        self._mark_spoken(reply, item, spoken=spoken)
        reply.add(item, piece)
        return [ReplyTranscript(reply=reply.id, text=piece)]

    def whole(self, event: Mapping[str, Any], key: str, *, spoken: bool) -> list[Event]:
        """All words of an item of a reply; they are told when the reply ends."""
        reply, item, text = self._known(event), ident(event, "item_id"), words(event, key)
        if reply is not None and item is not None and text:
            self._mark_spoken(reply, item, spoken=spoken)
            reply.item(item)
            reply.whole[item] = text
        return []

    def item_added(self, event: Mapping[str, Any]) -> list[Event]:
        """An item of a reply began."""
        reply, item = self._known(event), ident(mapping(event, "item"), "id")
        if reply is not None and item is not None and len(reply.items) < _MOST_ITEMS:
            reply.items[item] = None
        return []

    def part(self, event: Mapping[str, Any]) -> list[Event]:
        """A part of an item began: the first sign of audio."""
        reply, item = self._known(event), ident(event, "item_id")
        if reply is not None and item is not None:
            spoken = mapping(event, "part").get("type") == "audio"
            self._mark_spoken(reply, item, spoken=spoken, index=count(event, "content_index"))
        return []

    def item_done(self, event: Mapping[str, Any]) -> list[Event]:
        """An item of a reply is complete; the only place but `response.done` where a tool call is believed."""
        reply = self._known(event)
        if reply is None:
            return []
        item = mapping(event, "item")
        return self._call(reply, item) if item.get("status") == "completed" else []

    def retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        """An item that was asked for after a gap: what was missed of it."""
        item_id = ident(item, "id")
        open_replies = (reply for reply in self._ledger.replies.values() if not reply.ended)
        reply = next((each for each in open_replies if item_id in each.items or item_id in each.pieces), None)
        if reply is None or item_id is None:
            return []
        if item.get("type") == "function_call":
            return self._call(reply, item) if item.get("status") == "completed" else []
        spoken = [words(part, "transcript") or words(part, "text") for part in mappings(item, "content")]
        whole = "".join(text for text in spoken if text)
        if whole and item.get("status") == "completed":
            reply.item(item_id)
            reply.whole[item_id] = whole
        return []

    # audio ------------------------------------------------------------------------------------------------------

    def sound(self, event: Mapping[str, Any]) -> list[Event]:
        """Audio of a reply; what comes after it was cancelled is dropped."""
        reply, item, delta = self._known(event), ident(event, "item_id"), event.get("delta")
        if self._audio is None or reply is None or item is None or reply.asked_to_stop:
            return []
        if not isinstance(delta, str) or not delta:
            return []
        try:
            data = base64.b64decode(delta, validate=True)
        except (binascii.Error, ValueError):
            return [Warned(code="invalid_event", message="The provider sent audio that is not base64.")]
        self._mark_spoken(reply, item, spoken=True, index=count(event, "content_index"))
        part = reply.parts.get(item)
        if part is None:
            return []
        if part.odd or len(data) % self._audio.frame:
            data = part.odd + data
            whole = len(data) - len(data) % self._audio.frame
            data, part.odd = data[:whole], data[whole:]
        part.size += len(data)
        return [ReplyAudio(reply=reply.id, data=data)] if data else []

    def sound_done(self, event: Mapping[str, Any]) -> list[Event]:
        """All audio of an item was sent."""
        reply, item = self._known(event), ident(event, "item_id")
        part = None if reply is None or item is None else reply.parts.get(item)
        if reply is not None and part is not None and not reply.asked_to_stop:
            part.complete = True
        return []

    @staticmethod
    def _received(reply: Reply) -> int:
        return sum(part.size for part in reply.parts.values())

    def _audio_ms(self, reply: Reply) -> int | None:
        return None if self._audio is None else int(self._audio.ms(self._received(reply)))

    # ------------------------------------------------------------------------------------------------------------

    def _begin(self, reply_id: str, response: Mapping[str, Any]) -> tuple[Reply, list[Event]]:
        known = self._ledger.replies.get(reply_id)
        if known is not None:
            return known, []
        asked = ident(mapping(response, "metadata"), "af_id")
        command = asked if asked is not None and self._ledger.awaited.pop(asked) is not None else None
        reply = Reply(reply_id, command)
        self._ledger.replies.set(reply_id, reply)
        return reply, [ReplyStarted(reply=reply_id, command=command)]

    def _known(self, event: Mapping[str, Any]) -> Reply | None:
        """Return the reply that an event belongs to while it is being generated."""
        reply_id = ident(event, "response_id")
        reply = None if reply_id is None else self._ledger.replies.get(reply_id)
        return None if reply is None or reply.ended else reply

    def _mark_spoken(self, reply: Reply, item: str, *, spoken: bool, index: int | None = None) -> None:
        if not spoken or item in reply.spoken or len(reply.spoken) >= _MOST_ITEMS:
            return
        reply.spoken.append(item)
        reply.audio = True
        self._ledger.voiced = True
        if reply.was_cut:
            self._ledger.outbox.append(self._ledger.delete(item))  # began before the provider read our cancel
        elif self._audio is not None:
            reply.parts[item] = Part(item, index or 0)

    def _take_output(self, reply: Reply, response: Mapping[str, Any], status: Status, events: list[Event]) -> None:
        """Take what the last event holds and the ones before it did not."""
        for item in mappings(response, "output"):
            item_id = ident(item, "id")
            if item.get("type") == "function_call":
                complete = item.get("status") == "completed" or (status == "completed" and "status" not in item)
                events.extend(self._call(reply, item) if complete else [])
            elif item.get("type") == "message" and item_id is not None and item_id not in reply.pieces:
                for part in mappings(item, "content"):
                    spoken = part.get("type") in {"output_audio", "audio"}
                    self._mark_spoken(reply, item_id, spoken=spoken)
                    reply.add(item_id, words(part, "transcript" if spoken else "text") or "")

    def _call(self, reply: Reply, item: Mapping[str, Any]) -> list[Event]:
        call_id, name, arguments = ident(item, "call_id"), ident(item, "name"), words(item, "arguments")
        if item.get("type") != "function_call" or call_id is None or name is None or arguments is None:
            return []
        if call_id in self._ledger.calls:
            return []
        self._ledger.calls.set(call_id, reply.id)
        reply.calls.add(call_id)
        target = self._names.target(name)
        return [ToolRequested(call_id=call_id, name=target, arguments=arguments, reply=reply.id)]

    # playback ---------------------------------------------------------------------------------------------------

    def playing(self, event: Mapping[str, Any], now: float) -> list[Event]:
        """The caller begins to hear a reply."""
        reply_id = ident(event, "response_id")
        if reply_id is None:
            return []
        reply = self._ledger.replies.get(reply_id)
        if reply is None:
            return [PlayoutStarted(reply=reply_id)]
        if reply.playout != "none":
            return []
        reply.playout, reply.playing_since, reply.audio = "playing", now, True
        self._ledger.voiced = True
        return [PlayoutStarted(reply=reply_id)]

    def played(self, event: Mapping[str, Any]) -> list[Event]:
        """The caller has heard all of a reply."""
        reply_id = ident(event, "response_id")
        if reply_id is None:
            return []
        reply = self._ledger.replies.get(reply_id)
        if reply is None:
            return [PlayoutStopped(reply=reply_id, method="provider")]
        if reply.playout in {"stopped", "cleared"}:
            return []
        reply.playout = "stopped"
        return [PlayoutStopped(reply=reply_id, method="provider")]

    def cleared(self, event: Mapping[str, Any], now: float) -> list[Event]:
        """What was left of a reply was thrown away; told together with how much was heard."""
        reply_id = ident(event, "response_id")
        if reply_id is None:
            return []
        reply = self._ledger.replies.get(reply_id)
        if reply is None:
            return [PlayoutCleared(reply=reply_id)]
        if reply.playout in {"stopped", "cleared"}:
            return []
        heard = max(0, round((now - reply.playing_since) * 1000)) if reply.playout == "playing" else 0
        reply.playout = "cleared"
        self._held[reply.id] = _Held(reply, heard, now + _TRUNCATION_WAIT)
        return self._tell(reply.id) if reply.heard is not None else []

    def truncated(self, event: Mapping[str, Any]) -> list[Event]:
        """The provider says how much of an item was heard."""
        item, heard = ident(event, "item_id"), count(event, "audio_end_ms")
        if item is None or heard is None:
            return []
        for reply in reversed(self._ledger.replies.values()):
            if item in reply.spoken:
                reply.heard = (item, heard)
                return self._tell(reply.id)
        return []

    def tick(self, now: float) -> list[Event]:
        """Tell what has waited long enough."""
        due = [reply_id for reply_id, held in self._held.items() if held.due <= now]
        return [event for reply_id in due for event in self._tell(reply_id)]

    @property
    def waiting(self) -> bool:
        """Whether something waits for `tick`."""
        return bool(self._held)

    def due(self) -> float | None:
        """Return when `tick` has something to do."""
        return min((held.due for held in self._held.values()), default=None)

    def flush(self) -> list[Event]:
        """Tell everything that still waits."""
        return [event for reply_id in list(self._held) for event in self._tell(reply_id)]

    def _tell(self, reply_id: str) -> list[Event]:
        held = self._held.pop(reply_id, None)
        if held is None:
            return []
        reply, heard_ms = held.reply, held.heard_ms
        method: Literal["provider", "wallclock"] = "wallclock"
        if reply.heard is not None and len(reply.spoken) == 1:
            # the provider counts within one item; with several, what came before it is unknown
            method, heard_ms = "provider", reply.heard[1]
        events: list[Event] = [PlayoutCleared(reply=reply.id)]
        if not reply.interruption_told:
            reply.interruption_told = True
            events.insert(0, Interrupted(reply=reply.id, heard_ms=heard_ms, method=method))
        return events
