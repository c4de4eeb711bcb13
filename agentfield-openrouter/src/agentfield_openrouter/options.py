"""What `options=` of a session may hold for audio turns, beyond what every provider has."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agentfield.adapterkit.options import read_options
from agentfield.realtime.config import SessionConfig

__all__ = ["TurnsOptions"]

_Upstream = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")]


class TurnsOptions(BaseModel):
    """Settings that only audio turns have; what is None is left to the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    upstream: tuple[_Upstream, ...] = Field(default=(), max_length=8)
    """Names (slugs) of the only upstream providers that may run the model, such as ``["openai"]``; empty leaves the
    first choice to OpenRouter, and a later change of it ends the session."""
    audio_history: int = Field(default=1, ge=0, le=16)
    """How many of the caller's newest turns the model hears as they were recorded; the others, and with 0 all that
    have a transcript, it reads."""
    max_turn_seconds: float = Field(default=600.0, gt=0, le=600)
    """Longest turn of the caller; what comes after is left out, with a warning."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """The caller's language (ISO 639-1), which makes transcripts better and faster."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: int | None = Field(default=None, ge=1, le=16_384)
    """Longest reply, tool calls included."""
    parallel_tool_calls: bool | None = None
    """Whether one reply may call several tools."""
    title: str | None = Field(default=None, pattern=r"^[\x20-\x7e]{1,128}$")
    """Name of your application, as the provider's statistics show it (header ``X-Title``)."""

    @classmethod
    def of(cls, config: SessionConfig) -> TurnsOptions:
        """Return the options of a session.

        Raises:
            InvalidInput: An option is unknown or out of range; `field` names it.
        """
        return read_options(cls, config)
