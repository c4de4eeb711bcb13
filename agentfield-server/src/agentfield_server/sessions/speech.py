"""The one reply slot of a session: what is asked for is said in order, one at a time, and told as it was heard."""

from __future__ import annotations

from collections import OrderedDict, deque
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
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.effects import ResolveReply, ResolveSpeech, Spoken
from agentfield_server.sessions.manners import is_stale, must_wait
from agentfield_server.sessions.turns import TurnBook, TurnRecord
from agentfield_server.sessions.utterance import Speech, SpeechKind
from agentfield_server.sessions.words import speaking_seconds

__all__ = ["Sequencer"]

_START_WAIT = 15.0
_STALL_WAIT = 60.0
_PLAYOUT_FALLBACK = 15.0
_STOP_WAIT = 3.0
_HEARD_WAIT = 0.6
_RETRY_AFTER = 0.5
_MAX_TRIES = 5
_FOREIGN_WAIT = 10.0
_MAX_QUEUE = 64
_REMEMBERED = 128


class Sequencer:
    """Queue, the speech that was sent and has not begun, and the speech that is being generated or heard."""

    def __init__(self, board: Board, turns: TurnBook) -> None:
        self._board = board
        self._turns = turns
        self.queue: deque[Speech] = deque()
        self.sent: Speech | None = None
        self.active: Speech | None = None
        self.parked: dict[str, tuple[Speech, Spoken]] = {}
        """By reply: asked replies that called tools; answered when the model has spoken about the results."""
        self._replies: OrderedDict[str, Speech] = OrderedDict()
        self._foreign: set[str] = set()
        self._waiting_retry = False

    # --- asking

    def ask(self, kind: SpeechKind, **fields: Any) -> Speech | None:
        """Queue a speech; None when too many wait already (its command is refused)."""
        speech = Speech(id=self._board.ids("spk"), kind=kind, **fields)
        if len(self.queue) >= _MAX_QUEUE:
            self._finish(speech, failed="too_many_speeches")
            return None
        self.queue.append(speech)
        return speech

    def take_back(self, op_id: str | None) -> None:
        """Stop the speech of a command, or all speeches of the handler, wherever they are."""
        self.take_back_queued(op_id)
        if self.sent is not None and op_id in (None, self.sent.op_id):
            self.sent.unwanted = True
        if self.active is not None and op_id in (None, self.active.op_id):
            self.stop_active()

    def take_back_queued(self, op_id: str | None = None) -> None:
        """Stop speeches of the handler that nobody has begun."""
        self._unsay([s for s in self.queue if op_id in (None, s.op_id) and s.kind in ("say", "reply")])

    def stop_active(self) -> None:
        """Stop what is being said."""
        speech = self.active
        if speech is None or speech.reply is None or speech.interrupted:
            return
        speech.cut(self._board.now)
        self._board.send(CancelReply(reply=speech.reply, heard_ms=speech.heard_ms))
        self._after_cut(speech)

    def clear_queue(self, *, but: SpeechKind | None = None) -> None:
        """Nothing of what waits will be said, except speeches of the kind `but`."""
        self._unsay([s for s in self.queue if s.kind != but])

    def drop_all(self, failed: str) -> None:
        """The provider's end is gone: whatever is under way is over."""
        self.clear_queue()
        self.drop_current(failed)
        for speech, spoken in list(self.parked.values()):
            self._answer(speech, spoken)
        self.parked.clear()

    def drop_current(self, failed: str) -> None:
        """The provider's conversation is gone, and with it what was being said in it."""
        for speech in (self.active, self.sent):
            if speech is not None:
                speech.cut(self._board.now)
                self._finish(speech, failed=failed)
        self._foreign.clear()

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

    def busy(self, turn: TurnRecord) -> bool:
        """Tell whether a turn has speeches that are not over."""
        current = [self.active, self.sent, *self.queue, *(speech for speech, _ in self.parked.values())]
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
        return speech

    def lost(self, speech_id: str, asked: str | None) -> None:
        """Close the record of a speech of an earlier control plane: nobody knows how much of it was heard."""
        unknown = dict.fromkeys(("verbatim", "heard_ms", "heard_text", "heard_method"))
        told = {"generated": "", "interrupted": False, "stale": False, "failed": "control_plane_restart"}
        self._board.record("speech.ended", speech_id=speech_id, asked=asked, remaining="", **unknown, **told)

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
        speech.has_audio, speech.tool_calls = event.audio, event.tools
        if event.status == "incomplete":
            speech.incomplete = event.why or "incomplete"
        if event.status == "failed":
            self._finish(speech, failed=event.why or "failed")
        elif event.status == "cancelled" or speech.interrupted:
            self._cancelled(speech, by_caller=event.why == "interrupted", audio=event.audio)
        elif event.audio and not speech.played:
            self._await_playout(speech)
        else:
            self._finish(speech)

    def interrupted(self, event: Interrupted) -> None:
        """The caller spoke over a reply."""
        speech = self._current(event.reply)
        if speech is None:
            return
        speech.cut(self._board.now, event.heard_ms, event.method)
        self._turns.cut_speech = speech.heard
        if self._board.media != "direct":
            self._board.send(CancelReply(reply=event.reply, heard_ms=speech.heard_ms))
        self._after_cut(speech)

    def caller_spoke(self) -> None:
        """The caller began to speak; where the provider does not stop by itself, we stop it."""
        speech = self.active
        wanted = self._board.capabilities.interruption == "client"
        if speech is None or not (wanted and speech.interruptible) or speech.interrupted:
            return
        speech.cut(self._board.now)
        self._turns.cut_speech = speech.heard
        self._board.send(CancelReply(reply=speech.reply or "", heard_ms=speech.heard_ms))
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
                speech.played = True
                if speech.ended:
                    self._finish(speech)
            case PlayoutCleared():
                speech.cut(self._board.now)
                self._after_cut(speech)

    def fault(self, event: ProviderFault) -> bool:
        """The provider refused a command; tells whether it was one of ours."""
        speech = self.sent
        if speech is None or event.command != speech.id:
            return False
        if event.retry and speech.tries < _MAX_TRIES and not speech.unwanted:
            self.sent = None
            self._board.timers.clear("speech:start")
            self.queue.appendleft(speech)
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
        self._drop_stale()
        if self.active is None and self.sent is None:
            self._switch_interruption()
        if (
            self.queue
            and self.free
            and not self._waiting_retry
            and not must_wait(self.queue[0], self._turns, self._board)
        ):
            self._send(self.queue.popleft())

    # --- inside

    def _unsay(self, speeches: list[Speech]) -> None:
        for speech in speeches:
            self.queue.remove(speech)
            speech.interrupted = True
            self._finish(speech)

    def _drop_stale(self) -> None:
        for speech in [s for s in self.queue if is_stale(s, self._turns)]:
            self.queue.remove(speech)
            self._finish(speech, stale=True)

    def _switch_interruption(self) -> None:
        wanted = self.queue[0].interruptible if self.queue and self.free else True
        if wanted != self._board.interruptible:
            self._board.interruptible = wanted
            self._board.send(Update(interruptible=wanted))

    def _send(self, speech: Speech) -> None:
        speech.tries += 1
        self.sent = speech
        self._board.timers.set("speech:start", self._board.now + _START_WAIT)
        self._record_start(speech)
        if speech.asked is not None:
            self._board.send(Say(id=speech.id, text=speech.asked, interruptible=speech.interruptible))
        else:
            self._board.send(Reply(id=speech.id, instructions=speech.instructions, tools=speech.tools))

    def _record_start(self, speech: Speech) -> None:
        if not speech.recorded:
            speech.recorded = True
            turn_id = speech.turn.turn_id if speech.turn else None
            self._board.record(
                "speech.started", speech_id=speech.id, kind=speech.kind, asked=speech.asked, turn_id=turn_id
            )

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
        self._turns.cut_speech = None
        self._replies[reply] = speech
        while len(self._replies) > _REMEMBERED:
            self._replies.popitem(last=False)
        self._board.timers.set("speech", self._board.now + _STALL_WAIT)
        self._record_start(speech)
        if speech.turn is not None:
            speech.turn.answered = True
        if speech.unwanted:
            self.stop_active()

    def _foreign_reply(self, reply: str) -> None:
        self._board.warn("unasked_reply", "the provider began a reply that nobody asked for; it was stopped")
        self._foreign.add(reply)
        self._board.timers.set("speech:foreign", self._board.now + _FOREIGN_WAIT)
        self._board.send(CancelReply(reply=reply))

    def _current(self, reply: str) -> Speech | None:
        return self.active if self.active is not None and self.active.reply == reply else None

    def _cancelled(self, speech: Speech, *, by_caller: bool, audio: bool) -> None:
        """Generation was cut; how much was heard may be told a moment later."""
        told = speech.interrupted
        speech.cut(self._board.now)
        if by_caller and self._turns.cut_speech is None:
            self._turns.cut_speech = speech.heard
        if by_caller and audio and not told:
            self._board.timers.set("speech", self._board.now + _HEARD_WAIT)
        else:
            self._finish(speech)

    def _await_playout(self, speech: Speech) -> None:
        since = speech.playing_since or self._board.now
        fallback = max(self._board.now, since + speaking_seconds(speech.words)) + _PLAYOUT_FALLBACK
        self._board.timers.set("speech", fallback)

    def _overdue(self, speech: Speech) -> None:
        if speech.interrupted or speech.ended:
            self._finish(speech)
        else:
            self._board.warn("reply_stalled", f"the provider sent nothing of {speech.id} for {_STALL_WAIT:g} s")
            self._board.send(CancelReply(reply=speech.reply or ""))
            self._finish(speech, failed="provider_timeout")

    def _after_cut(self, speech: Speech) -> None:
        if speech.ended:
            self._finish(speech)
        else:
            self._board.timers.set("speech", self._board.now + _STOP_WAIT)

    def _finish(self, speech: Speech, *, failed: str | None = None, stale: bool = False) -> None:
        failed = failed or speech.incomplete
        if self.active is speech:
            self.active = None
            self._board.timers.clear("speech")
        if self.sent is speech:
            self.sent = None
            self._board.timers.clear("speech:start")
        if speech.interrupted and self._turns.cut_speech is not None:
            self._turns.cut_speech = speech.heard
        spoken = speech.spoken(self._board.now, self._board.media, failed=failed, stale=stale)
        self._board.record("speech.ended", speech_id=speech.id, **spoken.as_json())
        if spoken.generated:
            self._board.remember(speech.told(spoken))
        clean = failed is None and not spoken.interrupted
        if clean and speech.tool_calls and speech.op_id is not None and speech.reply is not None:
            self.parked[speech.reply] = (speech, spoken)
        else:
            self._answer(speech, spoken)

    def _answer(self, speech: Speech, spoken: Spoken) -> None:
        if speech.op_id is not None:
            if speech.kind == "reply":
                self._board.ops.answer(ResolveReply(speech.op_id, spoken, tuple(speech.called)))
            else:
                self._board.ops.answer(ResolveSpeech(speech.op_id, spoken))

    def unpark(self, reply: str) -> None:
        """Answer an asked reply with what it was before its tools; the model will say no more about it."""
        parked = self.parked.pop(reply, None)
        if parked is not None:
            self._answer(*parked)
