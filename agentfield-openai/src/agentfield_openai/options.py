"""What `options=` of a session may hold for the Realtime protocol, beyond what every provider has."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from agentfield.adapterkit.options import read_options
from agentfield.realtime.config import SessionConfig

__all__ = ["Effort", "OpenAIOptions", "WebSocketOptions"]

Effort = Literal["minimal", "low", "medium", "high", "xhigh"]
"""How long a reasoning model may think."""


class OpenAIOptions(BaseModel):
    """Settings that only the Realtime protocol has; what is None is left to the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")
    """The caller's language (ISO 639-1), which makes transcripts better and faster."""
    noise_reduction: Literal["near_field", "far_field"] | None = None
    """`near_field` for headsets, `far_field` for laptops and rooms."""
    speed: float | None = Field(default=None, ge=0.25, le=1.5)
    """Speed of the voice."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=4096)
    """Longest reply, tool calls included."""
    parallel_tool_calls: bool | None = None
    """Whether one reply may call several tools; reasoning models only."""
    reasoning_effort: Effort | None = None
    """Reasoning models only."""
    say_reasoning_effort: Effort | None = None
    """The same for `say`, which has nothing to think about; reasoning models only."""

    @classmethod
    def of(cls, config: SessionConfig) -> Self:
        """Return the options of a session.

        Raises:
            InvalidInput: An option is unknown or out of range; `field` names it.
        """
        return read_options(cls, config)


class WebSocketOptions(OpenAIOptions):
    """The same, and what only a pair has whose audio passes through us."""

    speech_model: str | None = Field(default=None, min_length=1, max_length=200)
    """The text-to-speech model of ``say="exact"``; the provider's default when None."""
    speech_voice: str | None = Field(default=None, min_length=1, max_length=200)
    """Its voice; that of the session when None."""
    speech_instructions: str | None = Field(default=None, max_length=4096)
    """How it is to speak, such as ``calm and slow``; not every model follows."""
