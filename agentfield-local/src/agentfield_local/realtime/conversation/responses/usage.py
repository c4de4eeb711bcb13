"""Token usage of a Realtime response: its input side, counted over items, and its wire form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentfield_local.brain.tokens import TokenUsage, text_tokens
from agentfield_local.realtime.conversation.items import Item

__all__ = ["input_usage", "usage_view"]

_USER_AUDIO_TOKEN_MS = 100
_REPLY_AUDIO_TOKEN_MS = 50


def input_usage(instructions: str, items: Iterable[Item], *, cached: int) -> TokenUsage:
    """Return the input side of the usage of a response that reads these items."""
    usage = TokenUsage(input_text=text_tokens(instructions), cached=cached)
    for item in items:
        if item.role == "user" and item.audio_ms:
            usage.input_audio += -(-item.audio_ms // _USER_AUDIO_TOKEN_MS)
        elif item.role == "assistant" and item.audio_ms:
            usage.input_audio += -(-item.audio_ms // _REPLY_AUDIO_TOKEN_MS)
        else:
            usage.input_text += text_tokens((item.text or "") + item.arguments + item.output)
    return usage


def usage_view(usage: TokenUsage) -> dict[str, Any]:
    """Return the wire's `usage` object."""
    cached_text = min(usage.cached, usage.input_text)
    cached_audio = min(usage.cached - cached_text, usage.input_audio)
    return {
        "total_tokens": usage.input + usage.output,
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "input_token_details": {
            "text_tokens": usage.input_text,
            "audio_tokens": usage.input_audio,
            "image_tokens": 0,
            "cached_tokens": cached_text + cached_audio,
            "cached_tokens_details": {
                "text_tokens": cached_text,
                "audio_tokens": cached_audio,
                "image_tokens": 0,
            },
        },
        "output_token_details": {"text_tokens": usage.output_text, "audio_tokens": usage.output_audio},
    }
