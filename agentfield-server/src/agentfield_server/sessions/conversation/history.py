"""History of the conversation as lines of text, for a provider session that starts empty. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

__all__ = ["MAX_CHARS", "MAX_ENTRIES", "HistoryLine", "Role", "history_lines", "truncate_history", "with_caller_words"]

Role = Literal["user", "assistant", "system"]
HistoryLine = tuple[Role, str]

MAX_ENTRIES = 60
"""Most lines that a replacement receives."""
MAX_CHARS = 16_000
"""Most characters of these lines; a single longer line is cut at its beginning."""
_DROPPED = "This conversation has been going on for longer; its earlier part is left out here."


def history_lines(history: Iterable[Mapping[str, Any]]) -> list[HistoryLine]:
    """Return the conversation: the words of the caller, and the heard words of the agent."""
    lines: list[HistoryLine] = []
    for entry in history:
        caller = entry.get("role") == "caller"
        text = entry.get("text" if caller else "heard_text")
        if isinstance(text, str) and text.strip():
            lines.append(("user" if caller else "assistant", text))
    return lines


def truncate_history(lines: list[HistoryLine]) -> list[HistoryLine]:
    """Return the newest lines within `MAX_ENTRIES` and `MAX_CHARS`, after a note if older ones were dropped."""
    kept: list[HistoryLine] = []
    left = MAX_CHARS
    for role, text in reversed(lines[-MAX_ENTRIES:]):
        if len(text) > left:
            if not kept:
                kept.append((role, text[-left:]))
            break
        kept.append((role, text))
        left -= len(text)
    kept.reverse()
    return kept if kept == lines else [("system", _DROPPED), *kept]


def with_caller_words(history: Iterable[Mapping[str, Any]], turn_id: str, text: str) -> list[Mapping[str, Any]]:
    """Return a history with the words of a turn, which arrived late."""
    return [
        {**entry, "text": text} if entry.get("role") == "caller" and entry.get("turn_id") == turn_id else entry
        for entry in history
    ]
