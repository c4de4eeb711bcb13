"""The matrix as a table: each pair with its capabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from agentfield.plugins.manifest.spec import Capabilities, PairSpec
from agentfield.plugins.registry.records import PluginRecord
from agentfield.plugins.registry.registry import Registry

__all__ = ["capabilities_json", "format_value", "matrix_markdown", "matrix_table"]


def capabilities_json(capabilities: Capabilities) -> dict[str, Any]:
    """Return capabilities as JSON values; sets become sorted lists."""
    values = dataclasses.asdict(capabilities)
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


def matrix_markdown(registry: Registry) -> str:
    """Return the installed pairs as a Markdown table: a row for each capability, a column for each pair."""
    return matrix_table(registry.pairs())


def matrix_table(rows: Iterable[tuple[PairSpec, PluginRecord]]) -> str:
    """Return the given pairs as such a table."""
    columns = tuple(rows)
    tables = [capabilities_json(spec.capabilities) for spec, _ in columns]
    lines = [
        _row("capability", (spec.name for spec, _ in columns)),
        "|---" * (len(columns) + 1) + "|",
        _row("distribution", (record.distribution for _, record in columns)),
        _row("media", (spec.media for spec, _ in columns)),
    ]
    lines += [
        _row(field.name, (format_value(t[field.name]) for t in tables)) for field in dataclasses.fields(Capabilities)
    ]
    return "\n".join(lines) + "\n"


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((first, *cells))} |"


def format_value(value: Any) -> str:
    """Return the value of a capability as text for a table."""
    match value:
        case None | "none" | []:
            return "-"
        case bool():
            return "yes" if value else "-"
        case list():
            return ", ".join(map(str, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)
