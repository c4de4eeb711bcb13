"""Sans-I/O: assembles the chunks of one streamed chat completion into text, audio and tool calls.

Source: https://openrouter.ai/docs/api/reference/streaming
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.adapterkit.json_fields import amount_at, count_at, object_at, objects_at, parse_object, text_at
from agentfield.realtime.events import Usage
from agentfield_openrouter.error_classification import ClassifiedError, classify_error

__all__ = [
    "AudioDelta",
    "CompletionAssembler",
    "CompletionDelta",
    "ServedBy",
    "TextDelta",
    "ToolCall",
    "ToolCalls",
    "usage_of",
]

_DONE = "[DONE]"
_PADDED = re.compile(r"[^=]+=*")
_MAX_ID = 256
_MAX_CALLS = 64
_MAX_ARGUMENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class ServedBy:
    """The serving model and upstream provider; returned when first reported and at each change."""

    model: str | None
    upstream: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append."""

    text: str


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """Whole pcm16 samples to append."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete tool call, with the tool name of the wire."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """All tool calls of the completion, returned at its end."""

    calls: tuple[ToolCall, ...]


CompletionDelta = ServedBy | TextDelta | AudioDelta | ToolCalls


@dataclass(slots=True)
class _PartialToolCall:
    """A tool call whose deltas are still arriving."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class CompletionAssembler:
    """Assembles one completion from its chunks; the result does not depend on how the bytes were split.

    Args:
        secrets: Texts that no message may contain.
    """

    secrets: tuple[str, ...] = ()
    generation: str | None = None
    """The provider's id of the completion."""
    finish: str | None = None
    """The provider's `finish_reason`."""
    usage: Usage | None = None
    fault: ClassifiedError | None = None
    """The error that ended the completion; later chunks are ignored."""
    done: bool = False
    """Whether the completion is finished."""
    model: str | None = None
    upstream: str | None = None
    text: str = ""
    size: int = 0
    """Bytes of audio so far."""
    _half: bytes = b""
    _calls: list[_PartialToolCall] = field(default_factory=list)
    _at: dict[int, _PartialToolCall] = field(default_factory=dict)
    _words: Literal["transcript", "content"] | None = None
    """Which field carries the words of the audio, once there is audio."""

    def feed(self, payload: str) -> list[CompletionDelta]:
        """Take the data of one event and return its deltas."""
        if self.done or self.fault is not None:
            return []
        if payload.strip() == _DONE:
            return self.close()
        chunk = parse_object(payload)
        if chunk is None:
            self.fault = ClassifiedError("invalid_answer", "a chunk of the answer is not a JSON object")
            return []
        deltas = self._metadata(chunk)
        for choice in objects_at(chunk, "choices")[:1]:
            deltas += self._choice(choice)
        return deltas

    def close(self) -> list[CompletionDelta]:
        """Finish the completion at the end of the stream, with or without its `[DONE]` line; return the tool calls."""
        if self.done or self.fault is not None:
            return []
        self.done = True
        if self.finish is None and not (self.text or self.size or self._calls):
            self.fault = ClassifiedError("empty_answer", "the answer has neither words nor tool calls", retry=True)
            return []
        if self.finish in {"length", "content_filter"}:
            return []  # a truncated completion may hold incomplete tool calls
        calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in self._calls if call.name)
        return [ToolCalls(calls)] if calls else []

    @property
    def cut_off(self) -> bool:
        """Whether the stream ended too early: neither a `finish_reason` nor `[DONE]` arrived."""
        return not self.done and self.finish is None and self.fault is None

    def _metadata(self, chunk: Mapping[str, Any]) -> list[CompletionDelta]:
        self.generation = self.generation or _ident(chunk, "id")
        if isinstance(chunk.get("error"), dict):
            self.fault = classify_error(chunk["error"], secrets=self.secrets)
        if isinstance(chunk.get("usage"), dict):
            self.usage = usage_of(chunk["usage"])
        model, upstream = _ident(chunk, "model"), _ident(chunk, "provider")
        new = (model or self.model, upstream or self.upstream)
        if new == (self.model, self.upstream):
            return []
        self.model, self.upstream = new
        return [ServedBy(*new)]

    def _choice(self, choice: Mapping[str, Any]) -> list[CompletionDelta]:
        if isinstance(choice.get("error"), dict) and self.fault is None:
            self.fault = classify_error(choice["error"], secrets=self.secrets)
        reason = text_at(choice, "finish_reason")
        if reason is not None:
            self.finish = reason[:64]
        if reason == "error" and self.fault is None:
            self.fault = ClassifiedError("provider_error", "the answer ended in an unnamed error", retry=True)
        if self.fault is not None:
            return []
        delta = object_at(choice, "delta")
        for call in objects_at(delta, "tool_calls"):
            self._tool_call_delta(call)
        return [*self._text_delta(delta), *self._audio_delta(object_at(delta, "audio"))]

    def _text_delta(self, delta: Mapping[str, Any]) -> list[CompletionDelta]:
        """Return the text: the transcript of the audio, or the content where the audio has no transcript.

        Services that send both beside audio send the same words twice, so that the field of the first words counts.
        """
        audio = object_at(delta, "audio")
        transcript, content = text_at(audio, "transcript"), text_at(delta, "content")
        if self._words is None and transcript:
            self._words = "transcript"
        elif self._words is None and content and (self.size or audio.get("data")):
            self._words = "content"
        text = transcript if self._words == "transcript" else content
        if not text:
            return []
        self.text += text
        return [TextDelta(text)]

    def _audio_delta(self, audio: Mapping[str, Any]) -> list[CompletionDelta]:
        encoded = audio.get("data")
        if not isinstance(encoded, str) or not encoded:
            return []
        try:
            data = self._half + _decoded(encoded)
        except (binascii.Error, ValueError):
            self.fault = ClassifiedError("invalid_answer", "a chunk of the answer holds unreadable audio")
            return []
        whole = len(data) - len(data) % 2
        self._half = data[whole:]
        self.size += whole
        return [AudioDelta(data[:whole])] if whole else []

    def _tool_call_delta(self, delta: Mapping[str, Any]) -> None:
        index = count_at(delta, "index") or 0
        call_id = _ident(delta, "id")
        call = self._at.get(index)
        if call is None or (call_id is not None and call.id and call_id != call.id):
            if len(self._calls) >= _MAX_CALLS:
                self.fault = ClassifiedError("invalid_answer", f"the answer calls more than {_MAX_CALLS} tools")
                return
            call = self._at[index] = _PartialToolCall()
            self._calls.append(call)
        function = object_at(delta, "function")
        call.id = call.id or call_id or ""
        call.name = call.name or (text_at(function, "name") or "")[:_MAX_ID]
        call.arguments += text_at(function, "arguments") or ""
        if len(call.arguments) > _MAX_ARGUMENTS:
            self.fault = ClassifiedError("invalid_answer", "the arguments of a tool call are too long")


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Return the `usage` object of a completion or a transcription as `Usage`."""
    asked, made = object_at(usage, "prompt_tokens_details"), object_at(usage, "completion_tokens_details")
    sent = _first_count(usage, "prompt_tokens", "input_tokens")
    got = _first_count(usage, "completion_tokens", "output_tokens")
    sent_audio, got_audio = count_at(asked, "audio_tokens"), count_at(made, "audio_tokens")
    return Usage(
        input_text_tokens=_difference(sent, sent_audio),
        input_audio_tokens=sent_audio,
        cached_tokens=count_at(asked, "cached_tokens"),
        output_text_tokens=_difference(got, got_audio),
        output_audio_tokens=got_audio,
        seconds=amount_at(usage, "seconds"),
        cost=amount_at(usage, "cost"),
    )


def _first_count(data: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := count_at(data, key)) is not None), None)


def _difference(total: int | None, part: int | None) -> int | None:
    return None if total is None else max(0, total - (part or 0))


def _ident(data: Mapping[str, Any], key: str) -> str | None:
    found = text_at(data, key)
    return found if found and len(found) <= _MAX_ID else None


def _decoded(encoded: str) -> bytes:
    """Decode the base64 of one chunk: padded, unpadded, or several padded pieces in a row."""
    pieces = _PADDED.findall("".join(encoded.split()))
    return b"".join(base64.b64decode(_padded(piece.rstrip("=")), validate=True) for piece in pieces)


def _padded(piece: str) -> str:
    return piece + "=" * (-len(piece) % 4)
