"""`Row`, the result of a measurement, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "percentile", "print_head", "print_row"]

_WIDTHS = {"name": 76, "value": 8, "unit": 11, "floor": 8, "ratio": 6, "goal": 8, "holds": 5}


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


def print_head() -> None:
    """Print the head of the table."""
    _print(tuple(_WIDTHS))


def print_row(row: Row) -> None:
    """Print a row of the table at once, also where the output is no terminal."""
    _print(_cells(row))


def _print(cells: Iterable[str]) -> None:
    line = "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS.values(), strict=True))
    print(line.rstrip(), flush=True)


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    holds = {None: "", True: "yes", False: "NO"}[row.holds]
    return (row.name, number(row.value), row.unit, number(row.floor), number(row.ratio), number(row.goal), holds)
