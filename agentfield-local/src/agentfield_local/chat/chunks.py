"""Chunks of a streamed completion in wire form, with the variants of their content. Sans-I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from agentfield_local.brain.tokens import TokenUsage
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.refusals import ChatRefusal

__all__ = ["OTHER_MODEL", "OTHER_PROVIDER", "PROVIDER", "ChunkBuilder", "ChunkHead", "usage_view"]

PROVIDER = "Local"
"""The `provider` of a completion."""
OTHER_PROVIDER = "Elsewhere"
OTHER_MODEL = "local-other-1"
_PADDED_BYTES = 2
_ODD_BYTES = 1


@dataclass(frozen=True, slots=True)
class ChunkHead:
    """Fields that are common to all chunks of a completion."""

    id: str
    created: int
    model: str
    provider: str = PROVIDER

    def changed(self, behaviour: ChatBehaviour) -> ChunkHead:
        """Return the head after the fault that changes the provider or the model."""
        if behaviour.switches == "model":
            return replace(self, model=OTHER_MODEL)
        return replace(self, provider=OTHER_PROVIDER)


class ChunkBuilder:
    """Builds the chunks of one completion.

    Args:
        head: Common fields.
        behaviour: Variants and faults.
        audio_id: Id of the audio; None for text only.
    """

    def __init__(self, head: ChunkHead, behaviour: ChatBehaviour, audio_id: str | None) -> None:
        self.head = head
        self._behaviour = behaviour
        self._audio_id = audio_id
        self._started = False

    def begin(self) -> dict[str, Any]:
        """Return the first chunk: the role and the id of the audio."""
        audio = {} if self._audio_id is None else {"audio": {"id": self._audio_id}}
        return self._delta(audio)

    def text(self, text: str) -> dict[str, Any]:
        """Return a chunk of text."""
        return self._delta({"content": text})

    def words(self, text: str) -> dict[str, Any]:
        """Return a chunk of the transcript of speech."""
        return self._delta(self._transcript(text))

    def audio(self, data: bytes, words: str = "") -> dict[str, Any]:
        """Return a chunk of audio, with its transcript if the behaviour sends them together."""
        sound = {"data": base64.b64encode(data).decode()}
        delta = self._transcript(words) if words else {}
        return self._delta({**delta, "audio": {**sound, **delta.get("audio", {})}})

    def _transcript(self, words: str) -> dict[str, Any]:
        return {"content": words} if self._behaviour.content == "words" else {"audio": {"transcript": words}}

    def call(self, index: int, call_id: str, name: str, arguments: str) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a tool call."""
        middle = 0 if self._behaviour.arguments == "whole" else len(arguments) // 2
        opening = {"index": index, "id": call_id, "type": "function"}
        yield self._delta({"tool_calls": [{**opening, "function": {"name": name, "arguments": arguments[:middle]}}]})
        yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": arguments[middle:]}}]})

    def finish(self, reason: str, expires_at: int | None) -> dict[str, Any]:
        """Return the chunk with the finish reason."""
        audio = {} if expires_at is None else {"audio": {"expires_at": expires_at}}
        return self._delta(audio, reason)

    def usage(self, usage: TokenUsage) -> dict[str, Any]:
        """Return the chunk with the usage."""
        chunk = self._chunk([])
        if self._behaviour.usage == "silent_choice":
            chunk = self._delta({"content": ""})
            chunk["choices"][0]["delta"]["role"] = "assistant"
        return {**chunk, "usage": usage_view(usage, cost=self._behaviour.usage_cost)}

    def error(self, refusal: ChatRefusal) -> dict[str, Any]:
        """Return the chunk with an error."""
        chunk = self._delta({"content": ""}, "error")
        return {**chunk, "error": refusal.error()}

    def size(self, whole: int) -> int:
        """Return the number of bytes of audio per chunk: `whole` (a multiple of 6), or as the behaviour changes it."""
        match self._behaviour.audio_split:
            case "padded":
                return whole - _PADDED_BYTES
            case "odd":
                return whole + _ODD_BYTES
            case _:
                return whole

    def _delta(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        if "content" not in delta and self._behaviour.content != "absent":
            delta = {"content": "" if self._behaviour.content == "empty" else None, **delta}
        if not self._started or self._behaviour.role == "every":
            delta = {"role": "assistant", **delta}
            self._started = True
        if self._behaviour.unknown_fields:
            delta = {**delta, "mood": "curious"}
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "native_finish_reason": reason, "logprobs": None}
        return self._chunk([choice])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = self.head
        chunk: dict[str, Any] = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "provider": head.provider,
            "choices": choices,
        }
        return {**chunk, "weather": {"outside": "rain"}} if self._behaviour.unknown_fields else chunk


def usage_view(usage: TokenUsage, *, cost: bool) -> dict[str, Any]:
    """Return the wire's `usage` object; local computation costs nothing."""
    view = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": usage.input_audio},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": usage.output_audio},
    }
    price = {"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": 0}}
    return {**view, **price} if cost else view
