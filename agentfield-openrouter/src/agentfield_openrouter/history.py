"""The conversation as the model is told it: the provider keeps nothing, so every request carries all of it."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_openrouter.chunks import ToolCall

__all__ = ["Answered", "History", "Message", "heard_part", "wav"]

Message = dict[str, Any]

_PENDING = '{"status":"pending"}'
_UNHEARD = "[The words of the caller's turn could not be understood.]"
_MAX_ENTRIES = 2000


@dataclass(slots=True)
class _Turn:
    """What the caller said."""

    pcm: bytes = b""
    text: str | None = None


@dataclass(slots=True)
class _Text:
    """Text that somebody put in."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(slots=True)
class Answered:
    """What the agent's side said, and called."""

    text: str
    audio_ms: int = 0
    """How much sound the words were spoken in."""
    calls: tuple[ToolCall, ...] = ()
    cut: bool = False
    """Whether `text` is an estimate of what was heard of more."""


@dataclass(slots=True)
class History:
    """Everything that was said, in order.

    Args:
        recorded: How many of the newest turns are sent as they were recorded.
    """

    recorded: int = 1
    _entries: list[_Turn | _Text | Answered] = field(default_factory=list)
    _turns: OrderedDict[str, _Turn] = field(default_factory=OrderedDict)
    _replies: dict[str, Answered] = field(default_factory=dict)
    _results: dict[str, str] = field(default_factory=dict)

    def add_turn(self, item: str, pcm: bytes) -> None:
        """Add what the caller said; recordings that no request will carry are let go."""
        turn = self._turns[item] = _Turn(pcm)
        self._append(turn)
        keep = max(1, self.recorded)
        for older in list(self._turns.values())[:-keep]:
            older.pcm = b""

    def transcribed(self, item: str, text: str) -> None:
        """Give a turn its words."""
        turn = self._turns.get(item)
        if turn is not None:
            turn.text = text

    def add_text(self, role: Literal["user", "assistant", "system"], text: str) -> None:
        """Add text that was typed, or said in an earlier session."""
        self._append(_Text(role, text))

    def add_reply(self, reply: str, answered: Answered) -> None:
        """Add what the agent's side said."""
        self._replies[reply] = answered
        self._append(answered)

    def add_result(self, call_id: str, output: str) -> None:
        """Give a tool call its result; a second one counts for nothing."""
        self._results.setdefault(call_id, output)

    def cut(self, reply: str, heard_ms: int | None) -> None:
        """Keep of a reply only what was heard of it; None keeps all."""
        answered = self._replies.get(reply)
        if answered is None or heard_ms is None:
            return
        text = heard_part(answered.text, heard_ms, answered.audio_ms)
        if text != answered.text:
            answered.text, answered.cut = text, True
            answered.audio_ms = min(answered.audio_ms, heard_ms)

    @property
    def has_calls(self) -> bool:
        """Whether the conversation holds calls of tools."""
        return any(isinstance(entry, Answered) and entry.calls for entry in self._entries)

    def messages(self) -> list[Message]:
        """Return the conversation as messages of a chat completion, recordings as the samples they are."""
        recorded = list(self._turns.values())[-self.recorded :] if self.recorded else []
        newest = next(reversed(self._turns.values())) if self._turns else None
        out: list[Message] = []
        for entry in self._entries:
            match entry:
                case _Turn():
                    heard = any(entry is turn for turn in recorded) or (entry is newest and entry.text is None)
                    out.append(self._turn(entry, as_recorded=heard))
                case _Text():
                    out.append({"role": entry.role, "content": entry.text})
                case Answered():
                    out += self._answered(entry)
        return out

    def _append(self, entry: _Turn | _Text | Answered) -> None:
        self._entries.append(entry)
        if len(self._entries) > _MAX_ENTRIES:
            oldest = self._entries.pop(0)
            for book in (self._turns, self._replies):
                for key in [key for key, value in book.items() if value is oldest]:
                    del book[key]

    def _turn(self, turn: _Turn, *, as_recorded: bool) -> Message:
        if as_recorded and turn.pcm:
            sound = {"type": "input_audio", "input_audio": {"data": turn.pcm, "format": "wav"}}
            return {"role": "user", "content": [sound]}
        return {"role": "user", "content": turn.text or _UNHEARD}

    def _answered(self, said: Answered) -> Iterator[Message]:
        """Yield an answer, then the results of its calls, wherever in the conversation they came."""
        text = said.text + " …" if said.cut and said.text else said.text
        if not said.calls:
            if text:
                yield {"role": "assistant", "content": text}
            return
        yield {"role": "assistant", "content": text or None, "tool_calls": _calls(said.calls)}
        for call in said.calls:
            yield {"role": "tool", "tool_call_id": call.id, "content": self._results.get(call.id, _PENDING)}


def _calls(calls: Sequence[ToolCall]) -> list[Message]:
    return [
        {
            "type": "function",
            "id": call.id,
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in calls
    ]


def heard_part(text: str, heard_ms: int, audio_ms: int) -> str:
    """Return the whole words of `text` that were heard, judged by the share of its sound that was played."""
    if audio_ms <= 0:
        return ""
    if heard_ms >= audio_ms:
        return text
    end = int(len(text) * max(0, heard_ms) / audio_ms)
    if end < len(text) and not text[end].isspace():
        end = max((at + 1 for at in range(end) if text[at].isspace()), default=0)
    return text[:end].rstrip()


def wav(pcm: bytes, rate: int) -> bytes:
    """Return mono pcm16 samples as a WAV file."""
    size = len(pcm)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + b"data" + struct.pack("<I", size) + pcm
