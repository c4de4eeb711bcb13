"""Usage and cost of a session, per turn and in total, checked against its limits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.realtime.events import Usage
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.usage.pricing import Pricer, UsageKind
from agentfield_server.sessions.conversation.usage.totals import UsageTotals

__all__ = ["UsageMeter", "UsageSample"]

_WARN_SHARE = 0.8
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSample:
    """One usage report of the provider, and what it belongs to."""

    kind: UsageKind
    usage: Usage
    key: tuple[str, str] | None = None
    """Identifies the report, so that a repeated one is not counted; None if it cannot repeat."""
    speech_id: str | None = None
    turn: TurnRecord | None = None
    item: str | None = None


class UsageMeter:
    """Usage of a session.

    Args:
        state: State shared with the other parts.
        price: Prices a usage report.
    """

    def __init__(self, state: MachineState, price: Pricer) -> None:
        self._state = state
        self._price = price
        self._counted: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._warned: set[str] = set()
        self.totals = UsageTotals()

    def add(self, sample: UsageSample) -> None:
        """Count and record a usage report; warn when the cost comes near its limit."""
        if self._is_counted(sample.key):
            return
        counts: dict[str, float] = sample.usage.model_dump(exclude_none=True, exclude={"cost"})
        cost = self._price(sample.kind, sample.usage)
        if not counts and cost is None:
            return
        self.totals.add(sample.kind, counts, cost)
        if sample.turn is not None:
            sample.turn.usage.add(sample.kind, counts, cost)
        self._record(sample, counts, cost)
        self._check_limit(cost)

    def note_missing(self) -> None:
        """Warn, if cost is limited, that the provider did not report the usage of a reply, so that the limit may not hold."""
        if self._state.config.declaration.limits.cost is not None:
            message = "the provider did not tell what a reply used; it does not count for limits.cost"
            self._warn_once("cost_unknown", message)

    def restore(self, totals: UsageTotals) -> None:
        """Continue from the totals before a restart."""
        self.totals = totals

    def close(self) -> None:
        """Record the totals of the session."""
        if self.totals:
            self._state.record("session.usage", **self.totals.as_json(), unpriced=self.totals.unpriced)

    @property
    def exceeded(self) -> str | None:
        """Detail of the end if the cost limit is exceeded, else None."""
        limit, cost = self._state.config.declaration.limits.cost, self.totals.cost
        if limit is None or cost is None or cost < limit:
            return None
        return f"the session cost {cost:.4f} of {limit:g} US dollars"

    # --- inside

    def _is_counted(self, key: tuple[str, str] | None) -> bool:
        if key is None:
            return False
        if key in self._counted:
            return True
        self._counted[key] = None
        while len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        return False

    def _record(self, sample: UsageSample, counts: Mapping[str, float], cost: float | None) -> None:
        config = self._state.config
        models = {"reply": config.model, "transcription": config.transcription, "speech": None}
        turn_id = sample.turn.turn_id or None if sample.turn is not None else None
        about: dict[str, Any] = {"speech_id": sample.speech_id, "turn_id": turn_id, "item": sample.item}
        known = {name: value for name, value in about.items() if value is not None}
        self._state.record("usage", kind=sample.kind, model=models[sample.kind], **known, usage=dict(counts), cost=cost)

    def _check_limit(self, cost: float | None) -> None:
        limit = self._state.config.declaration.limits.cost
        if limit is None:
            return
        if cost is None:
            self._warn_once("cost_unknown", "something was used that has no price; it does not count for limits.cost")
        elif (self.totals.cost or 0.0) >= _WARN_SHARE * limit:
            spent = f"{self.totals.cost or 0.0:.4f}"
            self._warn_once("limit_cost", f"the session cost {spent} of the {limit:g} US dollars that it may cost")

    def _warn_once(self, code: str, message: str) -> None:
        if code not in self._warned and not self._state.over:
            self._warned.add(code)
            self._state.warn(code, message)
