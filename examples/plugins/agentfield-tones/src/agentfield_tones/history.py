"""What was said in a session; of songs that were stopped, as much as was heard of them, by estimate."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from agentfield_tones.keys import keys_of

__all__ = ["History"]

_MOST = 200
_KEY_MS = 100


@dataclass(slots=True)
class _Line:
    who: str
    text: str
    song: str | None = None


class History:
    """Lines of the conversation, the oldest first; of very long ones the end."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque(maxlen=_MOST)
        self._heard: dict[str, int] = {}

    def add(self, who: str, text: str) -> None:
        """Add what somebody said."""
        self._lines.append(_Line(who, text))

    def sung(self, song: str, text: str) -> None:
        """Add what the service sang."""
        self._lines.append(_Line("assistant", _part(text, self._heard.pop(song, None)), song))

    def cut(self, song: str, heard_ms: int | None) -> None:
        """Keep of a song only what was heard; None keeps all."""
        if heard_ms is None:
            return
        for line in self._lines:
            if line.song == song:
                line.text = _part(line.text, heard_ms)
                return
        self._heard[song] = heard_ms

    def said(self) -> list[list[str]]:
        """Return who said what."""
        return [[line.who, line.text] for line in self._lines if line.text]


def _part(text: str, heard_ms: int | None) -> str:
    """Return the whole words of a text that were heard, at so many milliseconds for each of its keys."""
    if heard_ms is None:
        return text
    share = heard_ms / (len(keys_of(text)) * _KEY_MS) if text else 1.0
    if share >= 1:
        return text
    return text[: int(len(text) * share)].rpartition(" ")[0]
