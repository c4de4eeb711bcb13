"""Conversation history of a session: the provider keeps no state, so every request carries all of it."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_openrouter.chunks import ToolCall

__all__ = ["ConversationHistory", "Message", "ReplyEntry", "heard_text", "wav"]

Message = dict[str, Any]

_PENDING = '{"status":"pending"}'
_UNHEARD = "[The words of the caller's turn could not be understood.]"
_MAX_ENTRIES = 2000


@dataclass(slots=True)
class _TurnEntry:
    """A turn of the caller."""

    pcm: bytes = b""
    text: str | None = None


@dataclass(slots=True)
class _TextEntry:
    """Text that was added to the conversation."""

    role: Literal["user", "assistant", "system"]
    text: str


@dataclass(slots=True)
class ReplyEntry:
    """A reply of the agent, with its tool calls."""

    text: str
    audio_ms: int = 0
    """Length of its audio in milliseconds."""
    calls: tuple[ToolCall, ...] = ()
    truncated: bool = False
    """Whether `text` is the estimated heard part of a longer text."""


@dataclass(slots=True)
class ConversationHistory:
    """The conversation in order.

    Args:
        recorded: Number of newest turns that are sent as recordings.
    """

    recorded: int = 1
    _entries: list[_TurnEntry | _TextEntry | ReplyEntry] = field(default_factory=list)
    _turns: OrderedDict[str, _TurnEntry] = field(default_factory=OrderedDict)
    _replies: dict[str, ReplyEntry] = field(default_factory=dict)
    _results: dict[str, str] = field(default_factory=dict)

    def add_turn(self, item: str, pcm: bytes) -> None:
        """Add a turn; recordings that no request will carry any more are dropped."""
        turn = self._turns[item] = _TurnEntry(pcm)
        self._append(turn)
        keep = max(1, self.recorded)
        for older in list(self._turns.values())[:-keep]:
            older.pcm = b""

    def set_transcript(self, item: str, text: str) -> None:
        """Set the transcript of a turn."""
        turn = self._turns.get(item)
        if turn is not None:
            turn.text = text

    def add_text(self, role: Literal["user", "assistant", "system"], text: str) -> None:
        """Add text that was typed, or spoken in an earlier session."""
        self._append(_TextEntry(role, text))

    def add_reply(self, reply: str, entry: ReplyEntry) -> None:
        """Add a reply."""
        self._replies[reply] = entry
        self._append(entry)

    def add_result(self, call_id: str, output: str) -> None:
        """Set the result of a tool call; a second result is ignored."""
        self._results.setdefault(call_id, output)

    def truncate(self, reply: str, heard_ms: int | None) -> None:
        """Keep only the heard part of a reply; None keeps all of it."""
        entry = self._replies.get(reply)
        if entry is None or heard_ms is None:
            return
        text = heard_text(entry.text, heard_ms, entry.audio_ms)
        if text != entry.text:
            entry.text, entry.truncated = text, True
            entry.audio_ms = min(entry.audio_ms, heard_ms)

    @property
    def has_calls(self) -> bool:
        """Whether the conversation holds tool calls."""
        return any(isinstance(entry, ReplyEntry) and entry.calls for entry in self._entries)

    def messages(self) -> list[Message]:
        """Return the conversation as chat-completion messages; recordings stay raw samples until they are encoded."""
        recorded = list(self._turns.values())[-self.recorded :] if self.recorded else []
        newest = next(reversed(self._turns.values())) if self._turns else None
        out: list[Message] = []
        for entry in self._entries:
            match entry:
                case _TurnEntry():
                    heard = any(entry is turn for turn in recorded) or (entry is newest and entry.text is None)
                    out.append(self._turn(entry, as_recorded=heard))
                case _TextEntry():
                    out.append({"role": entry.role, "content": entry.text})
                case ReplyEntry():
                    out += self._reply_messages(entry)
        return out

    def _append(self, entry: _TurnEntry | _TextEntry | ReplyEntry) -> None:
        self._entries.append(entry)
        if len(self._entries) > _MAX_ENTRIES:
            oldest = self._entries.pop(0)
            for index in (self._turns, self._replies):
                for key in [key for key, value in index.items() if value is oldest]:
                    del index[key]

    def _turn(self, turn: _TurnEntry, *, as_recorded: bool) -> Message:
        if as_recorded and turn.pcm:
            sound = {"type": "input_audio", "input_audio": {"data": turn.pcm, "format": "wav"}}
            return {"role": "user", "content": [sound]}
        return {"role": "user", "content": turn.text or _UNHEARD}

    def _reply_messages(self, entry: ReplyEntry) -> Iterator[Message]:
        """Yield a reply, followed by the results of its tool calls, which the API requires in this order."""
        text = entry.text + " …" if entry.truncated and entry.text else entry.text
        if not entry.calls:
            if text:
                yield {"role": "assistant", "content": text}
            return
        yield {"role": "assistant", "content": text or None, "tool_calls": _calls(entry.calls)}
        for call in entry.calls:
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


def heard_text(text: str, heard_ms: int, audio_ms: int) -> str:
    """Return the whole words of `text` that were heard, in proportion to the played share of its audio."""
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
