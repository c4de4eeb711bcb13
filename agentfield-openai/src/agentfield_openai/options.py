"""Provider options (`options=`) of a Realtime session."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from agentfield.adapterkit.options import read_options
from agentfield.realtime.config import SessionConfig

__all__ = ["Effort", "OpenAIOptions", "WebSocketOptions"]

Effort = Literal["minimal", "low", "medium", "high", "xhigh"]
"""Reasoning effort of a reasoning model."""


class OpenAIOptions(BaseModel):
    """Settings of the Realtime protocol; None leaves a setting to the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")
    """Language of the caller (ISO 639-1); improves accuracy and latency of transcripts."""
    noise_reduction: Literal["near_field", "far_field"] | None = None
    """`near_field` for headsets, `far_field` for laptops and rooms."""
    speed: float | None = Field(default=None, ge=0.25, le=1.5)
    """Speed of the voice."""
    max_output_tokens: int | None = Field(default=None, ge=1, le=4096)
    """Most tokens of a reply, tool calls included."""
    parallel_tool_calls: bool | None = None
    """Whether one reply may call several tools; reasoning models only."""
    reasoning_effort: Effort | None = None
    """Reasoning models only."""
    say_reasoning_effort: Effort | None = None
    """Reasoning effort for `say`, which needs little; reasoning models only."""

    @classmethod
    def of(cls, config: SessionConfig) -> Self:
        """Return the options of a session.

        Raises:
            InvalidInput: An option is unknown or out of range; `field` names it.
        """
        return read_options(cls, config)


class WebSocketOptions(OpenAIOptions):
    """Settings of a pair whose audio the control plane carries: those of the protocol, and of the speech endpoint."""

    speech_model: str | None = Field(default=None, min_length=1, max_length=200)
    """Text-to-speech model of ``say="exact"``; None uses the provider's default."""
    speech_voice: str | None = Field(default=None, min_length=1, max_length=200)
    """Voice of the text-to-speech model; None uses the session's voice."""
    speech_instructions: str | None = Field(default=None, max_length=4096)
    """Speaking style, such as ``calm and slow``; not every model supports it."""
