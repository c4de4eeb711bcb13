"""Token counts of a response: plausible numbers with the right arithmetic, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentfield_local.realtime.items import Item

__all__ = ["Usage", "text_tokens", "usage_of"]

_USER_AUDIO_TOKEN_MS = 100
_REPLY_AUDIO_TOKEN_MS = 50


def text_tokens(text: str) -> int:
    """Return about how many tokens a text has: four characters each."""
    return -(-len(text) // 4)


@dataclass(slots=True)
class Usage:
    """What one response took; cached tokens are a part of the input."""

    input_text: int = 0
    input_audio: int = 0
    cached: int = 0
    output_text: int = 0
    output_audio: int = 0

    @property
    def input(self) -> int:
        """All input tokens."""
        return self.input_text + self.input_audio

    @property
    def output(self) -> int:
        """All output tokens."""
        return self.output_text + self.output_audio

    def view(self) -> dict[str, Any]:
        """Return the wire's `usage`."""
        cached_text = min(self.cached, self.input_text)
        cached_audio = min(self.cached - cached_text, self.input_audio)
        return {
            "total_tokens": self.input + self.output,
            "input_tokens": self.input,
            "output_tokens": self.output,
            "input_token_details": {
                "text_tokens": self.input_text,
                "audio_tokens": self.input_audio,
                "image_tokens": 0,
                "cached_tokens": cached_text + cached_audio,
                "cached_tokens_details": {
                    "text_tokens": cached_text,
                    "audio_tokens": cached_audio,
                    "image_tokens": 0,
                },
            },
            "output_token_details": {"text_tokens": self.output_text, "audio_tokens": self.output_audio},
        }


def usage_of(instructions: str, items: Iterable[Item], *, cached: int) -> Usage:
    """Return the input side of a response that reads these items."""
    usage = Usage(input_text=text_tokens(instructions), cached=cached)
    for item in items:
        if item.role == "user" and item.audio_ms:
            usage.input_audio += -(-item.audio_ms // _USER_AUDIO_TOKEN_MS)
        elif item.role == "assistant" and item.audio_ms:
            usage.input_audio += -(-item.audio_ms // _REPLY_AUDIO_TOKEN_MS)
        else:
            usage.input_text += text_tokens((item.text or "") + item.arguments + item.output)
    return usage
