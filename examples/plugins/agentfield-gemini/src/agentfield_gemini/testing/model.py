"""The model of the fake: what it answers, how its voice sounds, and how much it counts."""

from __future__ import annotations

import array
import json
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OUTPUT_RATE", "FakeModel", "sound_ms", "usage_metadata", "voice"]

OUTPUT_RATE = 24_000
_WORD_MS = 160
_PIECE_MS = 80
_AMPLITUDE = 9000
_SAY = "word for word, and nothing else:\n"


@dataclass
class FakeModel:
    """Decides the model's next answer; shared by the sessions of a server."""

    replies: deque[str] = field(default_factory=deque)
    """Prepared answers, the next one first."""
    calls: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)
    """Functions to call instead of the next answers, with their arguments."""
    silences: int = 0
    """How many turns are not answered."""

    def next_calls(self, at_once: int) -> list[tuple[str, dict[str, Any]]]:
        """Return the functions to call now."""
        return [self.calls.popleft() for _ in range(min(at_once, len(self.calls)))]

    def is_silent(self) -> bool:
        """Return whether the model chooses to say nothing now."""
        if self.silences:
            self.silences -= 1
            return True
        return False

    def answer(self, history: list[dict[str, Any]]) -> str:
        """Return the answer to a conversation."""
        last = history[-1] if history else {}
        text = _text(last)
        if last.get("role") == "user" and _SAY in text:
            return text.partition(_SAY)[2]
        if self.replies:
            return self.replies.popleft()
        if "functionResponse" in json.dumps(last):
            return "The result of the function is here."
        return "I heard what you said, thank you."


def _text(content: Mapping[str, Any]) -> str:
    return " ".join(str(part.get("text", "")) for part in content.get("parts", ()))


def voice(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield pieces of a spoken text: the words that a piece completes, and its audio at 24 kHz."""
    for at, word in enumerate(text.split(" ")):
        hertz = 180 + 20 * (at % 8)
        count = OUTPUT_RATE * _PIECE_MS // 1000
        step = 2 * math.pi * hertz / OUTPUT_RATE
        sound = array.array("h", (round(_AMPLITUDE * math.sin(step * n)) for n in range(count))).tobytes()
        yield (word if at == 0 else f" {word}"), sound
        for _ in range(_WORD_MS // _PIECE_MS - 1):
            yield "", sound


def sound_ms(text: str) -> int:
    """Return the duration of a spoken text."""
    return _WORD_MS * len(text.split(" "))


def usage_metadata(history: list[dict[str, Any]], audio_in_ms: int, audio_out_ms: int) -> dict[str, Any]:
    """Return the usage of a turn; a few tokens of the prompt have no modality, as at the service."""
    text, sound, said = len(json.dumps(history)) // 4, audio_in_ms // 40, audio_out_ms // 40
    return {
        "promptTokenCount": text + sound + 5,
        "responseTokenCount": said,
        "thoughtsTokenCount": 12,
        "totalTokenCount": text + sound + 5 + said + 12,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": text},
            {"modality": "AUDIO", "tokenCount": sound},
        ],
        "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": said}],
    }
