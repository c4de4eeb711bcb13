"""The reply slot of a session: speeches are spoken in order, one at a time, and recorded as they were heard.

A provider generates one reply at a time. A speech is queued, sent, begun, generated and finished; `sent` and `active`
are the slot. A speech is finished when it is known how much of it the caller heard, not when it is generated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from agentfield.realtime.commands import CancelReplyCommand, ReplyCommand, SayCommand
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
from agentfield_server.sessions.conversation.speech.answer_failures import AnswerFailures, retry_pause
from agentfield_server.sessions.conversation.speech.call_opening import CallOpening
from agentfield_server.sessions.conversation.speech.log import SpeechLog
from agentfield_server.sessions.conversation.speech.playback_wait import STALL_WAIT, PlaybackWait
from agentfield_server.sessions.conversation.speech.policy import is_superseded
from agentfield_server.sessions.conversation.speech.queue import SpeechQueue
from agentfield_server.sessions.conversation.speech.unasked_replies import UnaskedReplies
from agentfield_server.sessions.conversation.speech.utterance import SpeechKind, Utterance
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.transitions import Condition, UtteranceStage
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["NO_LISTENER", "SpeechSequencer"]

NO_LISTENER = "no_listener"
"""Fault code of a speech without a listener."""

_START_WAIT = 15.0
"""Seconds within which the provider must begin a speech that was sent."""
_REMEMBERED = 128


class SpeechSequencer:
    """The queue, the speech that was sent and has not begun, and the speech that is generated or heard.

    Args:
        state: State shared with the other parts.
        turns: Turns that speeches answer, and whose interruptions are noted.
    """

    def __init__(self, state: MachineState, turns: TurnTracker) -> None:
        self._state = state
        self._turns = turns
        self.queue = SpeechQueue(
            state, turns, cancelled=self._finish, stale=lambda late: self._finish(late, stale=True)
        )
        self.sent: Utterance | None = None
        """The speech that was sent and has not begun."""
        self.active: Utterance | None = None
        """The speech that is generated or heard."""
        self.log = SpeechLog(state)
        self._failures = AnswerFailures(state, self.enqueue)
        self.opening = CallOpening(state, turns)
        self.on_interrupt: Callable[[str], None] = lambda _reply: None
        """Called with each reply that the machine stops because the caller interrupts."""
        self._replies: OrderedDict[str, Utterance] = OrderedDict()
        self.unasked = UnaskedReplies(state, turns)
        self._waiting_retry = False
        self._wait = PlaybackWait(state)

    # --- requests

    def enqueue(self, kind: SpeechKind, **fields: Any) -> Utterance | None:
        """Queue a speech with the fields of an `Utterance`; None if the queue is full, which fails the speech."""
        speech = Utterance(id=self._state.ids("spk"), kind=kind, **fields)
        if self.queue.full:
            self._fail(speech, "too_many_speeches")
            return None
        self.queue.add(speech)
        return speech

    def cancel(self, op_id: str | None) -> None:
        """Cancel the speech of a command, or all speeches: queued, sent or under way."""
        self.queue.cancel(op_id)
        if self.sent is not None and op_id in (None, self.sent.op_id):
            self.sent.cancelled = True
        if self.active is not None and op_id in (None, self.active.op_id):
            self.stop_active()

    def stop_active(self) -> None:
        """Stop the active speech."""
        speech = self.active
        if speech is None or speech.reply is None or speech.interrupted:
            return
        speech.mark_cut(self._state.now)
        self._state.send(CancelReplyCommand(reply=speech.reply, heard_ms=speech.heard_ms))
        self._after_cut(speech)

    def interrupt(self) -> None:
        """Stop the active speech because the caller speaks, unless it is uninterruptible."""
        speech = self.active
        if speech is None or speech.reply is None or speech.interrupted or not speech.interruptible:
            return
        speech.cut_by_caller = True
        self.stop_active()
        self._turns.note_interruption(speech.heard_text)
        self.on_interrupt(speech.reply)

    def mark_overtaken(self, *, whole: bool) -> None:
        """Note that the caller speaks (with `whole`: has committed a turn) before the sent speech has begun."""
        speech = self.sent
        if speech is not None and speech.interruptible:
            speech.overtaken = True
            speech.cancelled = speech.cancelled or whole
            speech.cut_by_caller = speech.cut_by_caller or whole

    def answered_by_silence(self, turn: TurnRecord) -> None:
        """Drop the requested reply to a turn to which the model chose to say nothing."""
        speech = self.sent
        if speech is not None and speech.turn is turn and speech.kind == "reply":
            self._drop(speech)

    def drop_all(self, failed: str) -> None:
        """End all speeches: the provider's session is gone."""
        self.queue.clear()
        self.drop_current(failed)
        self.log.answer_all()

    def drop_current(self, failed: str) -> None:
        """End the sent and the active speech: the provider's conversation that held them is gone."""
        for speech in (self.active, self.sent):
            if speech is not None:
                speech.mark_cut(self._state.now)
                self._finish(speech, failed=failed)
        self.unasked.clear()

    def rotate(self, failed: str) -> Utterance | None:
        """Prepare for a replacement: the sent speech will be sent again there, the active one fails.

        Returns:
            The speech that was active.
        """
        under_way, waiting = self.active, self.sent
        if under_way is not None and under_way.reply is not None and not under_way.interrupted:
            under_way.mark_cut(self._state.now)
            self._state.send(CancelReplyCommand(reply=under_way.reply, heard_ms=under_way.heard_ms))
        if waiting is not None and not waiting.cancelled:
            self.sent = None
            self._state.timers.clear(TimerKind.SPEECH_START)
            waiting.enter(Condition.RETURNED_TO_QUEUE)
            self.queue.put_back(waiting)
        self.drop_current(failed)
        return under_way

    # --- queries

    @property
    def slot_free(self) -> bool:
        """Whether the reply slot is free."""
        return self.active is None and self.sent is None and not self.unasked

    @property
    def quiet(self) -> bool:
        """Whether no speech is under way or queued."""
        return self.active is None and self.sent is None and not self.queue

    @property
    def uninterruptible(self) -> bool:
        """Whether a speech is sent or active that the caller cannot interrupt."""
        return any(s is not None and not s.interruptible for s in (self.active, self.sent))

    @property
    def interruptible(self) -> bool:
        """Whether a speech is sent or active that the caller can interrupt."""
        return any(s is not None and s.interruptible and not s.interrupted for s in (self.active, self.sent))

    @property
    def buffered(self) -> bool:
        """Whether the active speech is generated, so that only its playback is left, which the control plane can stop."""
        can = self._state.relays_audio and self._state.capabilities.interruption != "none"
        return can and self.active is not None and self.active.generated

    def has_speech_of(self, turn: TurnRecord) -> bool:
        """Return whether a turn has speeches that are not finished."""
        waiting = (speech for speech, _ in self.log.awaiting_tools.values())
        speeches = (self.active, self.sent, *self.queue.speeches, *waiting)
        return any(speech is not None and speech.turn is turn for speech in speeches)

    def is_generating(self, reply: str) -> bool:
        """Return whether a reply may still call more tools."""
        return self.active is not None and self.active.reply == reply and not self.active.generated

    def utterance_of(self, reply: str) -> Utterance | None:
        """Return the speech that a reply belongs to."""
        return self._replies.get(reply)

    # --- events of the provider

    def started(self, event: ReplyStarted) -> Utterance | None:
        """Give the slot to a reply that begins; return its speech, None if the reply was not requested."""
        if event.reply in self._replies or event.reply in self.unasked:
            return None
        speech = self._claim(event)
        if speech is None:
            self.unasked.stop(event.reply)
            return None
        self._begin(speech, event.reply)
        if not speech.requested:
            self.queue.drop_superseded()
            if self.sent is not None and is_superseded(self.sent):
                self.sent.superseded = self.sent.cancelled = True
        return speech

    def transcript(self, event: ReplyTranscript) -> None:
        """Add words of the active reply."""
        speech = self._current(event.reply)
        if speech is None or speech.generated:
            return
        speech.words = event.text if event.final else speech.words + event.text
        self._wait.more()

    def ended(self, event: ReplyEnded) -> None:
        """Take the end of a reply's generation."""
        self.unasked.ended(event.reply)
        # a provider may end a reply without having reported its beginning
        if self.sent is not None and event.command == self.sent.id and event.reply not in self._replies:
            self._begin(self.sent, event.reply)
        speech = self._current(event.reply)
        if speech is None or speech.generated:
            return
        speech.enter(ReplyEnded)
        speech.words = speech.words if event.text is None else event.text
        speech.has_audio, speech.audio_ms, speech.tool_calls = event.audio, event.audio_ms, event.tools
        if event.status == "incomplete":
            speech.incomplete = event.why or "incomplete"
        if event.status == "failed":
            self._fail(speech, event.why or "failed")
        elif event.status == "cancelled" or speech.interrupted:
            self._cancelled(speech, by_caller=event.why == "interrupted")
        elif event.audio and not speech.played:
            self._wait.playout(speech)
            self._stop_if_spoken_over(speech)
        else:
            self._finish(speech)

    def interrupted(self, event: Interrupted) -> None:
        """Take the provider's report that a reply was interrupted, and how much of it was heard; stop nothing more."""
        speech = self._current(event.reply)
        if speech is None:
            return
        known = speech.interrupted
        speech.mark_cut(self._state.now, event.heard_ms, event.method)
        speech.measured = True
        if not known:
            speech.cut_by_caller = True
            self._turns.note_interruption(speech.heard_text)
        elif speech.cut_by_caller:
            self._turns.correct_interruption(speech.heard_text)
        self._after_cut(speech)

    def playout(self, event: PlayoutStarted | PlayoutStopped | PlayoutCleared) -> None:
        """Take a report of what the caller hears of a reply."""
        speech = self._current(event.reply)
        if speech is None:
            return
        match event:
            case PlayoutStarted():
                speech.playing_since = speech.playing_since or self._state.now
            case PlayoutStopped():
                speech.played = event.method or ("wallclock" if self._state.relays_audio else "provider")
                if speech.generated:
                    self._finish(speech)
            case PlayoutCleared():
                speech.mark_cut(self._state.now)
                speech.measured = True
                self._after_cut(speech)

    def fault(self, event: ProviderFault) -> bool:
        """Take the provider's refusal of a command; return whether it was the speech that was sent."""
        speech = self.sent
        if speech is None or event.command != speech.id:
            return False
        again = event.retry and event.code != NO_LISTENER and not speech.cancelled
        pause = retry_pause(speech, event.retry_after) if again else None
        if pause is not None:
            self.sent = None
            self._state.timers.clear(TimerKind.SPEECH_START)
            speech.enter(Condition.RETURNED_TO_QUEUE)
            self.queue.put_back(speech)
            self._waiting_retry = True
            self._state.timers.set(TimerKind.SPEECH_RETRY, self._state.now + pause)
        elif speech.superseded:
            self._drop(speech)
        else:
            self._fail(speech, event.code, event.message, event.retry_after)
        return True

    # --- time

    def fire(self, kind: TimerKind) -> None:
        """Act on a deadline of the reply slot that has passed."""
        match kind:
            case TimerKind.SPEECH_RETRY:
                self._waiting_retry = False
            case TimerKind.SPEECH_START if self.sent is not None and self.sent.superseded:
                self._drop(self.sent)
            case TimerKind.SPEECH_START if self.sent is not None:
                self._state.warn("reply_not_started", f"the provider did not begin {self.sent.id} in {_START_WAIT:g} s")
                self._fail(self.sent, "provider_timeout")
            case TimerKind.SPEECH_FOREIGN:
                self.unasked.clear()
            case TimerKind.SPEECH if self.active is not None:
                self._overdue(self.active)

    def send_next(self) -> None:
        """Send the next speech if the slot is free and the speech need not wait."""
        if not self._state.attached:
            return
        self.queue.drop_stale()
        self._switch_interruption()
        if self.slot_free and not self._waiting_retry and (speech := self.queue.ready()) is not None:
            self._send(speech)

    # --- inside

    def _switch_interruption(self) -> None:
        if not self._state.capabilities.uninterruptible:
            return
        speech = self.active or self.sent or (self.queue.head if self.slot_free else None)
        protected = speech is not None and (
            not speech.interruptible or (speech.asked is not None and self.opening.protects)
        )
        self._state.interruption.set(not protected, self._state.now)

    def _send(self, speech: Utterance) -> None:
        speech.tries += 1
        speech.enter(Condition.SLOT_FREE)
        self.sent = speech
        self._state.timers.set(TimerKind.SPEECH_START, self._state.now + _START_WAIT)
        self.log.begin(speech)
        if speech.asked is not None:
            self._state.send(SayCommand(id=speech.id, text=speech.asked, interruptible=speech.interruptible))
        else:
            self._state.send(ReplyCommand(id=speech.id, instructions=speech.instructions, tools=speech.tools))
        speech.number = self._state.sent

    def _claim(self, event: ReplyStarted) -> Utterance | None:
        if self.sent is not None and event.command == self.sent.id:
            return self.sent
        if self.unasked.accepts(event):
            return Utterance(id=self._state.ids("spk"), kind="reply", turn=self._turns.newest, requested=False)
        return None

    def _fail(self, speech: Utterance, code: str, message: str | None = None, retry_after: float | None = None) -> None:
        """Finish a speech that failed by itself, which may fail the turn that it answers."""
        self._finish(speech, failed=code)
        if not speech.cancelled:
            self._failures.failed(speech, code, message, retry_after)

    def _drop(self, speech: Utterance) -> None:
        """Drop a speech that was sent and has become unnecessary."""
        speech.enter(Condition.RETURNED_TO_QUEUE)
        self._finish(speech, stale=True)

    def _begin(self, speech: Utterance, reply: str) -> None:
        if self.active is not None:
            self._finish(self.active, failed=None if self.active.generated else "superseded")
        if self.sent is speech:
            self.sent = None
            self._state.timers.clear(TimerKind.SPEECH_START)
        speech.enter(ReplyStarted)
        speech.reply, speech.begun_at = reply, self._state.now
        self.active = speech
        self._turns.note_interruption(None)
        self._replies[reply] = speech
        while len(self._replies) > _REMEMBERED:
            self._replies.popitem(last=False)
        self._wait.more()
        self.log.begin(speech)
        if speech.turn is not None:
            speech.turn.answered = True
            if speech.kind == "reply":
                speech.turn.answer_problem = None
        if speech.cancelled:
            self.stop_active()
            if speech.cut_by_caller:
                self._turns.note_interruption(speech.heard_text)
        elif speech.overtaken and self._turns.speaking is not None:
            self.interrupt()

    def _current(self, reply: str) -> Utterance | None:
        return self.active if self.active is not None and self.active.reply == reply else None

    def _cancelled(self, speech: Utterance, *, by_caller: bool) -> None:
        """Take the end of a reply that was cut; how much was heard may be reported a moment later."""
        known = speech.interrupted
        speech.mark_cut(self._state.now)
        if by_caller and not known:
            speech.cut_by_caller = True
            self._turns.note_interruption(speech.heard_text)
            if self._state.relays_audio:
                # audio that was generated before is still queued for the caller: the bridge must drop it
                self._state.send(CancelReplyCommand(reply=speech.reply or "", heard_ms=speech.heard_ms))
        if self._state.relays_audio or (by_caller and not known):
            if self._wait.measure(speech):
                self._finish(speech)
        else:
            self._finish(speech)

    def _stop_if_spoken_over(self, speech: Utterance) -> None:
        """Stop the playback of a reply that the caller has spoken over since it began: nobody else stops it any more.

        A provider that stops its replies itself has nothing to stop once it has generated them.
        """
        since = self._turns.speaking_since
        if self.buffered and since is not None and since >= speech.begun_at and not self.opening.is_early:
            self.interrupt()

    def _overdue(self, speech: Utterance) -> None:
        if speech.interrupted or speech.generated:
            self._finish(speech)
        else:
            self._state.warn("reply_stalled", f"the provider sent nothing of {speech.id} for {STALL_WAIT:g} s")
            self._state.send(CancelReplyCommand(reply=speech.reply or ""))
            self._fail(speech, "provider_timeout")

    def _after_cut(self, speech: Utterance) -> None:
        if self._wait.cut(speech):
            self._finish(speech)

    def _finish(self, speech: Utterance, *, failed: str | None = None, stale: bool = False) -> None:
        failed_here = failed is not None
        failed = failed or speech.incomplete
        if self.active is speech:
            self.active = None
            self._wait.clear()
        if self.sent is speech:
            self.sent = None
            self._state.timers.clear(TimerKind.SPEECH_START)
        if speech.cut_by_caller:
            self._turns.correct_interruption(speech.heard_text)
        self.log.close(speech, failed=failed, stale=stale)
        if speech.stage is UtteranceStage.QUEUED:
            speech.enter(Condition.TAKEN_BACK)
        else:
            speech.enter(Condition.FAILED if failed_here else Condition.OUTCOME_KNOWN)
