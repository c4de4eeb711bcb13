"""One turn of the caller: its words, its stage, and what it becomes for the handler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfield_server.sessions.conversation.effects import TurnValue
from agentfield_server.sessions.conversation.transitions import TURN_TRANSITIONS, Trigger, TurnStage
from agentfield_server.sessions.conversation.usage.totals import UsageTotals

__all__ = ["TurnRecord"]


@dataclass(slots=True, eq=False)
class TurnRecord:
    """One turn, from its commit to the close of its execution. Times are seconds of the machine's clock."""

    item: str
    """The provider's id of the turn."""
    previous: str | None
    """Item of the turn before it, where the provider names one."""
    committed_at: float
    started_at: float
    ended_at: float
    text: str | None = None
    text_missing: str | None = None
    words_known: bool = False
    """Whether its words are known, or known to be missing (`text_missing` says why)."""
    awaits_predecessor: bool = True
    """Whether it still waits for its predecessor."""
    turn_id: str = ""
    """Id of its execution; empty until that is opened."""
    number: int = 0
    attempt: int = 1
    """How often the handler was given it: a lost handler run gives its turn back."""
    stage: TurnStage = TURN_TRANSITIONS.initial
    released: bool = False
    """Whether the handler has finished with it."""
    answered: bool = False
    """Whether the model began to answer it (model floor)."""
    at_provider: bool = False
    """Whether the provider has reported it, so that a reply that begins later knows it."""
    problem: Mapping[str, Any] | None = None
    """Why the handler failed in it."""
    answer_problem: Mapping[str, Any] | None = None
    """Why the model's answer to it failed (model floor)."""
    late_text: str | None = None
    """Words that arrived after the handler took it without; another attempt gets them."""
    heard: str | None = None
    """What the caller had heard of the speech that it interrupted."""
    backchannel: bool = False
    """Whether it was too short to interrupt: it is a turn, but the speech continues and is not stale because of it."""
    spoken: list[Mapping[str, Any]] = field(default_factory=list)
    """Outcomes of the speeches that answer it, as JSON."""
    usage: UsageTotals = field(default_factory=UsageTotals)

    def value(self, offset: float) -> TurnValue:
        """Return the turn as the handler receives it; `offset` is added to its times."""
        return TurnValue(
            id=self.turn_id,
            text=self.text,
            text_missing=self.text_missing,
            started_at=self.started_at + offset,
            ended_at=self.ended_at + offset,
            attempt=self.attempt,
            heard=self.heard,
        )

    def enter(self, trigger: Trigger) -> None:
        """Change the stage by a transition of the table.

        Raises:
            TransitionError: The table has no such transition.
        """
        self.stage = TURN_TRANSITIONS.next(self.stage, trigger)
