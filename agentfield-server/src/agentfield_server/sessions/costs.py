"""What a session uses and what that costs: counted for each turn and for the session, held against its limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.realtime.events import Usage
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.prices import Pricer, UsageKind
from agentfield_server.sessions.totals import Totals
from agentfield_server.sessions.turns import TurnRecord

__all__ = ["Till", "Used"]

_WARN_SHARE = 0.8
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One count of the provider, and what it belongs to."""

    kind: UsageKind
    usage: Usage
    key: tuple[str, str] | None = None
    """What tells it from the same count told twice."""
    speech_id: str | None = None
    turn: TurnRecord | None = None
    item: str | None = None


class Till:
    """Everything that a session has used."""

    def __init__(self, board: Board, price: Pricer) -> None:
        self._board = board
        self._price = price
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._warned: set[str] = set()
        self.totals = Totals()

    def add(self, used: Used) -> None:
        """Count something, record it, and warn when the limit comes near."""
        if self._twice(used.key):
            return
        counts: dict[str, float] = used.usage.model_dump(exclude_none=True, exclude={"cost"})
        cost = self._price(used.kind, used.usage)
        if not counts and cost is None:
            return
        self.totals.add(used.kind, counts, cost)
        if used.turn is not None:
            used.turn.used.add(used.kind, counts, cost)
        self._record(used, counts, cost)
        self._judge(cost)

    def miss(self) -> None:
        """A reply is over and the provider did not tell what it used: a limit of cost does not hold any more."""
        if self._board.config.declaration.limits.cost is not None:
            message = "the provider did not tell what a reply used; it does not count for limits.cost"
            self._warn_once("cost_unknown", message)

    def restore(self, used: Totals) -> None:
        """Go on from what was used before."""
        self.totals = used

    def close(self) -> None:
        """Record what the session used in all."""
        if self.totals:
            self._board.record("session.usage", **self.totals.as_json(), unpriced=self.totals.unpriced)

    @property
    def passed(self) -> str | None:
        """What to say about a limit that was passed."""
        limit, cost = self._board.config.declaration.limits.cost, self.totals.cost
        if limit is None or cost is None or cost < limit:
            return None
        return f"the session cost {cost:.4f} of {limit:g} US dollars"

    # --- inside

    def _twice(self, key: tuple[str, str] | None) -> bool:
        if key is None:
            return False
        if key in self._told:
            return True
        self._told[key] = None
        while len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return False

    def _record(self, used: Used, counts: Mapping[str, float], cost: float | None) -> None:
        config = self._board.config
        models = {"reply": config.model, "transcription": config.transcription, "speech": None}
        turn_id = used.turn.turn_id or None if used.turn is not None else None
        about: dict[str, Any] = {"speech_id": used.speech_id, "turn_id": turn_id, "item": used.item}
        known = {name: value for name, value in about.items() if value is not None}
        self._board.record("usage", kind=used.kind, model=models[used.kind], **known, usage=dict(counts), cost=cost)

    def _judge(self, cost: float | None) -> None:
        limit = self._board.config.declaration.limits.cost
        if limit is None:
            return
        if cost is None:
            self._warn_once("cost_unknown", "something was used that has no price; it does not count for limits.cost")
        elif (self.totals.cost or 0.0) >= _WARN_SHARE * limit:
            spent = f"{self.totals.cost or 0.0:.4f}"
            self._warn_once("limit_cost", f"the session cost {spent} of the {limit:g} US dollars that it may cost")

    def _warn_once(self, code: str, message: str) -> None:
        if code not in self._warned and not self._board.over:
            self._warned.add(code)
            self._board.warn(code, message)
