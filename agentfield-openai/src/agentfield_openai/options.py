"""Provider options (`options=`) of a Realtime session."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentfield.adapterkit.options import read_options
from agentfield.realtime.config import SessionConfig

__all__ = ["Effort", "OpenAIOptions", "PromptTemplate", "Tracing", "WebSocketOptions"]

Effort = Literal["minimal", "low", "medium", "high", "xhigh"]
"""Reasoning effort of a reasoning model."""

_Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PromptTemplate(_Options):
    """Reference to a prompt template that is stored at the provider."""

    id: _Name
    """Its id."""
    version: _Name | None = None
    """Its version; None is the current one."""
    variables: dict[str, str] | None = None
    """Values of its variables."""


class Tracing(_Options):
    """Names of the trace that the provider writes."""

    workflow_name: _Name | None = None
    """Name of the trace."""
    group_id: _Name | None = None
    """Id that groups traces."""
    metadata: dict[str, str] | None = None
    """Values to filter traces by."""


class OpenAIOptions(_Options):
    """Settings of the Realtime protocol; None leaves a setting to the provider."""

    language: _Language | None = None
    """Language of the caller (ISO 639-1); improves accuracy and latency of transcripts."""
    languages: Annotated[tuple[_Language, ...], Field(min_length=1, max_length=32)] | None = None
    """Languages that the caller may speak, in place of `language`; for transcription models that support several."""
    keywords: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=1000)] | None = None
    """Words and names to expect in transcripts; for transcription models that support them."""
    transcription_prompt: str | None = Field(default=None, min_length=1, max_length=4096)
    """What the caller may talk about, for the transcription model."""
    transcription_delay: Effort | None = None
    """How long the transcription model waits for more audio: more is more accurate; `gpt-realtime-whisper` only."""
    include: tuple[Literal["item.input_audio_transcription.logprobs"], ...] | None = None
    """Further fields of the provider's events."""
    noise_reduction: Literal["near_field", "far_field"] | None = None
    """`near_field` for headsets, `far_field` for laptops and rooms."""
    noise_reduction_strength: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Strength of `noise_reduction`; 1 is the provider's default, more suppresses more."""
    prompt: PromptTemplate | None = None
    """Prompt template of the provider; the session's `instructions` replace its text."""
    tracing: Literal["auto"] | Tracing | None = None
    """Trace that the provider writes; `auto` names it itself."""
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

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.language is not None and self.languages is not None:
            raise ValueError("'language' and 'languages' exclude each other")
        if self.noise_reduction_strength is not None and self.noise_reduction is None:
            raise ValueError("'noise_reduction_strength' needs 'noise_reduction'")
        return self


class WebSocketOptions(OpenAIOptions):
    """Settings of a pair whose audio the control plane carries: those of the protocol, and of the speech endpoint."""

    speech_model: str | None = Field(default=None, min_length=1, max_length=200)
    """Text-to-speech model of ``say="exact"``; None uses the provider's default."""
    speech_voice: str | None = Field(default=None, min_length=1, max_length=200)
    """Voice of the text-to-speech model; None uses the session's voice."""
    speech_instructions: str | None = Field(default=None, max_length=4096)
    """Speaking style, such as ``calm and slow``; not every model supports it."""
