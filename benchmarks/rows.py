"""`Row`, the result of a measurement, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "percentile", "print_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured value; `floor` is the value of the same run without AgentField, `goal` the largest acceptable value."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        """The value divided by the floor, None without a floor."""
        return self.value / self.floor if self.floor else None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        return None if self.goal is None else self.value <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return {**asdict(self), "ratio": self.ratio, "holds": self.holds}


def percentile(values: Iterable[float], percent: int) -> float:
    """Return a percentile of two or more values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def print_rows(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    head = ("name", "value", "unit", "floor", "ratio", "goal", "holds")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    holds = {None: "", True: "yes", False: "NO"}[row.holds]
    return (row.name, number(row.value), row.unit, number(row.floor), number(row.ratio), number(row.goal), holds)
