"""Draws the executions of a session as a rich tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from agentfield.wire.rest import DagView, ExecutionView

__all__ = ["describe_event", "workflow_tree"]

_STYLES = {"succeeded": "green", "failed": "red", "timeout": "red", "cancelled": "yellow", "running": "cyan"}
_DECISIONS = {"changes_requested": "sent back"}


def workflow_tree(dag: DagView) -> Tree:
    """Return the executions of a run under their parents, in order of creation, each with its retries and approvals."""
    from rich.text import Text
    from rich.tree import Tree

    known = {execution.id for execution in dag.executions}
    tree = Tree(Text(f"{dag.run_id}", style="dim"))
    branches: dict[str | None, Tree] = {None: tree}
    for execution in dag.executions:
        parent = execution.parent_id if execution.parent_id in known else None
        branches[execution.id] = branches[parent].add(_label(execution))
    return tree


def _label(execution: ExecutionView) -> Text:
    from rich.text import Text

    label = Text.assemble(
        (execution.kind, "bold"), " ", execution.target, " ", (execution.status, _STYLES.get(execution.status, ""))
    )
    if execution.started_at is not None and execution.ended_at is not None:
        label.append(f" {(execution.ended_at - execution.started_at) * 1000:.0f} ms", style="dim")
    label.append(f" {execution.id}", style="dim")
    for entry in execution.history:
        label.append(f"\n{describe_event(entry.type, entry.body)}", style="yellow")
    if execution.problem:
        label.append(f"\n{execution.problem.get('detail', '')}", style="red")
    return label


def describe_event(kind: str, body: Mapping[str, Any]) -> str:
    """Return an event of an execution as a phrase.

    Args:
        kind: The event type: `execution.retrying`, `execution.returned`, `approval.requested` or `approval.decided`.
        body: The body of the event.
    """
    match kind:
        case "execution.retrying":
            return f"attempt {body.get('attempt')} did not succeed: {(body.get('problem') or {}).get('detail', '')}"
        case "execution.returned":
            return f"attempt {body.get('attempt')} did not begin: {body.get('reason')}"
        case "approval.requested":
            return f"asked: {body.get('title')} ({body.get('approval_id')})"
        case _:
            status = str(body.get("status"))
            # logs of earlier versions have the unverified name only
            who = [body[name] for name in ("principal", "by") if body.get(name)]
            by = f" by {who[0]}" + f" ({who[-1]})" * (len(who) > 1) if who else ""
            note = f": {body['note']}" if body.get("note") else ""
            return f"{_DECISIONS.get(status, status)}{by}{note}"
