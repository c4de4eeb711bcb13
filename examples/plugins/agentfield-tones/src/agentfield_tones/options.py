"""What `options=` of a session may hold."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["TonesOptions"]


class TonesOptions(BaseModel):
    """Settings that only tones have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pace: Literal["normal", "slow"] = "normal"
    """How long each tone sounds: 60 ms, or 120 ms for lines with much noise."""
