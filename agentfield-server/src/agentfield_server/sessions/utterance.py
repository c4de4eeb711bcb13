"""One utterance of the agent: what was asked, what was generated, what was heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield_server.sessions.effects import HeardMethod, Spoken
from agentfield_server.sessions.turns import TurnRecord
from agentfield_server.sessions.words import heard_prefix, rest_of, speaking_seconds, verbatim

__all__ = ["Speech", "SpeechKind"]

SpeechKind = Literal["say", "reply", "greeting", "goodbye", "on_error"]


@dataclass(slots=True, eq=False)
class Speech:
    """One utterance of the agent, asked for or begun by the model."""

    id: str
    kind: SpeechKind
    asked: str | None = None
    instructions: str | None = None
    tools: tuple[str, ...] | None = None
    interruptible: bool = True
    stale: Literal["drop", "speak"] = "drop"
    turn: TurnRecord | None = None
    op_id: str | None = None
    own: bool = True
    """Whether we asked for it; False when the model began by itself."""
    reply: str | None = None
    words: str = ""
    ended: bool = False
    """Whether generation is over."""
    played: HeardMethod | None = None
    """How it is known that all of it was heard; None as long as it is not."""
    playing_since: float | None = None
    heard_ms: int | None = None
    method: HeardMethod = "wallclock"
    audio_ms: int | None = None
    """How long all of it sounds, once that is known."""
    interrupted: bool = False
    measured: bool = False
    """Whether somebody who can measure it told how much was heard before it was cut."""
    by_caller: bool = False
    """Whether it was the caller who cut it."""
    overtaken: bool = False
    """Whether the caller began to speak after it had been sent and before it began."""
    unwanted: bool = False
    """Whether it was taken back after it had been sent."""
    has_audio: bool = False
    tool_calls: int = 0
    incomplete: str | None = None
    """Why generation stopped short."""
    tries: int = 0
    recorded: bool = False
    called: list[dict[str, Any]] = field(default_factory=list)
    """The tool calls of this reply and of those it goes on from."""

    def elapsed_ms(self, now: float) -> int:
        """Return for how long it has been heard, by the clock."""
        return 0 if self.playing_since is None else max(0, int((now - self.playing_since) * 1000))

    def cut(self, now: float, heard_ms: int | None = None, method: HeardMethod = "wallclock") -> None:
        """Note that it is not heard to its end; a measured position is kept over a clock's."""
        if not self.interrupted:
            self.interrupted = True
            self.method = method if heard_ms is not None else "wallclock"
            self.heard_ms = self.elapsed_ms(now) if heard_ms is None else max(0, heard_ms)
        elif heard_ms is not None and not self.measured:
            self.heard_ms, self.method = max(0, heard_ms), method
        self.measured = self.measured or heard_ms is not None

    @property
    def heard(self) -> str:
        """What was heard of it when it was cut; by the words asked for as long as none were generated."""
        return heard_prefix(self.words or self.asked or "", self.heard_ms or 0, self.audio_ms)

    @property
    def seconds(self) -> float:
        """About how long all of it sounds."""
        return speaking_seconds(self.words) if self.audio_ms is None else self.audio_ms / 1000

    def told(self, spoken: Spoken) -> Mapping[str, Any]:
        """Add what became of it to its turn, and return what the history says."""
        if self.turn is not None:
            self.turn.spoken.append({"speech_id": self.id, **spoken.as_json()})
        heard = {"asked": spoken.asked, "generated": spoken.generated, "heard_text": spoken.heard_text}
        return {"role": "agent", "speech_id": self.id, **heard}

    def spoken(self, now: float, *, failed: str | None, stale: bool) -> Spoken:
        """Return what became of it."""
        whole = self.ended and not self.interrupted and failed is None and not stale
        heard_ms = self._heard_ms(now, whole=whole)
        heard = self.words if whole else heard_prefix(self.words, heard_ms, self.audio_ms)
        method = self.played if whole and self.played else self.method
        return Spoken(
            asked=self.asked,
            generated=self.words,
            verbatim=verbatim(self.asked, self.words) if self.asked is not None else None,
            heard_ms=heard_ms,
            heard_text=heard,
            heard_method=method,
            interrupted=self.interrupted,
            stale=stale,
            failed=failed,
            remaining="" if whole else rest_of(self.asked if self.asked is not None else self.words, heard),
        )

    def _heard_ms(self, now: float, *, whole: bool) -> int:
        """Return how much was heard, never more than there is."""
        if whole and self.played and self.audio_ms is not None:
            return self.audio_ms
        heard_ms = self.elapsed_ms(now) if whole or self.heard_ms is None else self.heard_ms
        return heard_ms if self.audio_ms is None else min(heard_ms, self.audio_ms)
