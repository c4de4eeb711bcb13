"""What a new, empty session at the provider is told of the conversation so far. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

__all__ = ["MAX_CHARS", "MAX_ENTRIES", "Role", "lines_of", "newest"]

Role = Literal["user", "assistant", "system"]
Line = tuple[Role, str]

MAX_ENTRIES = 60
MAX_CHARS = 16_000
_DROPPED = "This conversation has been going on for longer; its earlier part is left out here."


def lines_of(history: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return what was said: the caller's words, and of the agent's only what was heard."""
    lines: list[Line] = []
    for entry in history:
        caller = entry.get("role") == "caller"
        text = entry.get("text" if caller else "heard_text")
        if isinstance(text, str) and text.strip():
            lines.append(("user" if caller else "assistant", text))
    return lines


def newest(lines: list[Line]) -> list[Line]:
    """Return the newest lines that fit (60, and 16000 characters), behind a note when anything older was dropped."""
    kept: list[Line] = []
    room = MAX_CHARS
    for role, text in reversed(lines[-MAX_ENTRIES:]):
        if len(text) > room:
            if not kept:
                kept.append((role, text[-room:]))
            break
        kept.append((role, text))
        room -= len(text)
    kept.reverse()
    return kept if kept == lines else [("system", _DROPPED), *kept]
