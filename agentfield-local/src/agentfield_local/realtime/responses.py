"""One response: the events it sends in their order, from `response.created` to the one `response.done`. Sans-I/O."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_local.brain.protocol import BrainRequest, Call, Say, Step
from agentfield_local.realtime.effects import Abandon, Later, Think, Voice
from agentfield_local.realtime.items import Item
from agentfield_local.realtime.stage import Stage
from agentfield_local.realtime.usage import Usage, text_tokens
from agentfield_local.speech.clauses import split_clauses

__all__ = ["Options", "Response"]

Ending = Literal["completed", "cancelled", "incomplete", "failed"]
_AUDIO_TOKEN_MS = 50


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked of a response, the session's values filled in."""

    instructions: str
    modality: Literal["audio", "text"]
    tools: Sequence[dict[str, Any]]
    tool_choice: str
    voice: str
    format: dict[str, Any]
    max_output_tokens: int | Literal["inf"]
    metadata: dict[str, str] | None
    conversation_id: str | None
    input: Sequence[Item] | None


@dataclass(slots=True)
class _Open:
    """The item that is being spoken."""

    item: Item
    index: int
    pieces: deque[str]
    said: str = ""
    wire: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Calling:
    """The function call whose arguments are being produced."""

    item: Item
    index: int
    arguments: str
    said: str = ""


