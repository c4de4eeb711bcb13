"""Sans-I/O: the chunks of one streamed chat completion, put together into words, sound and tool calls.

Source: https://openrouter.ai/docs/api/reference/streaming
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfield.adapterkit.fields import amount, count, mapping, mappings, parse, words
from agentfield.realtime.events import Usage
from agentfield_openrouter.faults import Fault, fault_of

__all__ = ["Called", "Completion", "Echo", "Piece", "Sound", "ToolCall", "Words", "usage_of"]

_DONE = "[DONE]"
_PADDED = re.compile(r"[^=]+=*")
_LONGEST_ID = 256
_MAX_CALLS = 64
_MAX_ARGUMENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Echo:
    """Who answers, as the provider says; told when it is first said and when it changes."""

    model: str | None
    upstream: str | None


@dataclass(frozen=True, slots=True)
class Words:
    """Words to append."""

    text: str


@dataclass(frozen=True, slots=True)
class Sound:
    """Whole samples to append, pcm16."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool, `name` as the provider writes it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Called:
    """The calls of the answer, all of them, once it is over."""

    calls: tuple[ToolCall, ...]


Piece = Echo | Words | Sound | Called


@dataclass(slots=True)
class _Open:
    """A call that is being written."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Completion:
    """One answer as it arrives; the same bytes give the same result however they are cut.

    Args:
        secrets: Texts that no message may hold.
    """

    secrets: tuple[str, ...] = ()
    generation: str | None = None
    """The provider's id of the answer."""
    finish: str | None = None
    """Why it ended, in the provider's word."""
    usage: Usage | None = None
    fault: Fault | None = None
    """What went wrong; nothing that follows counts."""
    done: bool = False
    """Whether nothing more will come."""
    model: str | None = None
    upstream: str | None = None
    text: str = ""
    size: int = 0
    """Bytes of sound so far."""
    _half: bytes = b""
    _calls: list[_Open] = field(default_factory=list)
    _at: dict[int, _Open] = field(default_factory=dict)
    _spoken: bool = False

    def feed(self, payload: str) -> list[Piece]:
        """Take the data of one event and return what it adds."""
        if self.done or self.fault is not None:
            return []
        if payload.strip() == _DONE:
            return self.close()
        chunk = parse(payload)
        if chunk is None:
            self.fault = Fault("invalid_answer", "a chunk of the answer is no JSON object")
            return []
        pieces = self._head(chunk)
        for choice in mappings(chunk, "choices")[:1]:
            pieces += self._choice(choice)
        return pieces

    def close(self) -> list[Piece]:
        """Return the rest when the stream is over, with its last line or without."""
        if self.done or self.fault is not None:
            return []
        self.done = True
        if self.finish is None and not (self.text or self.size or self._calls):
            self.fault = Fault("empty_answer", "the answer has neither words nor tool calls", retry=True)
            return []
        if self.finish in {"length", "content_filter"}:
            return []  # calls that were cut off are none
        calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in self._calls if call.name)
        return [Called(calls)] if calls else []

    @property
    def cut_off(self) -> bool:
        """Whether the stream may not end here: neither its last chunk nor its last line was there."""
        return not self.done and self.finish is None and self.fault is None

    def _head(self, chunk: Mapping[str, Any]) -> list[Piece]:
        self.generation = self.generation or _ident(chunk, "id")
        if isinstance(chunk.get("error"), dict):
            self.fault = fault_of(chunk["error"], secrets=self.secrets)
        if isinstance(chunk.get("usage"), dict):
            self.usage = usage_of(chunk["usage"])
        model, upstream = _ident(chunk, "model"), _ident(chunk, "provider")
        new = (model or self.model, upstream or self.upstream)
        if new == (self.model, self.upstream):
            return []
        self.model, self.upstream = new
        return [Echo(*new)]

    def _choice(self, choice: Mapping[str, Any]) -> list[Piece]:
        if isinstance(choice.get("error"), dict) and self.fault is None:
            self.fault = fault_of(choice["error"], secrets=self.secrets)
        reason = words(choice, "finish_reason")
        if reason is not None:
            self.finish = reason[:64]
        if reason == "error" and self.fault is None:
            self.fault = Fault("provider_error", "the answer ended in an error that has no name", retry=True)
        if self.fault is not None:
            return []
        delta = mapping(choice, "delta")
        for call in mappings(delta, "tool_calls"):
            self._call(call)
        return [*self._words(delta), *self._sound(mapping(delta, "audio"))]

    def _words(self, delta: Mapping[str, Any]) -> list[Piece]:
        """Return the words: the transcript of what is spoken, or text where nothing is."""
        audio = mapping(delta, "audio")
        said = words(audio, "transcript")
        if said or audio.get("data"):
            self._spoken = True
        text = said if self._spoken else words(delta, "content")
        if not text:
            return []
        self.text += text
        return [Words(text)]

    def _sound(self, audio: Mapping[str, Any]) -> list[Piece]:
        encoded = audio.get("data")
        if not isinstance(encoded, str) or not encoded:
            return []
        try:
            data = self._half + _decoded(encoded)
        except (binascii.Error, ValueError):
            self.fault = Fault("invalid_answer", "a chunk of the answer holds audio that cannot be read")
            return []
        whole = len(data) - len(data) % 2
        self._half = data[whole:]
        self.size += whole
        return [Sound(data[:whole])] if whole else []

    def _call(self, delta: Mapping[str, Any]) -> None:
        index = count(delta, "index") or 0
        call_id = _ident(delta, "id")
        call = self._at.get(index)
        if call is None or (call_id is not None and call.id and call_id != call.id):
            if len(self._calls) >= _MAX_CALLS:
                self.fault = Fault("invalid_answer", f"the answer calls more than {_MAX_CALLS} tools")
                return
            call = self._at[index] = _Open()
            self._calls.append(call)
        function = mapping(delta, "function")
        call.id = call.id or call_id or ""
        call.name = call.name or (words(function, "name") or "")[:_LONGEST_ID]
        call.arguments += words(function, "arguments") or ""
        if len(call.arguments) > _MAX_ARGUMENTS:
            self.fault = Fault("invalid_answer", "the arguments of a tool call are too long")


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """Return a `usage` object in our words: of a completion, or of a transcription."""
    asked, made = mapping(usage, "prompt_tokens_details"), mapping(usage, "completion_tokens_details")
    sent = _either(usage, "prompt_tokens", "input_tokens")
    got = _either(usage, "completion_tokens", "output_tokens")
    sent_audio, got_audio = count(asked, "audio_tokens"), count(made, "audio_tokens")
    return Usage(
        input_text_tokens=_rest(sent, sent_audio),
        input_audio_tokens=sent_audio,
        cached_tokens=count(asked, "cached_tokens"),
        output_text_tokens=_rest(got, got_audio),
        output_audio_tokens=got_audio,
        seconds=amount(usage, "seconds"),
        cost=amount(usage, "cost"),
    )


def _either(data: Mapping[str, Any], *keys: str) -> int | None:
    return next((found for key in keys if (found := count(data, key)) is not None), None)


def _rest(total: int | None, part: int | None) -> int | None:
    return None if total is None else max(0, total - (part or 0))


def _ident(data: Mapping[str, Any], key: str) -> str | None:
    found = words(data, key)
    return found if found and len(found) <= _LONGEST_ID else None


def _decoded(encoded: str) -> bytes:
    """Decode base64 of one chunk: padded, unpadded, or several padded pieces in a row."""
    pieces = _PADDED.findall("".join(encoded.split()))
    return b"".join(base64.b64decode(_padded(piece.rstrip("=")), validate=True) for piece in pieces)


def _padded(piece: str) -> str:
    return piece + "=" * (-len(piece) % 4)
