"""Runs that stop for a human and go on later: what a run remembers of itself, and the decision that it goes on with.

A run that pauses ends: no task, lease or socket is held. Once there is a decision the reasoner is run again from the top,
with the same input; `Agent.pause` then returns the decision at once, and `Agent.call` returns what the same call gave
before, since the names of its calls are made from what is called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.identity import digest
from agentfield.wire.frames import Invoke, PauseRequest

__all__ = ["Decision", "DecisionStatus", "Parked", "RunState"]

DecisionStatus = Literal["approved", "rejected", "changes_requested", "expired"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a human decided, or that nobody did in time."""

    status: DecisionStatus
    by: str | None = None
    """Who decided; None when it expired."""
    note: str | None = None
    data: Any = None
    """What came with it, such as the changes that are asked for; any JSON."""
    at: float = 0.0
    """Seconds since the epoch."""

    @property
    def approved(self) -> bool:
        """Whether it may be done as it was asked."""
        return self.status == "approved"


class Parked(BaseException):
    """Unwinds a run that waits for a decision; not an `Exception`, so that no handler of failures keeps it."""

    def __init__(self, request: PauseRequest) -> None:
        super().__init__(request.title)
        self.request = request


class RunState:
    """One run of a reasoner, as the code inside it needs it.

    Args:
        invoke: What was asked for.
        report: Takes how far the run has come.
    """

    def __init__(self, invoke: Invoke, report: Callable[[dict[str, Any]], None]) -> None:
        self.report = report
        self._id = f"{invoke.context.execution_id}.{invoke.lineage}"
        self._decisions: Mapping[str, dict[str, Any]] = invoke.decisions
        self._calls: Counter[str] = Counter()
        self._pauses = 0

    def op_id(self, target: str, values: Mapping[str, Any]) -> str:
        """Name a call: the same for the same call of every run of this execution that follows a pause or a lost node."""
        what = digest({"target": target, "input": dict(values)})[-24:]
        self._calls[what] += 1
        return f"{self._id}.{what}.{self._calls[what]}"

    def pause_key(self) -> str:
        """Name the next pause that has no name of its own."""
        self._pauses += 1
        return f"pause-{self._pauses}"

    def decision(self, key: str) -> Decision | None:
        """Return what was decided about a pause, None when nothing was so far."""
        found = self._decisions.get(key)
        return None if found is None else Decision(**found)
