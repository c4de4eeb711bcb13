"""Deadlines of the session machine, each under a typed key.

A deadline is due at a time of the machine's clock. Setting a key again moves its deadline. `TimerKind` lists every
deadline of a session; a kind that exists once per turn, call or reply is told apart by its `subject`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

__all__ = ["ROTATION_TIMERS", "SPEECH_TIMERS", "Timer", "TimerKind", "Timers"]


class TimerKind(StrEnum):
    """What a deadline is for. Deadlines that are due at the same time fire in the alphabetical order of these names."""

    OFFER = "offer"
    """The caller's offer must have been accepted."""
    MEDIA = "media"
    """The provider's session must be ready after the offer."""
    CALLER_GONE = "gone"
    """The caller's page must listen again."""
    DURATION = "duration"
    """The session has lasted as long as it may."""
    DURATION_WARNING = "warn"
    """The session is about to reach its longest duration."""
    EXPIRY = "expiry"
    """The provider's session is about to expire, and no other one can take over."""
    EXPIRY_WARNING = "expiry_warn"
    """The same, earlier, for a warning."""
    IDLE = "idle"
    """Nobody has spoken for as long as the limit allows."""
    NODE = "node"
    """A linked node must have taken the handler."""
    GOODBYE = "goodbye"
    """The goodbye must be over."""
    OPENING = "opening"
    """Speech that began before the call was live is no longer expected to be reported."""
    GRACE = "grace"
    """The handler's calls after the end are no longer accepted."""
    TURN = "turn"
    """A committed turn (subject: its item) waits no longer for its words and its predecessor."""
    ANSWER = "answer"
    """The model must have begun to answer a turn (subject: its item)."""
    SPEAKING = "speaking"
    """The caller counts as silent."""
    BARGE_IN = "bargein"
    """The caller has spoken for long enough to interrupt."""
    SPEECH = "speech"
    """The current speech has made no progress."""
    SPEECH_START = "speech:start"
    """The provider must have begun the speech that was sent."""
    SPEECH_RETRY = "speech:retry"
    """A speech that the provider refused may be sent again."""
    SPEECH_FOREIGN = "speech:foreign"
    """An unrequested reply no longer blocks the reply slot."""
    SPEECH_NEWER = "speech:newer"
    """The model has not answered the newest turn by itself; only wakes the machine."""
    TOOL_NEWER = "tools:newer"
    """The model has not answered the newest turn by itself, so that it may be asked to go on; only wakes the machine."""
    TOOL_BATCH = "tools"
    """A batch of tool calls (subject: its reply) has waited long enough; only wakes the machine."""
    FILLER = "filler"
    """A call of the handler (subject: its op id) takes long enough for its filler to be spoken."""
    ROTATION_WARNING = "rotate:warn"
    """A rotation is about to become due."""
    ROTATION_DUE = "rotate:due"
    """The provider's session is replaced at the first quiet moment."""
    ROTATION_FORCED = "rotate:now"
    """The provider's session is replaced even if the conversation is not quiet."""
    ROTATION_RETRY = "rotate:again"
    """Opening a replacement is tried again."""
    ROTATION_READY = "rotate:ready"
    """The replacement must be ready."""
    ROTATION_LOOK = "rotate:look"
    """The conversation may be quiet now; only wakes the machine."""


SPEECH_TIMERS = frozenset(
    {
        TimerKind.SPEECH,
        TimerKind.SPEECH_START,
        TimerKind.SPEECH_RETRY,
        TimerKind.SPEECH_FOREIGN,
        TimerKind.SPEECH_NEWER,
    }
)
"""Deadlines of the reply slot: they stay when a session ends, because its goodbye is still to be spoken."""


ROTATION_TIMERS = frozenset(
    {
        TimerKind.ROTATION_WARNING,
        TimerKind.ROTATION_DUE,
        TimerKind.ROTATION_FORCED,
        TimerKind.ROTATION_RETRY,
        TimerKind.ROTATION_READY,
        TimerKind.ROTATION_LOOK,
    }
)
"""Deadlines of the rotation."""


class Timer(NamedTuple):
    """Key of one deadline."""

    kind: TimerKind
    subject: str | None = None
    """Item of a turn, op id of a call or id of a reply, for the kinds that exist once for each; else None."""

    def __str__(self) -> str:
        return self.kind if self.subject is None else f"{self.kind}:{self.subject}"


class Timers:
    """The deadlines that are set."""

    def __init__(self) -> None:
        self._due: dict[Timer, float] = {}

    def set(self, kind: TimerKind, at: float, subject: str | None = None) -> None:
        """Set or move a deadline to a time (seconds, the machine's clock)."""
        self._due[Timer(kind, subject)] = at

    def clear(self, kind: TimerKind, subject: str | None = None) -> None:
        """Clear a deadline; one that is not set is ignored."""
        self._due.pop(Timer(kind, subject), None)

    def clear_all(self, *, keep: Collection[TimerKind] = ()) -> None:
        """Clear all deadlines except those of the kinds `keep`."""
        self._due = {timer: at for timer, at in self._due.items() if timer.kind in keep}

    def __contains__(self, kind: TimerKind) -> bool:
        return Timer(kind) in self._due

    def next(self) -> float | None:
        """Return the earliest deadline, None if there is none."""
        return min(self._due.values(), default=None)

    def pop_due(self, now: float) -> Timer | None:
        """Remove and return the earliest deadline that has passed, None if there is none.

        Deadlines of the same time come in the order of their names, so that a run can be repeated exactly.
        """
        due = min(((at, str(timer), timer) for timer, at in self._due.items() if at <= now), default=None)
        if due is None:
            return None
        del self._due[due[2]]
        return due[2]
