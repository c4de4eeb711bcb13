"""Sums of what was used, by kind, with what is known of the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Totals"]


@dataclass(slots=True)
class Totals:
    """A sum; only what was counted is in it, so that nothing unknown looks like 0."""

    usage: dict[str, dict[str, float]] = field(default_factory=dict)
    """By kind (`reply`, `transcription`, `speech`): counts by their names."""
    cost: float | None = None
    """US dollars, None while nothing had a price."""
    unpriced: int = 0
    """How often something was used whose price nobody knows."""

    def __bool__(self) -> bool:
        return bool(self.usage)

    def add(self, kind: str, counts: Mapping[str, float], cost: float | None) -> None:
        """Add counts of one kind, and their cost in US dollars, None where nobody knows it."""
        sums = self.usage.setdefault(kind, {})
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count
        if cost is None:
            self.unpriced += 1
        else:
            # sums of many small floats: rounded far below anything that is billed, so that they print as they read
            self.cost = round((self.cost or 0.0) + cost, 12)

    def as_json(self) -> dict[str, Any]:
        """Return the sums as JSON."""
        return {"usage": {kind: dict(counts) for kind, counts in self.usage.items()}, "cost": self.cost}
