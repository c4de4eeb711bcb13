"""One utterance of the agent: the words asked for, the words generated, and how much the caller heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_server.sessions.conversation.effects import HeardMethod, Spoken
from agentfield_server.sessions.conversation.state import TurnRecord
from agentfield_server.sessions.conversation.text_compare import (
    heard_prefix,
    is_beginning,
    is_verbatim,
    speaking_seconds,
    unheard_rest,
)
from agentfield_server.sessions.conversation.transitions import (
    UTTERANCE_TRANSITIONS,
    Trigger,
    TurnStage,
    UtteranceStage,
)

__all__ = ["SpeechKind", "Utterance"]

SpeechKind = Literal["say", "reply", "greeting", "goodbye", "on_error"]
"""Why the agent speaks: a command of the handler, the model's reply, or a text of the declaration."""


@dataclass(slots=True, eq=False)
class Utterance:
    """One utterance of the agent, requested by the machine or begun by the model. Times are of the machine's clock."""

    id: str
    kind: SpeechKind
    asked: str | None = None
    """The words to speak; None for a reply of the model."""
    instructions: str | None = None
    tools: tuple[str, ...] | None = None
    interruptible: bool = True
    stale: Literal["drop", "speak"] = "drop"
    """Whether it is dropped when a newer turn makes it stale."""
    turn: TurnRecord | None = None
    """The turn that it answers."""
    op_id: str | None = None
    """The handler's command that asked for it."""
    requested: bool = True
    """Whether the machine requested it; False if the model began by itself."""
    stage: UtteranceStage = UTTERANCE_TRANSITIONS.initial
    reply: str | None = None
    """The provider's id of it, once it has begun."""
    words: str = ""
    """The words generated so far."""
    played: HeardMethod | None = None
    """How it is known that all of it was heard; None until then."""
    playing_since: float | None = None
    heard_ms: int | None = None
    method: HeardMethod = "wallclock"
    audio_ms: int | None = None
    """Duration of its audio, once that is known."""
    interrupted: bool = False
    measured: bool = False
    """Whether how much was heard is measured, not estimated by the clock."""
    cut_by_caller: bool = False
    """Whether the caller interrupted it."""
    overtaken: bool = False
    """Whether the caller began to speak after it was sent and before it began."""
    cancelled: bool = False
    """Whether it was cancelled after it was sent."""
    has_audio: bool = False
    tool_calls: int = 0
    incomplete: str | None = None
    """Why the provider stopped generating before the end."""
    tries: int = 0
    """How often it was sent."""
    number: int = 0
    """Number of the command that last asked for it; what the model is told by later commands is not known to it."""
    waited: bool = False
    """Whether the time was waited for that the provider asked to wait."""
    begun_at: float = 0.0
    """When the provider began it."""
    not_before: float = 0.0
    """When it may be sent at the earliest."""
    about_turn: bool = False
    """Whether it is about the words of its turn alone, not about results of tools."""
    superseded: bool = False
    """Whether it is unnecessary because another reply, which knows the same words, began after it was sent."""
    recorded: bool = False
    """Whether its beginning is recorded."""
    call_notes: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls of this reply and of the replies that it continues, as JSON."""

    def enter(self, trigger: Trigger) -> None:
        """Change the stage by a transition of the table.

        Raises:
            TransitionError: The table has no such transition.
        """
        self.stage = UTTERANCE_TRANSITIONS.next(self.stage, trigger)

    @property
    def unfounded(self) -> bool:
        """Whether the turn that it is about was discarded."""
        return self.about_turn and self.turn is not None and self.turn.stage is TurnStage.CLOSED

    @property
    def generated(self) -> bool:
        """Whether the provider has generated all of it."""
        return self.stage is UtteranceStage.GENERATED

    def elapsed_ms(self, now: float) -> int:
        """Return how long it has been playing by the clock, milliseconds."""
        return 0 if self.playing_since is None else max(0, int((now - self.playing_since) * 1000))

    def mark_cut(self, now: float, heard_ms: int | None = None, method: HeardMethod = "wallclock") -> None:
        """Note that it is not heard to its end. A measured position replaces an estimate of the clock, not the reverse."""
        if not self.interrupted:
            self.interrupted = True
            self.method = method if heard_ms is not None else "wallclock"
            self.heard_ms = self.elapsed_ms(now) if heard_ms is None else max(0, heard_ms)
        elif heard_ms is not None and not self.measured:
            self.heard_ms, self.method = max(0, heard_ms), method
        self.measured = self.measured or heard_ms is not None

    @property
    def heard_text(self) -> str:
        """Words heard before it was cut; of the words asked for while none were generated."""
        return heard_prefix(self.words or self.asked or "", self.heard_ms or 0, self.audio_ms)

    @property
    def duration(self) -> float:
        """Duration in seconds, estimated from its words while unknown."""
        return speaking_seconds(self.words) if self.audio_ms is None else self.audio_ms / 1000

    def history_entry(self, spoken: Spoken) -> Mapping[str, Any]:
        """Add its outcome to its turn, and return its entry for the history."""
        if self.turn is not None:
            self.turn.spoken.append({"speech_id": self.id, **spoken.as_json()})
        heard = {"asked": spoken.asked, "generated": spoken.generated, "heard_text": spoken.heard_text}
        return {"role": "agent", "speech_id": self.id, **heard}

    def outcome(self, now: float, *, failed: str | None, stale: bool) -> Spoken:
        """Return its outcome."""
        whole = self.generated and not self.interrupted and failed is None and not stale
        heard_ms = self._heard_ms(now, whole=whole)
        heard = self.words if whole else heard_prefix(self.words, heard_ms, self.audio_ms)
        method = self.played if whole and self.played else self.method
        return Spoken(
            asked=self.asked,
            generated=self.words,
            verbatim=self._verbatim(whole=whole),
            heard_ms=heard_ms,
            heard_text=heard,
            heard_method=method,
            interrupted=self.interrupted,
            stale=stale,
            failed=failed,
            remaining="" if whole else unheard_rest(self.asked if self.asked is not None else self.words, heard),
        )

    def _verbatim(self, *, whole: bool) -> bool | None:
        """Return whether the words asked for were generated; None if they were only cut off."""
        if self.asked is None:
            return None
        if is_verbatim(self.asked, self.words):
            return True
        cut_off = not whole or self.incomplete is not None
        return None if cut_off and is_beginning(self.asked, self.words) else False

    def _heard_ms(self, now: float, *, whole: bool) -> int:
        """Return how much was heard, at most the duration of its audio."""
        if whole and self.played and self.audio_ms is not None:
            return self.audio_ms
        heard_ms = self.elapsed_ms(now) if whole or self.heard_ms is None else self.heard_ms
        return heard_ms if self.audio_ms is None else min(heard_ms, self.audio_ms)