class Response:
    """One response in progress.

    Args:
        response_id: Its id.
        options: What was asked.
        stage: The conversation's items and way out.
    """

    def __init__(self, response_id: str, options: Options, stage: Stage) -> None:
        self.id = response_id
        self.options = options
        self.done = False
        self.thinking = False
        self._stage = stage
        self._steps: deque[Step] = deque()
        self._output: list[Item] = []
        self._open: _Open | None = None
        self._calling: _Calling | None = None
        self._usage = Usage()

    @property
    def audio_ms(self) -> int:
        """How long its audio is."""
        return sum(item.audio_ms for item in self._output)

    @property
    def in_default(self) -> bool:
        """Whether it belongs to the default conversation."""
        return self.options.conversation_id is not None

    def begin(self) -> None:
        """Announce it."""
        if self._stage.behaviour.unknown_events:
            self._stage.emit("response.mood.updated", response_id=self.id, mood="curious")
        self._stage.emit("response.created", response=self.view("in_progress"))
        if self._stage.behaviour.rate_limits == "after_created":
            self._stage.rate_limits()

    def think(self, request: BrainRequest, usage: Usage) -> None:
        """Ask the brain; everything it needs to read is there."""
        self.thinking = True
        self._usage = usage
        self._stage.do(Think(self.id, request))

    def planned(self, steps: Sequence[Step]) -> None:
        """Take the brain's answer and produce the first item."""
        self._steps.extend(steps)
        self._advance()

    def will_sound(self, steps: Sequence[Step]) -> bool:
        """Whether any audio will come of what the brain answered."""
        return self.options.modality == "audio" and any(isinstance(step, Say) for step in steps)

    def view(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the response as the wire has it."""
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
            "usage": None if status == "in_progress" else self._usage.view(),
        }

    # items ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        while not self.done:
            if not self._steps:
                self.finish("completed")
                return
            match self._steps.popleft():
                case Call(name, arguments):
                    if self._call(name, arguments):
                        return
                case Say(text) if self.options.modality == "text":
                    self._write(text)
                case Say(text):
                    self._speak(text)
                    return

    def _add_item(self, item: Item) -> int:
        index = len(self._output)
        self._output.append(item)
        stage = self._stage

        def output_added() -> None:
            stage.emit("response.output_item.added", response_id=self.id, output_index=index, item=item.view())

        def conversation_added() -> None:
            if self.in_default:
                previous = stage.items.insert(item)
                stage.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
            else:
                stage.items.remember_call(item)

        first, second = output_added, conversation_added
        if stage.behaviour.order.item_added == "conversation_first":
            first, second = conversation_added, output_added
        first()
        second()
        return index

    def _close_item(self, item: Item, index: int, status: Literal["completed", "incomplete"]) -> None:
        item.status = status
        stage = self._stage

        def conversation_done() -> None:
            if self.in_default and stage.items.get(item.id) is not None:
                previous = stage.items.previous(item.id)
                stage.emit("conversation.item.done", item=item.view(), previous_item_id=previous)

        def output_done() -> None:
            stage.emit("response.output_item.done", response_id=self.id, output_index=index, item=item.view())

        first, second = conversation_done, output_done
        if stage.behaviour.item_done_order == "output_first":
            first, second = output_done, conversation_done
        first()
        second()

    def _call(self, name: str, arguments: str) -> bool:
        """Begin a function call; return whether the rest of it comes later."""
        stage = self._stage
        item = Item(stage.items.reserve(), "function_call", "in_progress", name=name, call_id=stage.new_id("call"))
        self._calling = _Calling(item, self._add_item(item), arguments)
        place = self._place_of_call(self._calling)
        room = self._room()
        self._calling.said = arguments[: len(arguments) // 2] if room is None else arguments[: room // 2]
        if self._calling.said:
            stage.emit("response.function_call_arguments.delta", delta=self._calling.said, **place)
        if stage.behaviour.slow_arguments_ms:
            stage.do(Later(stage.behaviour.slow_arguments_ms / 1000, ("arguments", self.id)))
            return True
        self._finish_call()
        return False

    def arguments_due(self) -> None:
        """The rest of a call's arguments, where they take their time."""
        if self._calling is not None:
            self._finish_call()
            self._advance()

    def _finish_call(self) -> None:
        calling, room = self._calling, self._room()
        if calling is None:
            return
        whole = calling.arguments
        kept = whole if room is None or len(whole) <= room else whole[:room]
        rest = kept[len(calling.said) :]
        if rest:
            self._stage.emit("response.function_call_arguments.delta", delta=rest, **self._place_of_call(calling))
            calling.said += rest
        cut = calling.said != whole
        self._close_call("incomplete" if cut else "completed")
        if cut:
            self.finish("incomplete", reason="max_output_tokens")

    def _close_call(self, status: Literal["completed", "incomplete"]) -> None:
        """End a call with what there is of its arguments; they are told as done even where they are cut."""
        calling, self._calling = self._calling, None
        if calling is None:
            return
        item = calling.item
        item.arguments = calling.said
        self._usage.output_text += text_tokens(item.name + item.arguments)
        place = self._place_of_call(calling)
        kind = "response.function_call_arguments.done"
        self._stage.emit(kind, name=item.name, arguments=item.arguments, **place)
        self._close_item(item, calling.index, status)

    def _room(self) -> int | None:
        """Return how many characters the limit of tokens still allows; None where there is no limit."""
        limit = self.options.max_output_tokens
        return None if limit == "inf" else max(0, limit - self._usage.output) * 4

    def _place_of_call(self, calling: _Calling) -> dict[str, Any]:
        item = calling.item
        return {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": calling.index,
            "call_id": item.call_id,
        }

    def _message(self) -> Item:
        return Item(self._stage.items.reserve(), "message", "in_progress", role="assistant")

    def _write(self, text: str) -> None:
        item = self._message()
        index = self._add_item(item)
        place = self._place(item, index)
        self._stage.emit("response.content_part.added", part={"type": "text", "text": ""}, **place)
        room = self._room()
        kept = text if room is None else text[:room]
        for piece in _clauses(kept):
            self._stage.emit("response.output_text.delta", delta=piece, **place)
        self._usage.output_text += text_tokens(kept)
        item.text = kept
        item.content = [{"type": "output_text", "text": kept}]
        self._stage.emit("response.output_text.done", text=kept, **place)
        self._stage.emit("response.content_part.done", part={"type": "text", "text": kept}, **place)
        cut = kept != text
        self._close_item(item, index, "incomplete" if cut else "completed")
        if cut:
            self.finish("incomplete", reason="max_output_tokens")

    def _speak(self, text: str) -> None:
        item = self._message()
        index = self._add_item(item)
        self._open = _Open(item, index, deque(_clauses(text)))
        item.content = [{"type": "output_audio", "transcript": ""}]
        place = self._place(item, index)
        self._stage.emit("response.content_part.added", part={"type": "audio", "transcript": ""}, **place)
        self._stage.do(Voice(self.id, item.id, text))

    def voiced(self, item_id: str, audio: bytes, ms: float, *, clause: bool) -> None:
        """Take a piece of audio of the item that is being spoken.

        Args:
            item_id: The item that it belongs to.
            audio: Bytes in the response's output format; 48 kHz s16le mono on WebRTC.
            ms: Its length.
            clause: Whether it begins a clause, whose words are then due.
        """
        spoken = self._open
        if spoken is None or spoken.item.id != item_id:
            return
        place = self._place(spoken.item, spoken.index)
        stage = self._stage
        words_last = stage.behaviour.order.words == "after_audio"
        if clause and not words_last:
            self._words(spoken, place)
        spoken.item.audio_ms += round(ms)
        wire = audio
        if stage.playout is not None:
            stage.playout.push(self.id, item_id, audio)
            wire = memoryview(audio).cast("h")[::2].tobytes()  # 48 to 24 kHz, good enough to keep and to look at
        spoken.item.audio += wire
        if stage.playout is None or stage.behaviour.sideband_audio_deltas:
            stage.emit("response.output_audio.delta", delta=base64.b64encode(wire).decode(), **place)
        if clause and words_last:
            self._words(spoken, place)
        self._usage.output_audio += max(1, round(ms / _AUDIO_TOKEN_MS))
        limit = self.options.max_output_tokens
        if limit != "inf" and self._usage.output >= limit:
            self.finish("incomplete", reason="max_output_tokens")

    def voice_done(self, item_id: str) -> None:
        """The item was spoken to its end: close it and go on."""
        if self._open is not None and self._open.item.id == item_id:
            while self._open.pieces:
                self._words(self._open, self._place(self._open.item, self._open.index))
            self._close_spoken("completed")
            self._advance()

    def _words(self, spoken: _Open, place: dict[str, Any]) -> None:
        if spoken.pieces:
            piece = spoken.pieces.popleft()
            spoken.said += piece
            self._usage.output_text += text_tokens(piece)
            self._stage.emit("response.output_audio_transcript.delta", delta=piece, **place)

    def _close_spoken(self, status: Literal["completed", "incomplete"]) -> None:
        spoken, self._open = self._open, None
        if spoken is None:
            return
        item, place = spoken.item, self._place(spoken.item, spoken.index)
        item.text = spoken.said
        if item.content and "transcript" in item.content[0]:
            item.content[0]["transcript"] = spoken.said
        self._tell_done(spoken, place)
        part = {"type": "audio", "transcript": spoken.said}
        self._stage.emit("response.content_part.done", part=part, **place)
        self._close_item(item, spoken.index, status)

    def _tell_done(self, spoken: _Open, place: dict[str, Any]) -> None:
        words_first = self._stage.behaviour.order.audio_done == "transcript_first"
        if not words_first:
            self._stage.emit("response.output_audio.done", **place)
        self._stage.emit("response.output_audio_transcript.done", transcript=spoken.said, **place)
        if words_first:
            self._stage.emit("response.output_audio.done", **place)

    def _place(self, item: Item, index: int) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": item.id, "output_index": index, "content_index": 0}

    # the end ----------------------------------------------------------------------------------------------------

    def finish(self, ending: Ending, *, reason: str | None = None, error: dict[str, str] | None = None) -> None:
        """End it, once, with the one `response.done`."""
        if self.done:
            return
        if ending != "completed":
            self._stage.do(Abandon(self.id))
        self._close_spoken("completed" if ending == "completed" else "incomplete")
        self._close_call("incomplete")
        self.done = True
        self._steps.clear()
        details: dict[str, Any] = {"type": ending}
        if reason is not None:
            details["reason"] = reason
        if error is not None:
            details["error"] = error
        if self._stage.playout is not None:
            self._stage.playout.finish(self.id)
        if self._stage.behaviour.rate_limits == "before_done":
            self._stage.rate_limits()
        self._stage.emit("response.done", response=self.view(ending, details))
        if self._stage.behaviour.rate_limits == "after_done":
            self._stage.rate_limits()


def _clauses(text: str) -> list[str]:
    """Cut a text where the voice cuts it; the pieces joined are the text."""
    pieces: list[str] = []
    begin = 0
    for clause in split_clauses(text):
        end, letters = begin, len("".join(clause.split()))
        while end < len(text) and letters:
            letters -= not text[end].isspace()
            end += 1
        pieces.append(text[begin:end])
        begin = end
    if begin < len(text):
        pieces[-1:] = ["".join((*pieces[-1:], text[begin:]))]
    return pieces
