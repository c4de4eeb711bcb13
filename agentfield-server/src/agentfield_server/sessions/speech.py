"""The one reply slot of a session: what is asked for is said in order, one at a time, and told as it was heard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agentfield.realtime.commands import CancelReply, Reply, Say, Update
from agentfield.realtime.events import (
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
)
from agentfield_server.sessions.answers import Answers
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.queueing import SpeechQueue
from agentfield_server.sessions.turns import TurnBook, TurnRecord
from agentfield_server.sessions.utterance import Speech, SpeechKind

__all__ = ["NO_LISTENER", "Sequencer"]

NO_LISTENER = "no_listener"
"""Code of the fault of a speech that nobody would hear."""

_START_WAIT = 15.0
_STALL_WAIT = 60.0
_PLAYOUT_FALLBACK = 15.0
_STOP_WAIT = 3.0
_HEARD_WAIT = 0.6
_RETRY_AFTER = 0.5
_MAX_TRIES = 5
_FOREIGN_WAIT = 10.0
_REMEMBERED = 128


class Sequencer:
    """Queue, the speech that was sent and has not begun, and the speech that is being generated or heard."""

    def __init__(self, board: Board, turns: TurnBook) -> None:
        self._board = board
        self._turns = turns
        self.queue = SpeechQueue(board, turns, unsaid=self._finish, stale=lambda late: self._finish(late, stale=True))
        self.sent: Speech | None = None
        self.active: Speech | None = None
        self.answers = Answers(board)
        self.on_cut: Callable[[str], None] = lambda _reply: None
        """Told of each reply that we stop because the caller speaks over it."""
        self._replies: OrderedDict[str, Speech] = OrderedDict()
        self._foreign: set[str] = set()
        self._waiting_retry = False

    # --- asking

    def ask(self, kind: SpeechKind, **fields: Any) -> Speech | None:
        """Queue a speech; None when too many wait already (its command is refused)."""
        speech = Speech(id=self._board.ids("spk"), kind=kind, **fields)
        if self.queue.full:
            self._finish(speech, failed="too_many_speeches")
            return None
        self.queue.add(speech)
        return speech

    def take_back(self, op_id: str | None) -> None:
        """Stop the speech of a command, or all speeches of the handler, wherever they are."""
        self.queue.take_back(op_id)
        if self.sent is not None and op_id in (None, self.sent.op_id):
            self.sent.unwanted = True
        if self.active is not None and op_id in (None, self.active.op_id):
            self.stop_active()

    def stop_active(self) -> None:
        """Stop what is being said."""
        speech = self.active
        if speech is None or speech.reply is None or speech.interrupted:
            return
        speech.cut(self._board.now)
        self._board.send(CancelReply(reply=speech.reply, heard_ms=speech.heard_ms))
        self._after_cut(speech)

    def cut_by_caller(self) -> None:
        """Stop what is being said because the caller speaks, unless nothing may stop it."""
        speech = self.active
        if speech is None or speech.reply is None or speech.interrupted or not speech.interruptible:
            return
        speech.by_caller = True
        self.stop_active()
        self._turns.cut(speech.heard)
        self.on_cut(speech.reply)

    def overtake(self, *, whole: bool) -> None:
        """The caller speaks (or has spoken, `whole`) before what was sent has begun."""
        speech = self.sent
        if speech is not None and speech.interruptible:
            speech.overtaken = True
            speech.unwanted = speech.unwanted or whole
            speech.by_caller = speech.by_caller or whole

    def drop_all(self, failed: str) -> None:
        """The provider's end is gone: whatever is under way is over."""
        self.queue.clear()
        self.drop_current(failed)
        self.answers.unpark_all()

    def drop_current(self, failed: str) -> None:
        """The provider's conversation is gone, and with it what was being said in it."""
        for speech in (self.active, self.sent):
            if speech is not None:
                speech.cut(self._board.now)
                self._finish(speech, failed=failed)
        self._foreign.clear()

    def move(self, failed: str) -> Speech | None:
        """Another session at the provider takes over: what had not begun will be sent there, what had begun failed.

        Returns:
            What was being said.
        """
        under_way, waiting = self.active, self.sent
        if under_way is not None and under_way.reply is not None and not under_way.interrupted:
            under_way.cut(self._board.now)
            self._board.send(CancelReply(reply=under_way.reply, heard_ms=under_way.heard_ms))
        if waiting is not None and not waiting.unwanted:
            self.sent = None
            self._board.timers.clear("speech:start")
            self.queue.put_back(waiting)
        self.drop_current(failed)
        return under_way

    # --- reading

    @property
    def free(self) -> bool:
        """Whether the reply slot is free."""
        return self.active is None and self.sent is None and not self._foreign

    @property
    def quiet(self) -> bool:
        """Whether nothing is said and nothing waits."""
        return self.active is None and self.sent is None and not self.queue

    @property
    def uninterruptible(self) -> bool:
        """Whether something is being said that the caller cannot interrupt."""
        return any(s is not None and not s.interruptible for s in (self.active, self.sent))

    @property
    def interruptible(self) -> bool:
        """Whether something is being said, or about to be, that the caller can interrupt."""
        return any(s is not None and s.interruptible and not s.interrupted for s in (self.active, self.sent))

    def busy(self, turn: TurnRecord) -> bool:
        """Tell whether a turn has speeches that are not over."""
        current = [
            self.active,
            self.sent,
            *self.queue.speeches,
            *(speech for speech, _ in self.answers.parked.values()),
        ]
        return any(speech is not None and speech.turn is turn for speech in current)

    def generating(self, reply: str) -> bool:
        """Tell whether a reply may still call more tools."""
        return self.active is not None and self.active.reply == reply and not self.active.ended

    def origin(self, reply: str) -> Speech | None:
        """Return the speech that a reply belongs to."""
        return self._replies.get(reply)

    # --- what the provider tells

    def started(self, event: ReplyStarted) -> Speech | None:
        """A reply begins; returns the speech that holds the slot for it, None when it is not wanted."""
        if event.reply in self._replies or event.reply in self._foreign:
            return None
        speech = self._claim(event)
        if speech is None:
            self._foreign_reply(event.reply)
            return None
        self._begin(speech, event.reply)
        if not speech.own:
            self.queue.drop_overtaken()
        return speech

    def transcript(self, event: ReplyTranscript) -> None:
        """Words of a reply."""
        speech = self._current(event.reply)
        if speech is None or speech.ended:
            return
        speech.words = event.text if event.final else speech.words + event.text
        self._board.timers.set("speech", self._board.now + _STALL_WAIT)

    def ended(self, event: ReplyEnded) -> None:
        """Generation of a reply is over."""
        self._foreign.discard(event.reply)
        if self.sent is not None and event.command == self.sent.id and event.reply not in self._replies:
            self._begin(self.sent, event.reply)
        speech = self._current(event.reply)
        if speech is None or speech.ended:
            return
        speech.ended = True
        speech.words = speech.words if event.text is None else event.text
        speech.has_audio, speech.audio_ms, speech.tool_calls = event.audio, event.audio_ms, event.tools
        if event.status == "incomplete":
            speech.incomplete = event.why or "incomplete"
        if event.status == "failed":
            self._finish(speech, failed=event.why or "failed")
        elif event.status == "cancelled" or speech.interrupted:
            self._cancelled(speech, by_caller=event.why == "interrupted")
        elif event.audio and not speech.played:
            self._await_playout(speech)
        else:
            self._finish(speech)

    def interrupted(self, event: Interrupted) -> None:
        """A reply was cut short, and this is how much of it was heard; never asks for more to be stopped."""
        speech = self._current(event.reply)
        if speech is None:
            return
        known = speech.interrupted
        speech.cut(self._board.now, event.heard_ms, event.method)
        speech.measured = True
        if not known:
            speech.by_caller = True
            self._turns.cut(speech.heard)
        elif speech.by_caller:
            self._turns.measured(speech.heard)
        self._after_cut(speech)

    def playout(self, event: PlayoutStarted | PlayoutStopped | PlayoutCleared) -> None:
        """What the caller hears of a reply."""
        speech = self._current(event.reply)
        if speech is None:
            return
        match event:
            case PlayoutStarted():
                speech.playing_since = speech.playing_since or self._board.now
            case PlayoutStopped():
                speech.played = event.method or ("wallclock" if self._board.carried else "provider")
                if speech.ended:
                    self._finish(speech)
            case PlayoutCleared():
                speech.cut(self._board.now)
                speech.measured = True
                self._after_cut(speech)

    def fault(self, event: ProviderFault) -> bool:
        """The provider refused a command; tells whether it was one of ours."""
        speech = self.sent
        if speech is None or event.command != speech.id:
            return False
        again = event.retry and event.code != NO_LISTENER
        if again and speech.tries < _MAX_TRIES and not speech.unwanted:
            self.sent = None
            self._board.timers.clear("speech:start")
            self.queue.put_back(speech)
            self._waiting_retry = True
            self._board.timers.set("speech:retry", self._board.now + _RETRY_AFTER)
        else:
            self._finish(speech, failed=event.code)
        return True

    # --- time

    def fire(self, timer: str) -> None:
        """A deadline of the sequencer has passed."""
        match timer:
            case "speech:retry":
                self._waiting_retry = False
            case "speech:start" if self.sent is not None:
                self._board.warn("reply_not_started", f"the provider did not begin {self.sent.id} in {_START_WAIT:g} s")
                self._finish(self.sent, failed="provider_timeout")
            case "speech:foreign":
                self._foreign.clear()
            case "speech" if self.active is not None:
                self._overdue(self.active)

    def pump(self) -> None:
        """Send the next speech when the slot is free and nothing speaks against it."""
        if not self._board.attached:
            return
        self.queue.drop_stale()
        if self.active is None and self.sent is None:
            self._switch_interruption()
        if self.free and not self._waiting_retry and (speech := self.queue.ready()) is not None:
            self._send(speech)

    # --- inside

    def _switch_interruption(self) -> None:
        head = self.queue.head
        wanted = head.interruptible if head is not None and self.free else True
        if wanted != self._board.interruptible:
            self._board.interruptible = wanted
            self._board.send(Update(interruptible=wanted))

    def _send(self, speech: Speech) -> None:
        speech.tries += 1
        self.sent = speech
        self._board.timers.set("speech:start", self._board.now + _START_WAIT)
        self.answers.begin(speech)
        if speech.asked is not None:
            self._board.send(Say(id=speech.id, text=speech.asked, interruptible=speech.interruptible))
        else:
            self._board.send(Reply(id=speech.id, instructions=speech.instructions, tools=speech.tools))

    def _claim(self, event: ReplyStarted) -> Speech | None:
        if self.sent is not None and event.command == self.sent.id:
            return self.sent
        if event.command is None and self._board.model_floor and not self._board.over:
            return Speech(id=self._board.ids("spk"), kind="reply", turn=self._turns.newest, own=False)
        return None

    def _begin(self, speech: Speech, reply: str) -> None:
        if self.active is not None:
            self._finish(self.active, failed=None if self.active.ended else "superseded")
        if self.sent is speech:
            self.sent = None
            self._board.timers.clear("speech:start")
        speech.reply = reply
        self.active = speech
        self._turns.cut(None)
        self._replies[reply] = speech
        while len(self._replies) > _REMEMBERED:
            self._replies.popitem(last=False)
        self._board.timers.set("speech", self._board.now + _STALL_WAIT)
        self.answers.begin(speech)
        if speech.turn is not None:
            speech.turn.answered = True
        if speech.unwanted:
            self.stop_active()
            if speech.by_caller:
                self._turns.cut(speech.heard)
        elif speech.overtaken and self._turns.speaking is not None:
            self.cut_by_caller()

    def _foreign_reply(self, reply: str) -> None:
        self._board.warn("unasked_reply", "the provider began a reply that nobody asked for; it was stopped")
        self._foreign.add(reply)
        self._board.timers.set("speech:foreign", self._board.now + _FOREIGN_WAIT)
        self._board.send(CancelReply(reply=reply))

    def _current(self, reply: str) -> Speech | None:
        return self.active if self.active is not None and self.active.reply == reply else None

    def _cancelled(self, speech: Speech, *, by_caller: bool) -> None:
        """Generation was cut; how much was heard may be told a moment later."""
        known = speech.interrupted
        speech.cut(self._board.now)
        if by_caller and not known:
            speech.by_caller = True
            self._turns.cut(speech.heard)
            if self._board.carried:
                # what was generated before is still on its way to the caller
                self._board.send(CancelReply(reply=speech.reply or "", heard_ms=speech.heard_ms))
        if self._board.carried or (by_caller and not known):
            self._await_measure(speech)
        else:
            self._finish(speech)

    def _await_measure(self, speech: Speech) -> None:
        if speech.has_audio and not speech.measured:
            self._board.timers.set("speech", self._board.now + _HEARD_WAIT)
        else:
            self._finish(speech)

    def _await_playout(self, speech: Speech) -> None:
        since = speech.playing_since or self._board.now
        fallback = max(self._board.now, since + speech.seconds) + _PLAYOUT_FALLBACK
        self._board.timers.set("speech", fallback)

    def _overdue(self, speech: Speech) -> None:
        if speech.interrupted or speech.ended:
            self._finish(speech)
        else:
            self._board.warn("reply_stalled", f"the provider sent nothing of {speech.id} for {_STALL_WAIT:g} s")
            self._board.send(CancelReply(reply=speech.reply or ""))
            self._finish(speech, failed="provider_timeout")

    def _after_cut(self, speech: Speech) -> None:
        if not speech.ended:
            self._board.timers.set("speech", self._board.now + _STOP_WAIT)
        elif self._board.carried:
            self._await_measure(speech)
        else:
            self._finish(speech)

    def _finish(self, speech: Speech, *, failed: str | None = None, stale: bool = False) -> None:
        failed = failed or speech.incomplete
        if self.active is speech:
            self.active = None
            self._board.timers.clear("speech")
        if self.sent is speech:
            self.sent = None
            self._board.timers.clear("speech:start")
        if speech.by_caller:
            self._turns.measured(speech.heard)
        self.answers.close(speech, failed=failed, stale=stale)
