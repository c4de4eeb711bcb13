"""Turns of the caller: their order, their words, their way to the handler, and the close of their executions.

A turn is one stretch of the caller's speech or one typed text. The provider commits it; its transcript and the
transcripts of earlier turns may come later and in any order. The tracker releases turns to the handler in the order of
the conversation, once their words are known or no longer awaited.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

from agentfield.realtime.events import TurnCommitted, TurnDiscarded, TurnStarted, TurnStopped, TurnTranscript
from agentfield_server.sessions.conversation.effects import CloseTurn, OpenTurn, TurnValue
from agentfield_server.sessions.conversation.inputs import HandlerInput, HandlerLost, OpenTurnSnapshot
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.transitions import Condition, Trigger, TurnStage

__all__ = ["MAX_WAITING", "TurnTracker", "transcript_wait"]

_SHORTEST_WAIT = 3.0
_LONGEST_WAIT = 20.0
MAX_WAITING = 8
"""Turns that may wait for the handler; further ones are discarded."""
_MAX_PENDING = 64
_MAX_SEEN = 4096
_SPEAKING_LIMIT = 30.0
_COMMIT_GRACE = 1.0
_TIMEOUT = "timeout"


def transcript_wait(length: float | None) -> float:
    """Return the seconds that a committed turn waits for its transcript and for its predecessor.

    Transcription takes longer for a longer turn: half the turn's length is waited for, at least 3 s and at most 20 s.

    Args:
        length: Seconds that the caller spoke; None if that is unknown, because the caller commits turns.
    """
    return _LONGEST_WAIT if length is None else min(max(_SHORTEST_WAIT, length / 2), _LONGEST_WAIT)


class TurnTracker:
    """All turns of a session.

    Args:
        state: State shared with the other parts.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._begun: OrderedDict[str, tuple[float, float | None]] = OrderedDict()
        """Begin and end of what the caller says, by item, until it is committed or discarded."""
        self._seen: OrderedDict[str, None] = OrderedDict()
        """Items that were committed or discarded, so that a repeated event is ignored."""
        self._backchannels: set[str] = set()
        """Uncommitted items that were too short to interrupt."""
        self._queue: list[TurnRecord] = []
        """Committed turns that are not accepted yet."""
        self._wordless: OrderedDict[str, TurnRecord] = OrderedDict()
        """Announced turns whose words did not arrive in time, by item: the words may still come."""
        self.waiting: list[TurnRecord] = []
        """Accepted turns that the handler has not taken."""
        self.open: dict[str, TurnRecord] = {}
        """Turns whose execution is open, by its id."""
        self.speaking: str | None = None
        """Item that the caller is speaking; None while the caller is silent."""
        self.current: TurnRecord | None = None
        """The turn that the handler took last."""
        self.newest: TurnRecord | None = None
        """The newest turn with an execution that was not discarded."""
        self._newest_request: TurnRecord | None = None
        """The same without backchannels."""
        self.count = 0
        """Turns with an execution, those of an earlier control plane included."""
        self.over_limit = False
        self._heard: str | None = None
        """What was heard of the interrupted speech, until the interrupting turn is committed."""
        self._interrupting: TurnRecord | None = None
        """The turn that carries `heard` now."""

    # --- events of the provider

    def started(self, event: TurnStarted) -> None:
        """Note that the caller speaks; a start that arrives after the turn's commit is ignored."""
        if event.item in self._seen:
            return
        self.speaking = event.item
        self._state.timers.set(TimerKind.SPEAKING, self._state.now + _SPEAKING_LIMIT)
        if event.item not in self._begun:
            self._begun[event.item] = (self._state.now, None)
            while len(self._begun) > _MAX_PENDING:
                self._begun.popitem(last=False)

    def stopped(self, event: TurnStopped) -> None:
        """Note that the caller stopped; the commit follows."""
        begun, _ = self._begun.get(event.item, (self._state.now, None))
        if event.item in self._begun:
            self._begun[event.item] = (begun, self._state.now)
        if self.speaking == event.item:
            self._state.timers.set(TimerKind.SPEAKING, self._state.now + _COMMIT_GRACE)

    def caller_silent(self) -> None:
        """Treat the caller as silent."""
        self.speaking = None
        self._state.timers.clear(TimerKind.SPEAKING)

    def committed(self, event: TurnCommitted) -> None:
        """Add a turn to the conversation; a second commit of an item is ignored."""
        begun, ended = self._begun.pop(event.item, (self._state.now, None))
        backchannel = event.item in self._backchannels
        self._backchannels.discard(event.item)
        if self.speaking == event.item:
            self.caller_silent()
        if event.item in self._seen:
            return
        self._mark_seen(event.item)
        turn = TurnRecord(event.item, event.previous, self._state.now, begun, ended or self._state.now)
        if self._heard is not None:
            turn.heard, self._heard, self._interrupting = self._heard, None, turn
        turn.backchannel = backchannel
        if len(self._queue) >= _MAX_PENDING:
            self._discard(turn, "too_many", Condition.REJECTED)
            return
        self._queue.append(turn)
        length = turn.ended_at - turn.started_at if self._state.detects_turns else None
        self._state.timers.set(TimerKind.TURN, self._state.now + transcript_wait(length), turn.item)
        if event.text is not None:
            turn.text, turn.words_known = event.text, True
        elif not self._state.transcribes:
            turn.text_missing, turn.words_known = "no_transcription", True
        if self._state.model_floor:
            self._open(turn)

    def reported(self, item: str) -> None:
        """Note that the provider's conversation has a turn, whoever added it."""
        turn = self.find(item)
        if turn is not None:
            turn.at_provider = True

    def transcript(self, event: TurnTranscript) -> None:
        """Take the final words of a turn that waits for them; interim words are for listeners only."""
        turn = next((turn for turn in self._queue if turn.item == event.item), None)
        if turn is None or not event.final or turn.words_known:
            return
        turn.words_known = True
        if event.failed is not None:
            turn.text_missing = event.failed
        else:
            turn.text = event.text

    def late_transcript(self, event: TurnTranscript) -> str | None:
        """Record words that arrive after they are no longer awaited; return the id of their turn, None for other words.

        A turn that the handler has taken does not change; one that still waits for the handler gets them.
        """
        turn = self._wordless.get(event.item) if event.final and event.failed is None and event.text.strip() else None
        if turn is None:
            return None
        del self._wordless[event.item]
        if turn in self.waiting:
            turn.text, turn.text_missing = event.text, None
        else:
            turn.late_text = event.text
        self._state.record("turn.transcript", turn_id=turn.turn_id, item=turn.item, text=event.text, late=True)
        self._state.set_caller_words(turn.turn_id, event.text)
        return turn.turn_id

    def discarded(self, event: TurnDiscarded, *, why: str | None = None) -> None:
        """Discard a turn that the provider dropped, for the provider's reason or for `why`."""
        self._begun.pop(event.item, None)
        self._backchannels.discard(event.item)
        if self.speaking == event.item:
            self.caller_silent()
        turn = next((turn for turn in self._queue if turn.item == event.item), None)
        if turn is not None:
            self._drop(turn, why or event.why, TurnDiscarded)
        elif event.item not in self._seen:
            self._mark_seen(event.item)
            self._state.record("turn.discarded", item=event.item, why=why or event.why)

    def stop_waiting_for(self, item: str) -> None:
        """Stop waiting for a turn's words and for its predecessor."""
        for turn in self._queue:
            if turn.item == item:
                turn.awaits_predecessor = False
                if not turn.words_known:
                    turn.words_known, turn.text_missing = True, _TIMEOUT

    def mark_backchannel(self, item: str) -> None:
        """Note that what the caller says under `item` was too short to interrupt."""
        if len(self._backchannels) < _MAX_PENDING:
            self._backchannels.add(item)

    def note_interruption(self, heard: str | None) -> None:
        """Note how much was heard of the speech that the caller interrupts; None when a new speech begins."""
        self._heard, self._interrupting = heard, None

    def correct_interruption(self, heard: str) -> None:
        """Correct how much was heard of the interrupted speech, also on the turn that carries it already."""
        if self._heard is not None:
            self._heard = heard
        elif self._interrupting is not None:
            self._interrupting.heard = heard

    def discard_unfinished(self, why: str) -> None:
        """Discard what the caller was saying: the provider's session that heard it is lost."""
        for item in list(self._begun):
            self.discarded(TurnDiscarded(item=item, why="cleared"), why=why)
        self.caller_silent()

    # --- the way to the handler

    def accept_ready(self) -> None:
        """Accept every turn whose words are known and whose predecessors are accepted."""
        while self._queue:
            turn = self._head()
            if not turn.words_known or self._predecessor_missing(turn):
                return
            self._queue.remove(turn)
            self._state.timers.clear(TimerKind.TURN, turn.item)
            self._accept(turn)

    @property
    def has_pending(self) -> bool:
        """Whether a committed turn still waits for its words or its predecessor."""
        return bool(self._queue)

    @property
    def speaking_since(self) -> float | None:
        """When the caller began what it is saying, seconds of the machine's clock; None while it is silent."""
        begun = None if self.speaking is None else self._begun.get(self.speaking)
        return None if begun is None else begun[0]

    def is_begun(self, item: str) -> bool:
        """Return whether an item has begun and was not committed or discarded."""
        return item in self._begun

    def is_known(self, item: str) -> bool:
        """Return whether an item was committed or discarded."""
        return item in self._seen

    def ignore_item(self, item: str) -> None:
        """Ignore an item that the machine put into the conversation: a provider's events about it are no turn."""
        self._mark_seen(item)

    def find(self, item: str) -> TurnRecord | None:
        """Return the turn of an item unless it is closed."""
        return next((turn for turn in (*self._queue, *self.open.values()) if turn.item == item), None)

    def pending_texts(self) -> list[str]:
        """Return the known words of turns that are not accepted yet."""
        return [turn.text for turn in self._queue if turn.words_known and turn.text]

    def has_newer(self, turn: TurnRecord | None) -> bool:
        """Return whether a newer turn than this one exists, backchannels not counted."""
        newest = self._newest_request
        return turn is not None and newest is not None and newest.number > turn.number

    def take(self) -> TurnValue | None:
        """Give the next turn to the handler; it releases the one before. None if no turn waits."""
        if not self.waiting:
            return None
        turn = self.waiting.pop(0)
        self.release()
        turn.enter(HandlerInput)
        self.current = turn
        return turn.value(self._state.offset)

    def release(self, problem: Mapping[str, Any] | None = None) -> None:
        """Note that the handler has finished with the turn it took, or failed in it."""
        if self.current is not None and not self.current.released:
            self.current.released = True
            self.current.problem = problem

    def return_current(self) -> None:
        """Let the turn of a lost handler run wait again, as another attempt, unless it was finished."""
        turn, self.current = self.current, None
        if turn is None or turn.released or turn.stage is not TurnStage.TAKEN:
            return
        turn.enter(HandlerLost)
        turn.attempt += 1
        if turn.late_text is not None:
            turn.text, turn.text_missing = turn.late_text, None
        self.waiting.insert(0, turn)

    def restore(self, turns: tuple[OpenTurnSnapshot, ...], count: int) -> None:
        """Restore open turns after a restart; the handler may have taken the oldest one, so it is a second attempt."""
        self.count = count
        for index, known in enumerate(turns):
            turn = TurnRecord(known.item, None, self._state.now, self._state.now, self._state.now, words_known=True)
            turn.text, turn.text_missing = known.text, known.text_missing
            turn.turn_id, turn.number = known.turn_id, known.number
            turn.enter(Condition.RESTORED)
            turn.attempt = 2 if index == 0 else 1
            # a conversation that is attached to again may hold the answer already; a replacement does not
            turn.answered = self._state.model_floor and not self._state.can_rotate
            self._mark_seen(turn.item)
            self.waiting.append(turn)
            self.open[turn.turn_id] = turn
            self.newest = self._newest_request = turn

    def close(self, turn: TurnRecord, trigger: Trigger = Condition.TURN_DONE) -> None:
        """Close the execution of a turn that is done."""
        turn.enter(trigger)
        self.open.pop(turn.turn_id, None)
        output = {"text": turn.text, "text_missing": turn.text_missing, "spoken": list(turn.spoken)}
        if turn.usage:
            output |= turn.usage.as_json()
        problem = turn.problem or turn.answer_problem
        status: Literal["succeeded", "failed"] = "failed" if problem else "succeeded"
        self._state.emit(CloseTurn(turn_id=turn.turn_id, status=status, output=output, problem=problem))

    def drop_waiting(self) -> None:
        """Forget the turns that wait: the handler takes no more."""
        self._queue.clear()
        self.waiting.clear()
        self.caller_silent()

    def close_all(self) -> None:
        """Close every open turn at the end of the session: finished ones normally, the others as cancelled."""
        problem = self._state.ended_error().to_problem()
        for turn in list(self.open.values()):
            answered = turn.answered and (turn.spoken or turn.answer_problem is not None)
            if turn.released or (self._state.model_floor and answered):
                self.close(turn, Condition.SESSION_ENDED)
                continue
            turn.enter(Condition.SESSION_ENDED)
            self.open.pop(turn.turn_id)
            self._state.emit(CloseTurn(turn_id=turn.turn_id, status="cancelled", problem=problem))

    # --- inside

    def _head(self) -> TurnRecord:
        """Return the first turn whose predecessor is not in the queue; the oldest one if they form a cycle."""
        items = {turn.item for turn in self._queue}
        return next((turn for turn in self._queue if turn.previous not in items), self._queue[0])

    def _predecessor_missing(self, turn: TurnRecord) -> bool:
        return turn.awaits_predecessor and turn.previous in self._begun

    def _accept(self, turn: TurnRecord) -> None:
        # on the model's floor an empty transcript of an answered turn is kept: the model heard more than it was written
        words_empty = turn.text is not None and not turn.text.strip()
        if words_empty and not (self._state.model_floor and turn.answered):
            self._drop(turn, "empty", Condition.REJECTED)
            return
        if not self._state.model_floor and len(self.waiting) >= MAX_WAITING:
            self._drop(turn, "too_many", Condition.REJECTED)
            return
        if not turn.turn_id:
            self._open(turn)
        if not turn.turn_id:
            self._drop(turn, "limit", Condition.REJECTED)
            return
        self._announce(turn)

    def _announce(self, turn: TurnRecord) -> None:
        body = {"turn_id": turn.turn_id, "item": turn.item, "text": turn.text, "text_missing": turn.text_missing}
        self._state.record("turn.committed", **body)
        self._state.add_history({"role": "caller", "turn_id": turn.turn_id, "text": turn.text})
        if turn.text_missing == _TIMEOUT:
            self._wordless[turn.item] = turn
            while len(self._wordless) > _MAX_PENDING:
                self._wordless.popitem(last=False)
        if len(self.waiting) < MAX_WAITING:
            turn.enter(Condition.WORDS_KNOWN)
            self.waiting.append(turn)

    def _open(self, turn: TurnRecord) -> None:
        limit = self._state.config.declaration.limits.turns
        if limit is not None and self.count >= limit:
            self.over_limit = True
            return
        self.count += 1
        turn.number = self.count
        turn.turn_id = self._state.ids("exe")
        self.open[turn.turn_id] = turn
        self.newest = turn
        if not turn.backchannel:
            self._newest_request = turn
        self._state.emit(
            OpenTurn(
                turn_id=turn.turn_id,
                item=turn.item,
                number=turn.number,
                text=turn.text,
                text_missing=turn.text_missing,
            )
        )

    def _drop(self, turn: TurnRecord, why: str, trigger: Trigger) -> None:
        if turn in self._queue:
            self._queue.remove(turn)
        self._state.timers.clear(TimerKind.TURN, turn.item)
        self._discard(turn, why, trigger)

    def _discard(self, turn: TurnRecord, why: str, trigger: Trigger) -> None:
        turn.enter(trigger)
        self._state.record("turn.discarded", item=turn.item, why=why)
        if self.open.pop(turn.turn_id, None) is None:
            return
        if self.newest is turn:
            self.newest = max(self.open.values(), key=lambda other: other.number, default=None)
        if self._newest_request is turn:
            asking = [other for other in self.open.values() if not other.backchannel]
            self._newest_request = max(asking, key=lambda other: other.number, default=None)
        problem = {"code": "turn_discarded", "status": 409, "title": "turn discarded", "detail": f"discarded: {why}"}
        self._state.emit(CloseTurn(turn_id=turn.turn_id, status="cancelled", problem=problem))

    def _mark_seen(self, item: str) -> None:
        self._seen[item] = None
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
