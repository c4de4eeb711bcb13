"""The speeches that wait for the reply slot, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from agentfield_server.sessions.board import Board
from agentfield_server.sessions.manners import is_stale, must_wait
from agentfield_server.sessions.turns import TurnBook
from agentfield_server.sessions.utterance import Speech, SpeechKind

__all__ = ["SpeechQueue"]

Drop = Callable[[Speech], None]

_MAX_QUEUE = 64
_ANSWER_WAIT = 5.0


class SpeechQueue:
    """A bounded line.

    Args:
        board: What the parts share.
        turns: The turns that speeches belong to.
        unsaid: Told of each speech that was taken back.
        stale: Told of each speech that came too late.
    """

    def __init__(self, board: Board, turns: TurnBook, *, unsaid: Drop, stale: Drop) -> None:
        self._board = board
        self._turns = turns
        self._unsaid = unsaid
        self._stale = stale
        self._line: deque[Speech] = deque()

    def __len__(self) -> int:
        return len(self._line)

    @property
    def speeches(self) -> list[Speech]:
        """All that wait."""
        return list(self._line)

    @property
    def head(self) -> Speech | None:
        """The next one."""
        return self._line[0] if self._line else None

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._line) >= _MAX_QUEUE

    def add(self, speech: Speech) -> None:
        """Let a speech wait."""
        self._line.append(speech)

    def put_back(self, speech: Speech) -> None:
        """Let a speech be the next one."""
        self._line.appendleft(speech)

    def ready(self) -> Speech | None:
        """Take the next speech, unless it has to wait for the caller."""
        head = self.head
        if head is None or must_wait(head, self._turns, self._board) or self._answered_soon(head):
            return None
        return self._line.popleft()

    def take_back(self, op_id: str | None) -> None:
        """The handler's speeches (those of one command, or all) will not be said."""
        self._unsay([s for s in self._line if op_id in (None, s.op_id) and s.kind in ("say", "reply")])

    def clear(self, *, but: SpeechKind | None = None) -> None:
        """Nothing will be said, except speeches of the kind `but`."""
        self._unsay([s for s in self._line if s.kind != but])

    def drop_stale(self) -> None:
        """What answers an older turn than the newest will not be said."""
        for speech in [s for s in self._line if is_stale(s, self._turns)]:
            self._line.remove(speech)
            self._stale(speech)

    def drop_overtaken(self) -> None:
        """The model began to answer by itself, so it need not be asked to; what the handler asked for stays.

        So does what the provider refused because it was answering already: that answer may have begun before the words
        that this one is about were there.
        """
        for speech in [s for s in self._line if s.kind == "reply" and s.op_id is None and not s.tries]:
            self._line.remove(speech)
            self._stale(speech)

    def _answered_soon(self, speech: Speech) -> bool:
        """Tell whether the model is about to answer a newer turn by itself, so that asking it would be refused."""
        newest = self._turns.newest
        ours = speech.kind == "reply" and speech.op_id is None and self._board.model_floor
        if not ours or newest is None or newest is speech.turn or newest.answered or newest.backchannel:
            return False
        until = newest.committed_at + _ANSWER_WAIT
        if self._board.now < until:
            self._board.timers.set("speech:newer", until)
        return self._board.now < until

    def _unsay(self, speeches: list[Speech]) -> None:
        for speech in speeches:
            self._line.remove(speech)
            speech.interrupted = True
            self._unsaid(speech)
