"""The conversation of a session; an interrupted song is kept as far as it was heard, by estimate."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from agentfield_tones.keys import keys_of

__all__ = ["History"]

_MAX_LINES = 200
_KEY_MS = 100


@dataclass(slots=True)
class _Line:
    speaker: str
    text: str
    song: str | None = None


class History:
    """The last 200 lines of the conversation, the oldest first."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque(maxlen=_MAX_LINES)
        self._heard: dict[str, int] = {}

    def add(self, speaker: str, text: str) -> None:
        """Add a line of a speaker."""
        self._lines.append(_Line(speaker, text))

    def add_song(self, song: str, text: str) -> None:
        """Add a song of the service."""
        self._lines.append(_Line("assistant", _heard_part(text, self._heard.pop(song, None)), song))

    def truncate(self, song: str, heard_ms: int | None) -> None:
        """Truncate a song to its heard part, before or after it is added; None keeps all of it."""
        if heard_ms is None:
            return
        for line in self._lines:
            if line.song == song:
                line.text = _heard_part(line.text, heard_ms)
                return
        self._heard[song] = heard_ms

    def lines(self) -> list[list[str]]:
        """Return the lines, each as a speaker and a text."""
        return [[line.speaker, line.text] for line in self._lines if line.text]


def _heard_part(text: str, heard_ms: int | None) -> str:
    """Return the whole words of a text that were heard, at 100 ms per key."""
    if heard_ms is None:
        return text
    share = heard_ms / (len(keys_of(text)) * _KEY_MS) if text else 1.0
    if share >= 1:
        return text
    return text[: int(len(text) * share)].rpartition(" ")[0]
