"""Token counts of a response: plausible numbers with consistent arithmetic, without a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TokenUsage", "text_tokens"]

_CHARACTERS_PER_TOKEN = 4


def text_tokens(text: str) -> int:
    """Return the approximate number of tokens of a text, at four characters each."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


@dataclass(slots=True)
class TokenUsage:
    """Tokens of one response; cached tokens are part of the input."""

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
