"""Queue of the speeches that wait for the reply slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from agentfield_server.sessions.conversation.speech.policy import (
    is_stale,
    is_superseded,
    must_wait,
    must_wait_for_model,
)
from agentfield_server.sessions.conversation.speech.utterance import SpeechKind, Utterance
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["SpeechQueue"]

Drop = Callable[[Utterance], None]
"""Receives a speech that leaves the queue without having been spoken."""

_MAX_QUEUE = 64


class SpeechQueue:
    """Bounded queue of speeches.

    Args:
        state: State shared with the other parts.
        turns: Turns that the speeches answer.
        cancelled: Receives each speech that was cancelled.
        stale: Receives each speech that became stale.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, *, cancelled: Drop, stale: Drop) -> None:
        self._state = state
        self._turns = turns
        self._cancelled = cancelled
        self._stale = stale
        self._speeches: deque[Utterance] = deque()

    def __len__(self) -> int:
        return len(self._speeches)

    @property
    def speeches(self) -> list[Utterance]:
        """All queued speeches, the next one first."""
        return list(self._speeches)

    @property
    def head(self) -> Utterance | None:
        """The next speech."""
        return self._speeches[0] if self._speeches else None

    @property
    def full(self) -> bool:
        """Whether the queue takes no more speeches."""
        return len(self._speeches) >= _MAX_QUEUE

    def add(self, speech: Utterance) -> None:
        """Append a speech."""
        self._speeches.append(speech)

    def put_back(self, speech: Utterance) -> None:
        """Put a speech back that was sent and not begun; it is the next one."""
        self._speeches.appendleft(speech)

    def ready(self) -> Utterance | None:
        """Remove and return the next speech; None if there is none or it must wait."""
        head = self.head
        if head is None or must_wait(head, self._turns, self._state) or self._waits(head):
            return None
        return self._speeches.popleft()

    def cancel(self, op_id: str | None) -> None:
        """Cancel the speech of one command of the handler, or all speeches of the handler."""
        self._cancel([s for s in self._speeches if op_id in (None, s.op_id) and s.kind in ("say", "reply")])

    def clear(self, *, but: SpeechKind | None = None) -> None:
        """Cancel all speeches except those of the kind `but`."""
        self._cancel([s for s in self._speeches if s.kind != but])

    def drop_stale(self) -> None:
        """Drop the speeches that are stale."""
        for speech in [s for s in self._speeches if is_stale(s, self._turns)]:
            self._speeches.remove(speech)
            self._stale(speech)

    def drop_superseded(self) -> None:
        """Drop the replies that are unnecessary because the model began one by itself."""
        for speech in [s for s in self._speeches if is_superseded(s)]:
            self._speeches.remove(speech)
            self._stale(speech)

    def _waits(self, speech: Utterance) -> bool:
        """Return whether a speech waits for another reply that is about to begin, and set when it no longer does."""
        until = must_wait_for_model(speech, self._turns, self._state)
        if until is None and self._state.now < speech.not_before:
            until = speech.not_before
        if until is not None:
            self._state.timers.set(TimerKind.SPEECH_NEWER, until)
        return until is not None

    def _cancel(self, speeches: list[Utterance]) -> None:
        for speech in speeches:
            self._speeches.remove(speech)
            speech.interrupted = True
            self._cancelled(speech)
