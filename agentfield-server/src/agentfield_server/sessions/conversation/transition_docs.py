"""Markdown of the transition tables for `docs/session-machine.md`.

`python -m agentfield_server.sessions.conversation.transition_docs docs/session-machine.md` rewrites the part of the page
between the two markers; the rest of the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.transitions import (
    SESSION_TRANSITIONS,
    TURN_TRANSITIONS,
    UTTERANCE_TRANSITIONS,
    Condition,
    Transition,
    TransitionTable,
    Trigger,
)

__all__ = ["main", "render_tables", "update_page"]

BEGIN = "<!-- transitions: begin -->"
END = "<!-- transitions: end -->"

S = TypeVar("S", bound=StrEnum)


def render_tables() -> str:
    """Return the diagram of a session and the tables of sessions, turns and utterances as Markdown."""
    return "\n".join(
        [
            "### A session",
            "",
            *_diagram(SESSION_TRANSITIONS),
            "",
            *_table(SESSION_TRANSITIONS, reasons=True),
            "",
            "### A turn",
            "",
            *_table(TURN_TRANSITIONS),
            "",
            "### An utterance",
            "",
            *_table(UTTERANCE_TRANSITIONS),
        ]
    )


def update_page(page: str) -> str:
    """Return the page with the tables between its markers.

    Raises:
        ValueError: The page does not have both markers.
    """
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{render_tables()}\n\n{END}{after}"


def _diagram(table: TransitionTable[S]) -> Iterator[str]:
    """Draw the states; ends with a reason share one label, because the table below lists them."""
    labels: dict[tuple[str, str], list[str]] = {}
    for row in table:
        ends = bool(row.reasons or row.any_reason)
        label = "a reason to end" if ends else _trigger(row.trigger).replace("`", "")
        known = labels.setdefault((row.source, row.target), [])
        if label not in known:
            known.append(label)
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {table.initial}"
    for (source, target), known in labels.items():
        yield f"    {source} --> {target}: {',<br/>'.join(known)}"
    yield "```"


def _table(table: TransitionTable[S], *, reasons: bool = False) -> Iterator[str]:
    """List the transitions, one line for all states that a trigger leads from to the same state."""
    sources: dict[tuple[str, str, str], list[str]] = {}
    for row in table:
        key = (_condition(row), f"`{row.target}`", _reasons(row))
        sources.setdefault(key, []).append(f"`{row.source}`")
    yield "| from | trigger | to |" + (" end reason |" if reasons else "")
    yield "|---|---|---|" + ("---|" if reasons else "")
    for (trigger, target, ends), states in sources.items():
        yield f"| {' '.join(states)} | {trigger} | {target} |" + (f" {ends} |" if reasons else "")


def _condition(row: Transition[S]) -> str:
    return _trigger(row.trigger) + (f", if {row.guard}" if row.guard else "")


def _trigger(trigger: Trigger) -> str:
    if isinstance(trigger, TimerKind):
        return f"deadline `{trigger}`"
    return str(trigger) if isinstance(trigger, Condition) else f"`{trigger.__name__}`"


def _reasons(row: Transition[S]) -> str:
    return "the reason of the request" if row.any_reason else " ".join(f"`{reason}`" for reason in sorted(row.reasons))


def main(arguments: list[str]) -> None:
    """Rewrite the tables in the pages that are named."""
    for path in map(Path, arguments):
        path.write_text(update_page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
