"""The `options=` of a session."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["TonesOptions"]


class TonesOptions(BaseModel):
    """Options of the tone provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pace: Literal["normal", "slow"] = "normal"
    """Duration of each tone: 60 ms, or 120 ms for noisy lines."""
