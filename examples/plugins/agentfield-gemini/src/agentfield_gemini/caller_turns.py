"""The caller's turns, from what the server says of them.

Not every model reports voice activity (`voiceActivity`; gemini-3.8-live does not). Without it a turn begins with its first
words or with the interruption that it causes, and is over when the model answers it. Transcripts arrive in pieces, in no
guaranteed order to the model's answer; not every model marks the last piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentfield.realtime.events import Event, TurnCommitted, TurnStarted, TurnStopped, TurnTranscript

__all__ = ["CallerTurns"]

_MAX_TEXT = 20_000
_NO_WORDS = "Gemini sent no transcript of this turn"


@dataclass(slots=True)
class _Turn:
    item: str
    text: str = ""
    committed: bool = False
    final: bool = False


class CallerTurns:
    """Tracks the caller's turn.

    Args:
        prefix: Makes the ids unique across sessions.
        transcribed: Whether the session asked for transcripts.
    """

    def __init__(self, prefix: str, *, transcribed: bool) -> None:
        self._prefix = prefix
        self._transcribed = transcribed
        self._count = 0
        self._turn: _Turn | None = None
        self._previous: str | None = None

    @property
    def uncommitted(self) -> bool:
        """Whether the caller's turn has begun and is not committed."""
        return self._turn is not None and not self._turn.committed

    @property
    def last(self) -> str | None:
        """The item of the latest turn."""
        return None if self._turn is None else self._turn.item

    def start(self, at_ms: int | None = None) -> list[Event]:
        """Return the events of speech that begins; none if it has begun already."""
        if self.uncommitted:
            return []
        events = self.settle()
        self._count += 1
        self._turn = _Turn(f"turn_{self._prefix}_{self._count}")
        return [*events, TurnStarted(item=self._turn.item, at_ms=at_ms)]

    def words(self, text: str, *, last: bool) -> list[Event]:
        """Return the events of a piece of the transcript."""
        if not self._transcribed or (not text and not last):
            return []
        if self._turn is None or self._turn.final:
            if not text.strip():
                return []
            events = self.start()
        else:
            events = []
        turn = self._turn
        if turn is None:  # pragma: no cover - start has made one
            return events
        turn.text = (turn.text + text)[:_MAX_TEXT]
        if last and turn.text.strip():
            # the last piece of a transcript: the words of this turn are complete, so the turn is
            return [*events, *self.commit(), *self.settle()]
        return [*events, TurnTranscript(item=turn.item, text=turn.text.strip(), final=False)]

    def commit(self, at_ms: int | None = None) -> list[Event]:
        """Return the events of a turn that is over: the server reported its end, or the model answers it."""
        turn = self._turn
        if turn is None or turn.committed:
            return []
        turn.committed = True
        previous, self._previous = self._previous, turn.item
        return [TurnStopped(item=turn.item, at_ms=at_ms), TurnCommitted(item=turn.item, previous=previous)]

    def settle(self) -> list[Event]:
        """Return the final transcript of a committed turn; no piece of it is expected any more."""
        turn = self._turn
        if turn is None or not turn.committed or turn.final:
            return []
        turn.final = True
        if not self._transcribed:
            return []
        text = turn.text.strip()
        return [TurnTranscript(item=turn.item, text=text, failed=None if text else _NO_WORDS)]
