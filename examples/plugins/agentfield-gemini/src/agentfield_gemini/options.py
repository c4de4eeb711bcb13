"""The `options=` of a session."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["GeminiOptions"]


class GeminiOptions(BaseModel):
    """Options of Gemini Live."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    languages: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")], ...] = ()
    """Languages that the caller may speak, such as ``en-US``, for the transcription; empty to detect them."""
    end_of_speech: Literal["default", "high", "low"] = "default"
    """How readily the end of the caller's speech is assumed (`EndSensitivity`)."""
