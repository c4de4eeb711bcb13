"""Provider options (`options=`) of a session with audio turns."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agentfield.adapterkit.options import read_options
from agentfield.realtime.config import SessionConfig

__all__ = ["TurnsOptions"]

_Upstream = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]{0,63}$")]


class TurnsOptions(BaseModel):
    """Settings of audio turns; None leaves a setting to the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    upstream: tuple[_Upstream, ...] = Field(default=(), max_length=8)
    """Slugs of the upstream providers that may run the model, such as ``["openai"]``. If empty, OpenRouter makes the
    first choice, and a later change of it ends the session."""
    audio_history: int = Field(default=1, ge=0, le=16)
    """Number of newest turns that are sent as recordings; older turns are sent as transcripts. With 0, all turns that
    have a transcript are sent as text."""
    max_turn_seconds: float = Field(default=600.0, gt=0, le=600)
    """Longest turn of the caller in seconds; the rest is dropped with a warning."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """Language of the caller (ISO 639-1); improves accuracy and latency of transcripts."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: int | None = Field(default=None, ge=1, le=16_384)
    """Most tokens of a reply, tool calls included."""
    parallel_tool_calls: bool | None = None
    """Whether one reply may call several tools."""
    title: str | None = Field(default=None, pattern=r"^[\x20-\x7e]{1,128}$")
    """Name of your application in the provider's statistics (header ``X-Title``)."""

    @classmethod
    def of(cls, config: SessionConfig) -> TurnsOptions:
        """Return the options of a session.

        Raises:
            InvalidInput: An option is unknown or out of range; `field` names it.
        """
        return read_options(cls, config)
