"""Turns of the caller: their order, their words, who waits for an answer, and when each is done."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.realtime.events import TurnCommitted, TurnDiscarded, TurnStarted, TurnStopped, TurnTranscript
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.effects import CloseTurn, OpenTurn, TurnValue
from agentfield_server.sessions.inputs import OpenTurnSnapshot
from agentfield_server.sessions.totals import Totals

__all__ = ["MAX_WAITING", "RECORDED_WAIT", "TRANSCRIPT_WAIT", "TurnBook", "TurnRecord"]

TRANSCRIPT_WAIT = 3.0
"""Seconds that a committed turn waits for its words, and for the turn before it."""
RECORDED_WAIT = 20.0
"""The same where the caller says when a turn is over: such turns are as long as the caller likes, and so is the work."""
MAX_WAITING = 8
_MAX_PENDING = 64
_MAX_SEEN = 4096
_SPEAKING_LIMIT = 30.0
_COMMIT_GRACE = 1.0


@dataclass(slots=True, eq=False)
class TurnRecord:
    """One turn, from its commit to the close of its execution."""

    item: str
    previous: str | None
    committed_at: float
    started_at: float
    ended_at: float
    text: str | None = None
    text_missing: str | None = None
    known: bool = False
    """Whether its words are known, or known to be missing."""
    patient: bool = True
    """Whether it still waits for the turn it follows."""
    turn_id: str = ""
    number: int = 0
    attempt: int = 1
    stage: Literal["pending", "waiting", "taken", "closed"] = "pending"
    released: bool = False
    """Whether the handler is done with it."""
    answered: bool = False
    """Whether the model began to answer it (model floor)."""
    problem: Mapping[str, Any] | None = None
    heard: str | None = None
    backchannel: bool = False
    """Whether it was too short to stop what was being said: a turn, but what it was said over goes on."""
    spoken: list[Mapping[str, Any]] = field(default_factory=list)
    used: Totals = field(default_factory=Totals)

    def value(self, offset: float) -> TurnValue:
        """Return what the handler gets."""
        return TurnValue(
            id=self.turn_id,
            text=self.text,
            text_missing=self.text_missing,
            started_at=self.started_at + offset,
            ended_at=self.ended_at + offset,
            attempt=self.attempt,
            heard=self.heard,
        )


class TurnBook:
    """All turns of a session."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._begun: OrderedDict[str, tuple[float, float | None]] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._spared: set[str] = set()
        """Turns under way that were too short to interrupt."""
        self._line: list[TurnRecord] = []
        self.waiting: list[TurnRecord] = []
        self.open: dict[str, TurnRecord] = {}
        self.speaking: str | None = None
        self.current: TurnRecord | None = None
        """The turn that the handler took last."""
        self.newest: TurnRecord | None = None
        """The newest turn that counts."""
        self._newest_asking: TurnRecord | None = None
        """The same without those that only say that the caller listens."""
        self.count = 0
        self.over_limit = False
        self._cut: str | None = None
        """What was heard of the speech that the caller is talking over."""
        self._cutter: TurnRecord | None = None
        """The turn that was told so."""

    # --- what the provider tells

    def started(self, event: TurnStarted) -> None:
        """The caller speaks; a start that is told after the turn's end is no news."""
        if event.item in self._seen:
            return
        self.speaking = event.item
        self._board.timers.set("speaking", self._board.now + _SPEAKING_LIMIT)
        if event.item not in self._begun:
            self._begun[event.item] = (self._board.now, None)
            while len(self._begun) > _MAX_PENDING:
                self._begun.popitem(last=False)

    def stopped(self, event: TurnStopped) -> None:
        """The caller is silent; the commit follows."""
        begun, _ = self._begun.get(event.item, (self._board.now, None))
        if event.item in self._begun:
            self._begun[event.item] = (begun, self._board.now)
        if self.speaking == event.item:
            self._board.timers.set("speaking", self._board.now + _COMMIT_GRACE)

    def silence(self) -> None:
        """The caller counts as silent."""
        self.speaking = None
        self._board.timers.clear("speaking")

    def committed(self, event: TurnCommitted) -> None:
        """A turn is part of the conversation; a second commit of an item is ignored."""
        begun, ended = self._begun.pop(event.item, (self._board.now, None))
        spared = event.item in self._spared
        self._spared.discard(event.item)
        if self.speaking == event.item:
            self.silence()
        if event.item in self._seen:
            return
        self._remember(event.item)
        turn = TurnRecord(event.item, event.previous, self._board.now, begun, ended or self._board.now)
        if self._cut is not None:
            turn.heard, self._cut, self._cutter = self._cut, None, turn
        turn.backchannel = spared
        if len(self._line) >= _MAX_PENDING:
            self._discard(turn, "too_many")
            return
        self._line.append(turn)
        wait = TRANSCRIPT_WAIT if self._board.vad else RECORDED_WAIT
        self._board.timers.set(f"turn:{turn.item}", self._board.now + wait)
        if event.text is not None:
            turn.text, turn.known = event.text, True
        elif self._board.config.transcription is None:
            turn.text_missing, turn.known = "no_transcription", True
        if self._board.model_floor:
            self._open(turn)

    def transcript(self, event: TurnTranscript) -> None:
        """The words of a turn; pieces, and words that come too late, are for those who watch only."""
        turn = next((turn for turn in self._line if turn.item == event.item), None)
        if turn is None or not event.final or turn.known:
            return
        turn.known = True
        if event.failed is not None:
            turn.text_missing = event.failed
        else:
            turn.text = event.text

    def discarded(self, event: TurnDiscarded, *, why: str | None = None) -> None:
        """The provider dropped what was being said."""
        self._begun.pop(event.item, None)
        self._spared.discard(event.item)
        if self.speaking == event.item:
            self.silence()
        turn = next((turn for turn in self._line if turn.item == event.item), None)
        if turn is not None:
            self._drop(turn, why or event.why)
        elif event.item not in self._seen:
            self._remember(event.item)
            self._board.record("turn.discarded", item=event.item, why=why or event.why)

    def give_up(self, item: str) -> None:
        """The wait for a turn's words, and for its predecessor, is over."""
        for turn in self._line:
            if turn.item == item:
                turn.patient = False
                if not turn.known:
                    turn.known, turn.text_missing = True, "timeout"

    def spare(self, item: str) -> None:
        """What is being said was too short to interrupt."""
        if len(self._spared) < _MAX_PENDING:
            self._spared.add(item)

    def cut(self, heard: str | None) -> None:
        """The caller talks over a speech of which so much was heard; None: a new speech begins."""
        self._cut, self._cutter = heard, None

    def measured(self, heard: str) -> None:
        """How much was heard of the speech that the caller talked over is known better now."""
        if self._cut is not None:
            self._cut = heard
        elif self._cutter is not None:
            self._cutter.heard = heard

    def lose(self, why: str) -> None:
        """The provider's session is gone, and with it what the caller was saying."""
        for item in list(self._begun):
            self.discarded(TurnDiscarded(item=item, why="cleared"), why=why)
        self.silence()

    # --- what follows from it

    def advance(self) -> None:
        """Let every turn through whose words are known and whose predecessors are through."""
        while self._line:
            turn = self._head()
            if not turn.known or self._predecessor_missing(turn):
                return
            self._line.remove(turn)
            self._board.timers.clear(f"turn:{turn.item}")
            self._accept(turn)

    def pending(self) -> bool:
        """Tell whether a committed turn still waits for its words."""
        return bool(self._line)

    def begun(self, item: str) -> bool:
        """Tell whether the beginning of a turn was told, and not yet its end."""
        return item in self._begun

    def knows(self, item: str) -> bool:
        """Tell whether a turn was committed or discarded."""
        return item in self._seen

    def ours(self, item: str) -> None:
        """An item is words that we put into the conversation: a provider that tells of it tells of no turn."""
        self._remember(item)

    def find(self, item: str) -> TurnRecord | None:
        """Return a turn that is not closed."""
        return next((turn for turn in (*self._line, *self.open.values()) if turn.item == item), None)

    def unsaid(self) -> list[str]:
        """Return the words of turns that are known and not let through yet."""
        return [turn.text for turn in self._line if turn.known and turn.text]

    def newer_than(self, turn: TurnRecord | None) -> bool:
        """Tell whether a newer turn than this one counts; one that only says that the caller listens does not."""
        newest = self._newest_asking
        return turn is not None and newest is not None and newest.number > turn.number

    def take(self) -> TurnValue | None:
        """Hand the next turn to the handler."""
        if not self.waiting:
            return None
        turn = self.waiting.pop(0)
        self.release()
        turn.stage = "taken"
        self.current = turn
        return turn.value(self._board.offset)

    def release(self, problem: Mapping[str, Any] | None = None) -> None:
        """The handler is done with the turn it took, or failed in it."""
        if self.current is not None and not self.current.released:
            self.current.released = True
            self.current.problem = problem

    def give_back(self) -> None:
        """The handler was lost: the turn it had not finished comes again, as another attempt."""
        turn, self.current = self.current, None
        if turn is None or turn.released or turn.stage != "taken":
            return
        turn.stage = "waiting"
        turn.attempt += 1
        self.waiting.insert(0, turn)

    def restore(self, turns: tuple[OpenTurnSnapshot, ...], count: int) -> None:
        """Put turns of an earlier control plane back; the oldest one may have been taken, so it is a second attempt."""
        self.count = count
        for index, known in enumerate(turns):
            turn = TurnRecord(known.item, None, self._board.now, self._board.now, self._board.now, known=True)
            turn.text, turn.text_missing = known.text, known.text_missing
            turn.turn_id, turn.number, turn.stage = known.turn_id, known.number, "waiting"
            turn.attempt = 2 if index == 0 else 1
            # a conversation that is attached to again may have its answer already, a new one has not
            turn.answered = self._board.model_floor and not self._board.replays
            self._remember(turn.item)
            self.waiting.append(turn)
            self.open[turn.turn_id] = turn
            self.newest = self._newest_asking = turn

    def close(self, turn: TurnRecord) -> None:
        """Close a turn that is done."""
        turn.stage = "closed"
        self.open.pop(turn.turn_id, None)
        output = {"text": turn.text, "text_missing": turn.text_missing, "spoken": list(turn.spoken)}
        if turn.used:
            output |= turn.used.as_json()
        status: Literal["succeeded", "failed"] = "failed" if turn.problem else "succeeded"
        self._board.emit(CloseTurn(turn_id=turn.turn_id, status=status, output=output, problem=turn.problem))

    def stop_waiting(self) -> None:
        """Nobody will take a turn any more."""
        self._line.clear()
        self.waiting.clear()
        self.silence()

    def cancel_all(self) -> None:
        """The session is over: what is done succeeded, the rest is cancelled."""
        problem = self._board.ended_error().to_problem()
        for turn in list(self.open.values()):
            if turn.released or (self._board.model_floor and turn.answered and turn.spoken):
                self.close(turn)
                continue
            turn.stage = "closed"
            self.open.pop(turn.turn_id)
            self._board.emit(CloseTurn(turn_id=turn.turn_id, status="cancelled", problem=problem))

    # --- inside

    def _head(self) -> TurnRecord:
        """Return the first turn that follows no other turn of the line."""
        items = {turn.item for turn in self._line}
        return next((turn for turn in self._line if turn.previous not in items), self._line[0])

    def _predecessor_missing(self, turn: TurnRecord) -> bool:
        return turn.patient and turn.previous in self._begun

    def _accept(self, turn: TurnRecord) -> None:
        words_empty = turn.text is not None and not turn.text.strip()
        if words_empty and not (self._board.model_floor and turn.answered):
            self._drop(turn, "empty")
            return
        if not self._board.model_floor and len(self.waiting) >= MAX_WAITING:
            self._drop(turn, "too_many")
            return
        if not turn.turn_id:
            self._open(turn)
        if not turn.turn_id:
            self._drop(turn, "limit")
            return
        self._announce(turn)

    def _announce(self, turn: TurnRecord) -> None:
        body = {"turn_id": turn.turn_id, "item": turn.item, "text": turn.text, "text_missing": turn.text_missing}
        self._board.record("turn.committed", **body)
        self._board.remember({"role": "caller", "turn_id": turn.turn_id, "text": turn.text})
        if len(self.waiting) < MAX_WAITING:
            turn.stage = "waiting"
            self.waiting.append(turn)

    def _open(self, turn: TurnRecord) -> None:
        limit = self._board.config.declaration.limits.turns
        if limit is not None and self.count >= limit:
            self.over_limit = True
            return
        self.count += 1
        turn.number = self.count
        turn.turn_id = self._board.ids("exe")
        self.open[turn.turn_id] = turn
        self.newest = turn
        if not turn.backchannel:
            self._newest_asking = turn
        self._board.emit(
            OpenTurn(
                turn_id=turn.turn_id,
                item=turn.item,
                number=turn.number,
                text=turn.text,
                text_missing=turn.text_missing,
            )
        )

    def _drop(self, turn: TurnRecord, why: str) -> None:
        if turn in self._line:
            self._line.remove(turn)
        self._board.timers.clear(f"turn:{turn.item}")
        self._discard(turn, why)

    def _discard(self, turn: TurnRecord, why: str) -> None:
        turn.stage = "closed"
        self._board.record("turn.discarded", item=turn.item, why=why)
        if self.open.pop(turn.turn_id, None) is None:
            return
        if self.newest is turn:
            self.newest = max(self.open.values(), key=lambda other: other.number, default=None)
        if self._newest_asking is turn:
            asking = [other for other in self.open.values() if not other.backchannel]
            self._newest_asking = max(asking, key=lambda other: other.number, default=None)
        problem = {"code": "turn_discarded", "status": 409, "title": "turn discarded", "detail": f"discarded: {why}"}
        self._board.emit(CloseTurn(turn_id=turn.turn_id, status="cancelled", problem=problem))

    def _remember(self, item: str) -> None:
        self._seen[item] = None
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
