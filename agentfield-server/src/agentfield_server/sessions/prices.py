"""What a session costs: the provider's counts, by the price table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agentfield.realtime.events import Usage

__all__ = ["Pricer", "UsageKind", "as_told"]

UsageKind = Literal["reply", "transcription", "speech"]
"""What was used: the conversation's model, the model that transcribes the caller, or a text-to-speech model."""

Pricer = Callable[[UsageKind, Usage], float | None]
"""Returns what something cost in US dollars; None when nobody knows."""


def as_told(kind: UsageKind, usage: Usage) -> float | None:
    """Return the cost that the provider itself told."""
    return usage.cost
