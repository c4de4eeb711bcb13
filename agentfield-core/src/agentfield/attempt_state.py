"""State of one attempt of a reasoner, and how it is suspended for a human decision and replayed afterwards.

An attempt that pauses ends: it holds no task, lease or socket. Once the decision is made, the reasoner runs again from the top
with the same input; `Agent.pause` then returns the decision at once, and `Agent.call` returns the recorded output of the same
call, because operation ids are derived from the target and input of a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.identity import digest
from agentfield.values import encode
from agentfield.wire.frames import Invoke, PauseRequest

__all__ = ["AttemptState", "Decision", "DecisionStatus", "ExecutionSuspended"]

DecisionStatus = Literal["approved", "rejected", "changes_requested", "expired"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A human decision about a pause, or its expiry."""

    status: DecisionStatus
    by: str | None = None
    """A name that the decision came with, which nobody verified; None without one. The log has the verified principal."""
    note: str | None = None
    data: Any = None
    """Data given with the decision, such as the requested changes; any JSON."""
    at: float = 0.0
    """Seconds since the epoch."""

    @property
    def approved(self) -> bool:
        """Whether the request was approved without changes."""
        return self.status == "approved"


class ExecutionSuspended(BaseException):
    """Unwinds an attempt that waits for a decision; not an `Exception`, so that ``except Exception`` in user code does not catch it."""

    def __init__(self, request: PauseRequest) -> None:
        super().__init__(request.title)
        self.request = request


class AttemptState:
    """State of one attempt, used by `Agent.call`, `Agent.pause` and `context.update` inside it.

    Args:
        invoke: The frame that started the attempt.
        report: Called with each progress report.
    """

    def __init__(self, invoke: Invoke, report: Callable[[dict[str, Any]], None]) -> None:
        self.report = report
        self.ended = False
        """Set once the attempt has its result; a thread that still runs its function may call nothing more."""
        self.forgotten: Exception | None = None
        """A call or pause of the attempt that was never awaited, so that it did not happen."""
        self._id = f"{invoke.context.execution_id}.{invoke.lineage}"
        self._decisions: Mapping[str, dict[str, Any]] = invoke.decisions
        self._calls: Counter[str] = Counter()
        self._pauses = 0

    def op_id(self, target: str, values: Mapping[str, Any]) -> str:
        """Return the operation id of a call: equal for the same call in every attempt that follows a pause or a lost node."""
        # large integers keep their place until the control plane compares them with the target's schema
        known = encode(dict(values), name="input", untyped="text").value
        key = digest({"target": target, "input": known})[-24:]
        self._calls[key] += 1
        return f"{self._id}.{key}.{self._calls[key]}"

    def pause_key(self) -> str:
        """Return the default key of the next pause."""
        self._pauses += 1
        return f"pause-{self._pauses}"

    def decision(self, key: str) -> Decision | None:
        """Return the decision about a pause, None while it is pending."""
        found = self._decisions.get(key)
        return None if found is None else Decision(**found)
