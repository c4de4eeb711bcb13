"""Sums of usage by kind, with the known part of the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["UsageTotals"]


@dataclass(slots=True)
class UsageTotals:
    """A sum of usage. Only reported counts are in it, so that an unknown count does not look like 0."""

    usage: dict[str, dict[str, float]] = field(default_factory=dict)
    """Counts by name, for each kind (`reply`, `transcription`, `speech`)."""
    cost: float | None = None
    """US dollars; None while nothing had a price."""
    unpriced: int = 0
    """How many usage reports had no known price."""

    def __bool__(self) -> bool:
        return bool(self.usage)

    def add(self, kind: str, counts: Mapping[str, float], cost: float | None) -> None:
        """Add counts of one kind and their cost in US dollars, None if the cost is unknown."""
        sums = self.usage.setdefault(kind, {})
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count
        if cost is None:
            self.unpriced += 1
        else:
            # float sums drift; rounding far below any billed amount makes them print without the drift
            self.cost = round((self.cost or 0.0) + cost, 12)

    def as_json(self) -> dict[str, Any]:
        """Return the sums as JSON."""
        return {"usage": {kind: dict(counts) for kind, counts in self.usage.items()}, "cost": self.cost}
