"""The matrix: what a declaration needs of a pair, and every pair with what it can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from agentfield.plugins.registry import PluginRecord, Registry
from agentfield.plugins.spec import Capabilities, Need, PairSpec
from agentfield.realtime.config import SessionDeclaration

__all__ = ["cell", "jsonable", "matrix_markdown", "needs_of", "table_of"]

_SPEAKS = frozenset[object]({"exact", "best_effort"})


def needs_of(declaration: SessionDeclaration) -> tuple[Need, ...]:
    """Return what a session's declaration asks of its pair, in the order in which refusals name it."""
    return tuple(_needs(declaration))


def _needs(declared: SessionDeclaration) -> Iterator[Need]:
    yield Need("floors", frozenset({declared.floor}), f"the {declared.floor} floor")
    yield Need("modalities", frozenset(declared.modalities), f"modalities={list(declared.modalities)}")
    if declared.tools:
        yield Need("tools", frozenset({"sync", "async"}), "tools=[...]")
    yield from _speech_needs(declared)
    if declared.turn_detection != "default":
        detection = (
            declared.turn_detection if isinstance(declared.turn_detection, str) else declared.turn_detection.type
        )
        yield Need("turn_detection", frozenset({detection}), "turn_detection")
    if declared.transcription:
        yield Need("caller_transcript", frozenset({"final", "partial"}), f"transcription={declared.transcription!r}")
    elif declared.floor == "handler":
        yield Need("caller_transcript", frozenset({"final", "partial"}), "the handler floor")
    if declared.interrupt_after_ms:
        because = f"interrupt_after_ms={declared.interrupt_after_ms}"
        yield Need("interruption", frozenset({"server", "client"}), because)
    yield from _limit_needs(declared)
    if declared.drift != "allow":
        yield Need("client_leg", frozenset({"none", "filtered", "watched"}), f"drift={declared.drift!r}")


def _speech_needs(declared: SessionDeclaration) -> Iterator[Need]:
    if declared.say == "exact":
        yield Need("say", frozenset({"exact"}), "say='exact'")
    elif declared.say:
        yield Need("say", _SPEAKS, "say='best_effort'")
    for part in ("greeting", "goodbye", "on_error"):
        if getattr(declared, part) is not None:
            yield Need("say", _SPEAKS, f"{part}=...")


def _limit_needs(declared: SessionDeclaration) -> Iterator[Need]:
    limits = declared.limits
    yield Need("limits", frozenset({"duration", "idle"}), "Limits(duration=..., idle=...)")
    for name in ("turns", "tool_calls", "cost"):
        if getattr(limits, name) is not None:
            yield Need("limits", frozenset({name}), f"Limits({name}={getattr(limits, name)})")
    yield Need("max_duration", frozenset({limits.duration}), f"Limits(duration={limits.duration:g})")


def jsonable(capabilities: Capabilities) -> dict[str, Any]:
    """Return capabilities as JSON values, sets in order."""
    values = dataclasses.asdict(capabilities)
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in values.items()}


def matrix_markdown(registry: Registry) -> str:
    """Return the installed pairs as a Markdown table: a line for each capability, a column for each pair."""
    return table_of(registry.pairs())


def table_of(rows: Iterable[tuple[PairSpec, PluginRecord]]) -> str:
    """Return these pairs as `matrix_markdown` does."""
    columns = tuple(rows)
    tables = [jsonable(spec.capabilities) for spec, _ in columns]
    lines = [
        _row("capability", (spec.name for spec, _ in columns)),
        "|---" * (len(columns) + 1) + "|",
        _row("distribution", (record.distribution for _, record in columns)),
        _row("media", (spec.media for spec, _ in columns)),
    ]
    lines += [_row(field.name, (cell(t[field.name]) for t in tables)) for field in dataclasses.fields(Capabilities)]
    return "\n".join(lines) + "\n"


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join((first, *cells))} |"


def cell(value: Any) -> str:
    """Return a capability's value as a table shows it."""
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
