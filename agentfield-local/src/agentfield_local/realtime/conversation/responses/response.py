"""One response: its events in protocol order, from `response.created` to exactly one `response.done`. Sans-I/O."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield_local.brain.protocol import BrainRequest, CallFunction, Speak, Step
from agentfield_local.brain.tokens import TokenUsage, text_tokens
from agentfield_local.realtime.conversation.context import ConversationContext
from agentfield_local.realtime.conversation.effects import CancelWork, QueryBrain, ScheduleTimer, SynthesizeText
from agentfield_local.realtime.conversation.items import Item
from agentfield_local.realtime.conversation.responses.options import ResponseOptions
from agentfield_local.realtime.conversation.responses.usage import usage_view
from agentfield_local.speech.clauses import split_text

__all__ = ["Response"]

FinalStatus = Literal["completed", "cancelled", "incomplete", "failed"]
_AUDIO_TOKEN_MS = 50


@dataclass(slots=True)
class _SpokenItem:
    """The item that is being synthesised.

    Attributes:
        item: The item.
        index: Its output index.
        pieces: Words whose audio has not begun.
        transcript: Words sent so far.
    """

    item: Item
    index: int
    pieces: deque[str]
    transcript: str = ""


@dataclass(slots=True)
class _FunctionCallItem:
    """The function call whose arguments are being sent.

    Attributes:
        item: The item.
        index: Its output index.
        arguments: All arguments, as JSON text.
        sent: Arguments sent so far.
    """

    item: Item
    index: int
    arguments: str
    sent: str = ""


class Response:
    """One response in progress.

    Args:
        response_id: Its id.
        options: Its options.
        context: Items, behaviour and effects of the conversation.
    """

    def __init__(self, response_id: str, options: ResponseOptions, context: ConversationContext) -> None:
        self.id = response_id
        self.options = options
        self.done = False
        self.brain_queried = False
        self._context = context
        self._steps: deque[Step] = deque()
        self._output: list[Item] = []
        self._open_item: _SpokenItem | None = None
        self._open_call: _FunctionCallItem | None = None
        self._usage = TokenUsage()

    @property
    def audio_ms(self) -> int:
        """Milliseconds of its audio."""
        return sum(item.audio_ms for item in self._output)

    @property
    def in_default(self) -> bool:
        """Whether it belongs to the default conversation."""
        return self.options.conversation_id is not None

    def begin(self) -> None:
        """Send `response.created`."""
        if self._context.behaviour.unknown_events:
            self._context.emit("response.mood.updated", response_id=self.id, mood="curious")
        self._context.emit("response.created", response=self.view("in_progress"))
        if self._context.behaviour.rate_limits == "after_created":
            self._context.emit_rate_limits()

    def query_brain(self, request: BrainRequest, usage: TokenUsage) -> None:
        """Query the brain.

        Args:
            request: What the brain reads.
            usage: Usage of reading it.
        """
        self.brain_queried = True
        self._usage = usage
        self._context.add_effect(QueryBrain(self.id, request))

    def brain_answered(self, steps: Sequence[Step]) -> None:
        """Handle the brain's answer: begin the first item."""
        self._steps.extend(steps)
        self._advance()

    def has_audio(self, steps: Sequence[Step]) -> bool:
        """Whether this answer of the brain leads to any audio."""
        return self.options.modality == "audio" and any(isinstance(step, Speak) for step in steps)

    def view(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the wire form of the response."""
        options = self.options
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.view() for item in self._output],
            "conversation_id": options.conversation_id,
            "output_modalities": [options.modality],
            "max_output_tokens": options.max_output_tokens,
            "audio": {"output": {"format": options.format, "voice": options.voice}},
            "metadata": options.metadata,
            "usage": None if status == "in_progress" else usage_view(self._usage),
        }

    # items ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        while not self.done:
            if not self._steps:
                self.finish("completed")
                return
            match self._steps.popleft():
                case CallFunction(name, arguments):
                    if self._begin_call(name, arguments):
                        return
                case Speak(text) if self.options.modality == "text":
                    self._write(text)
                case Speak(text):
                    self._speak(text)
                    return

    def _add_item(self, item: Item) -> int:
        index = len(self._output)
        self._output.append(item)
        context = self._context

        def output_added() -> None:
            context.emit("response.output_item.added", response_id=self.id, output_index=index, item=item.view())

        def conversation_added() -> None:
            if self.in_default:
                previous = context.items.insert(item)
                context.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
            else:
                context.items.remember_call(item)

        first, second = output_added, conversation_added
        if context.behaviour.order.item_added == "conversation_first":
            first, second = conversation_added, output_added
        first()
        second()
        return index

    def _close_item(self, item: Item, index: int, status: Literal["completed", "incomplete"]) -> None:
        item.status = status
        context = self._context

        def conversation_done() -> None:
            if self.in_default and context.items.get(item.id) is not None:
                previous = context.items.previous(item.id)
                context.emit("conversation.item.done", item=item.view(), previous_item_id=previous)

        def output_done() -> None:
            context.emit("response.output_item.done", response_id=self.id, output_index=index, item=item.view())

        first, second = conversation_done, output_done
        if context.behaviour.item_done_order == "output_first":
            first, second = output_done, conversation_done
        first()
        second()

    def _begin_call(self, name: str, arguments: str) -> bool:
        """Begin a function call; return True if a timer sends the rest of its arguments."""
        context = self._context
        item = Item(context.items.reserve(), "function_call", "in_progress", name=name, call_id=context.new_id("call"))
        self._open_call = _FunctionCallItem(item, self._add_item(item), arguments)
        fields = self._call_fields(self._open_call)
        limit = self._remaining_characters()
        self._open_call.sent = arguments[: len(arguments) // 2] if limit is None else arguments[: limit // 2]
        if self._open_call.sent:
            context.emit("response.function_call_arguments.delta", delta=self._open_call.sent, **fields)
        if context.behaviour.slow_arguments_ms:
            context.add_effect(ScheduleTimer(context.behaviour.slow_arguments_ms / 1000, ("arguments", self.id)))
            return True
        self._finish_call()
        return False

    def arguments_due(self) -> None:
        """Handle the timer of slow arguments: send the rest."""
        if self._open_call is not None:
            self._finish_call()
            self._advance()

    def _finish_call(self) -> None:
        call, limit = self._open_call, self._remaining_characters()
        if call is None:
            return
        whole = call.arguments
        kept = whole if limit is None or len(whole) <= limit else whole[:limit]
        rest = kept[len(call.sent) :]
        if rest:
            self._context.emit("response.function_call_arguments.delta", delta=rest, **self._call_fields(call))
            call.sent += rest
        truncated = call.sent != whole
        self._close_call("incomplete" if truncated else "completed")
        if truncated:
            self.finish("incomplete", reason="max_output_tokens")

    def _close_call(self, status: Literal["completed", "incomplete"]) -> None:
        """End a call with the arguments sent so far; `arguments.done` is sent even if they are incomplete."""
        call, self._open_call = self._open_call, None
        if call is None:
            return
        item = call.item
        item.arguments = call.sent
        self._usage.output_text += text_tokens(item.name + item.arguments)
        fields = self._call_fields(call)
        kind = "response.function_call_arguments.done"
        self._context.emit(kind, name=item.name, arguments=item.arguments, **fields)
        self._close_item(item, call.index, status)

    def _remaining_characters(self) -> int | None:
        """Return the number of characters that the token limit still allows; None without a limit."""
        limit = self.options.max_output_tokens
        return None if limit == "inf" else max(0, limit - self._usage.output) * 4

    def _call_fields(self, call: _FunctionCallItem) -> dict[str, Any]:
        item = call.item
        return {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": call.index,
            "call_id": item.call_id,
        }

    def _message(self) -> Item:
        return Item(self._context.items.reserve(), "message", "in_progress", role="assistant")

    def _write(self, text: str) -> None:
        item = self._message()
        index = self._add_item(item)
        fields = self._part_fields(item, index)
        self._context.emit("response.content_part.added", part={"type": "text", "text": ""}, **fields)
        limit = self._remaining_characters()
        kept = text if limit is None else text[:limit]
        for piece in split_text(kept):
            self._context.emit("response.output_text.delta", delta=piece, **fields)
        self._usage.output_text += text_tokens(kept)
        item.text = kept
        item.content = [{"type": "output_text", "text": kept}]
        self._context.emit("response.output_text.done", text=kept, **fields)
        self._context.emit("response.content_part.done", part={"type": "text", "text": kept}, **fields)
        truncated = kept != text
        self._close_item(item, index, "incomplete" if truncated else "completed")
        if truncated:
            self.finish("incomplete", reason="max_output_tokens")

    def _speak(self, text: str) -> None:
        item = self._message()
        index = self._add_item(item)
        self._open_item = _SpokenItem(item, index, deque(split_text(text)))
        item.content = [{"type": "output_audio", "transcript": ""}]
        fields = self._part_fields(item, index)
        self._context.emit("response.content_part.added", part={"type": "audio", "transcript": ""}, **fields)
        self._context.add_effect(SynthesizeText(self.id, item.id, text))

    def audio_synthesized(self, item_id: str, audio: bytes, ms: float, *, clause: bool) -> None:
        """Handle a piece of audio of the item that is being synthesised.

        Args:
            item_id: The item.
            audio: Bytes in the response's output format; 48 kHz s16le mono on WebRTC.
            ms: Their length.
            clause: Whether they begin a clause, whose words are then sent.
        """
        spoken = self._open_item
        if spoken is None or spoken.item.id != item_id:
            return
        fields = self._part_fields(spoken.item, spoken.index)
        context = self._context
        words_last = context.behaviour.order.words == "after_audio"
        if clause and not words_last:
            self._send_words(spoken, fields)
        spoken.item.audio_ms += round(ms)
        wire = audio
        if context.output_buffer is not None:
            context.output_buffer.push(self.id, item_id, audio)
            wire = memoryview(audio).cast("h")[::2].tobytes()  # 48 to 24 kHz without a filter
        spoken.item.audio += wire
        if context.output_buffer is None or context.behaviour.sideband_audio_deltas:
            context.emit("response.output_audio.delta", delta=base64.b64encode(wire).decode(), **fields)
        if clause and words_last:
            self._send_words(spoken, fields)
        self._usage.output_audio += max(1, round(ms / _AUDIO_TOKEN_MS))
        limit = self.options.max_output_tokens
        if limit != "inf" and self._usage.output >= limit:
            self.finish("incomplete", reason="max_output_tokens")

    def item_synthesized(self, item_id: str) -> None:
        """Handle the end of an item's synthesis: close it and begin the next one."""
        if self._open_item is not None and self._open_item.item.id == item_id:
            while self._open_item.pieces:
                self._send_words(self._open_item, self._part_fields(self._open_item.item, self._open_item.index))
            self._close_spoken("completed")
            self._advance()

    def _send_words(self, spoken: _SpokenItem, fields: dict[str, Any]) -> None:
        if spoken.pieces:
            piece = spoken.pieces.popleft()
            spoken.transcript += piece
            self._usage.output_text += text_tokens(piece)
            self._context.emit("response.output_audio_transcript.delta", delta=piece, **fields)

    def _close_spoken(self, status: Literal["completed", "incomplete"]) -> None:
        spoken, self._open_item = self._open_item, None
        if spoken is None:
            return
        item, fields = spoken.item, self._part_fields(spoken.item, spoken.index)
        item.text = spoken.transcript
        if item.content and "transcript" in item.content[0]:
            item.content[0]["transcript"] = spoken.transcript
        self._emit_audio_done(spoken, fields)
        part = {"type": "audio", "transcript": spoken.transcript}
        self._context.emit("response.content_part.done", part=part, **fields)
        self._close_item(item, spoken.index, status)

    def _emit_audio_done(self, spoken: _SpokenItem, fields: dict[str, Any]) -> None:
        words_first = self._context.behaviour.order.audio_done == "transcript_first"
        if not words_first:
            self._context.emit("response.output_audio.done", **fields)
        self._context.emit("response.output_audio_transcript.done", transcript=spoken.transcript, **fields)
        if words_first:
            self._context.emit("response.output_audio.done", **fields)

    def _part_fields(self, item: Item, index: int) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": item.id, "output_index": index, "content_index": 0}

    # end --------------------------------------------------------------------------------------------------------

    def finish(self, status: FinalStatus, *, reason: str | None = None, error: dict[str, str] | None = None) -> None:
        """End the response with its only `response.done`; later calls have no effect."""
        if self.done:
            return
        if status != "completed":
            self._context.add_effect(CancelWork(self.id))
        self._close_spoken("completed" if status == "completed" else "incomplete")
        self._close_call("incomplete")
        self.done = True
        self._steps.clear()
        details: dict[str, Any] = {"type": status}
        if reason is not None:
            details["reason"] = reason
        if error is not None:
            details["error"] = error
        if self._context.output_buffer is not None:
            self._context.output_buffer.finish(self.id)
        if self._context.behaviour.rate_limits == "before_done":
            self._context.emit_rate_limits()
        self._context.emit("response.done", response=self.view(status, details))
        if self._context.behaviour.rate_limits == "after_done":
            self._context.emit_rate_limits()
