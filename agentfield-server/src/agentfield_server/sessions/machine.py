"""The state machine of a session: inputs and the time in, effects out; no clock, no socket, no chance.

Provider events, handler commands, results and deadlines go in through `feed` and `tick`; what is to be done comes
back as a list of effects in order. All rules of a conversation live here and in the parts beside this module.
"""

from __future__ import annotations

from agentfield.plugins.spec import Capabilities, Media
from agentfield.realtime.commands import AddText
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    RateLimit,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    ToolRequested,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    Usage,
    UsageReported,
    Warned,
)
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.bargein import BargeIn
from agentfield_server.sessions.board import Board, IdSource
from agentfield_server.sessions.calls import ToolDesk
from agentfield_server.sessions.costs import Till, Used
from agentfield_server.sessions.effects import Effect
from agentfield_server.sessions.handler import HandlerLoop
from agentfield_server.sessions.life import Life
from agentfield_server.sessions.orders import Orders
from agentfield_server.sessions.prices import Pricer, UsageKind, as_told
from agentfield_server.sessions.rotation import Rotation
from agentfield_server.sessions.speech import NO_LISTENER, Sequencer
from agentfield_server.sessions.turns import TurnBook

__all__ = ["SessionMachine"]


class SessionMachine:
    """One session's rules.

    Args:
        config: The frozen configuration.
        capabilities: What the pair can do.
        media: Who carries the audio.
        ids: Makes identifiers, given their prefix.
        now: The time of creation, seconds of any monotonic clock; every later call uses the same clock.
        offset: Seconds to add to that clock to get seconds since the epoch.
        snapshot: What is known of the session when it goes on after its control plane went away.
        price: Tells what something cost.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        capabilities: Capabilities,
        media: Media,
        ids: IdSource,
        now: float,
        offset: float = 0.0,
        snapshot: i.Snapshot | None = None,
        price: Pricer = as_told,
    ) -> None:
        self.board = Board(config, capabilities=capabilities, media=media, ids=ids, offset=offset, now=now)
        self.turns = TurnBook(self.board)
        self.speech = Sequencer(self.board, self.turns)
        self.calls = ToolDesk(self.board, self.turns, self.speech)
        self.handler = HandlerLoop(self.board, self.turns, self.speech)
        self.bargein = BargeIn(self.board, self.turns, self.speech)
        self.rotation = Rotation(self.board, self.turns, self.speech, self.calls)
        self.till = Till(self.board, price)
        self.life = Life(self.board, self.turns, self.speech, self.calls, self.handler, self.rotation, self.till)
        self.orders = Orders(self.board, self.turns, self.speech, self.calls, self.handler, self.life)
        self._low: set[str] = set()
        self._resumed = snapshot is not None
        if snapshot is not None:
            self._restore(snapshot)

    def feed(self, event: i.Input, now: float) -> list[Effect]:
        """Take an input and return what is to be done."""
        self._advance_to(now)
        self._dispatch(event)
        return self._settled()

    def tick(self, now: float) -> list[Effect]:
        """Let the deadlines fire that have passed; early and repeated calls do nothing."""
        self._advance_to(now)
        return self._settled()

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, None when nothing is awaited."""
        return self.board.timers.next()

    # --- inside

    def _restore(self, snapshot: i.Snapshot) -> None:
        self.handler.epoch = snapshot.handler_epoch
        self.turns.restore(snapshot.open_turns, snapshot.turns)
        self.calls.restore(snapshot)
        self.till.restore(snapshot.used)
        self.board.history.extend(snapshot.history)
        for speech_id, asked in snapshot.open_speeches:
            self.speech.answers.lost(speech_id, asked)
        self.life.restore(snapshot.live_for)

    def _advance_to(self, now: float) -> None:
        self.board.now = max(self.board.now, now)
        while (timer := self.board.timers.pop_due(self.board.now)) is not None:
            self._fire(timer)
            self._settle()

    def _fire(self, timer: str) -> None:
        kind, _, rest = timer.partition(":")
        match kind:
            case "turn":
                self.turns.give_up(rest)
            case "speaking":
                self.turns.silence()
            case "speech":
                self.speech.fire(timer)
            case "filler":
                self.calls.filler_due(rest)
            case "bargein":
                self.bargein.fire()
            case "tools":
                pass  # the desk looks at the time by itself when things settle
            case _:
                self.life.fire(timer)

    def _settled(self) -> list[Effect]:
        self._settle()
        effects, self.board.out = self.board.out, []
        return effects

    def _settle(self) -> None:
        """Let every part do what has become possible; until nothing more happens."""
        before = -1
        while before != len(self.board.out):
            before = len(self.board.out)
            if not self.board.over:
                self.turns.advance()
                self.handler.deliver()
                self.calls.settle()
            self.speech.pump()
            self._close_turns()
            self.life.check()

    def _close_turns(self) -> None:
        for turn in list(self.turns.open.values()):
            if self.speech.busy(turn) or self.calls.busy(turn):
                continue
            superseded = self.turns.newer_than(turn)
            done = (turn.answered or superseded) and turn.known if self.board.model_floor else turn.released
            if done:
                self.turns.close(turn)

    def _dispatch(self, event: i.Input) -> None:
        match event:
            case (
                i.HandlerInput()
                | i.HandlerSay()
                | i.HandlerReply()
                | i.CancelSpeech()
                | i.HandlerCall()
                | i.HandlerEnd()
            ):
                self.orders.take(event)
            case i.HandlerOpened() | i.HandlerDone() | i.HandlerAway() | i.HandlerBack() | i.HandlerLost():
                self._handler_news(event)
            case i.ToolStarted():
                self.calls.started(event)
            case i.ToolFinished():
                self.calls.finished(event)
            case i.OfferAccepted():
                self.life.offered()
            case i.CallRefused():
                self.life.refused(event)
            case i.ProviderFailed():
                self.life.failed(event)
            case i.Rotated():
                self.rotation.opened()
            case i.TextInput():
                self._typed(event)
            case i.CallerPresent():
                self.life.present()
            case i.CallerGone():
                self.life.gone()
            case i.EndSession():
                self.life.ask(event)
            case _:
                self._provider(event)

    def _provider(self, event: Event) -> None:
        if self.board.state == "ended":
            return
        match event:
            case SessionReady():
                self._ready(event)
            case SessionUpdated():
                self.life.updated(event)
            case SessionClosed():
                self.life.closed(event)
            case TurnStarted() | TurnStopped() | TurnCommitted() | TurnTranscript() | TurnDiscarded():
                self._turn(event)
            case ReplyStarted() | ReplyTranscript() | ReplyEnded() | Interrupted():
                self._reply(event)
            case PlayoutStarted() | PlayoutStopped() | PlayoutCleared():
                self._playout(event)
            case ToolRequested() if not self.rotation.opening:
                self.calls.requested(event)
            case Dtmf():
                self.board.record("dtmf", digit=event.digit)
                self.board.tell(event)
                self.life.active()
            case Warned():
                self.board.warn(event.code, event.message)
            case ProviderFault():
                self._fault(event)
            case UsageReported():
                self._usage(event)
            case RateLimit():
                self._rate_limit(event)
            case ToolRequested() | ReplyAudio():
                pass  # of a session that is being replaced; the bridge plays audio, the machine holds none

    def _ready(self, event: SessionReady) -> None:
        moved = self.rotation.empty
        self.life.ready(event)
        if self._resumed and self.board.live:
            self._resumed = False
            self.handler.open(resumed=True)
            self.calls.resume(moved=moved)

    def _turn(self, event: TurnStarted | TurnStopped | TurnCommitted | TurnTranscript | TurnDiscarded) -> None:
        self.life.active()
        match event:
            case TurnStarted():
                self.board.tell(event)
                self.turns.started(event)
                self.bargein.began(event)
            case TurnStopped():
                self.board.tell(event)
                self.turns.stopped(event)
                self.bargein.stopped(event.item)
            case TurnCommitted() if not self.board.over:
                self.bargein.committed(event)
                self._committed(event)
            case TurnTranscript():
                self.board.tell(event)
                self.turns.transcript(event)
            case TurnDiscarded() if not self.board.over:
                self.bargein.discarded(event)
                self.turns.discarded(event)

    def _committed(self, event: TurnCommitted) -> None:
        """A turn is there; a model answers by itself only those whose end the provider found."""
        before = self.turns.newest
        self.turns.committed(event)
        newest = self.turns.newest
        if self.board.model_floor and newest is not before and (event.text is not None or not self.board.vad):
            self.speech.ask("reply", turn=newest)

    def _reply(self, event: ReplyStarted | ReplyTranscript | ReplyEnded | Interrupted) -> None:
        self.life.active()
        if self.rotation.opening:
            self._reply_usage(event)
            return
        match event:
            case ReplyStarted():
                speech = self.speech.started(event)
                turn_id = speech.turn.turn_id if speech is not None and speech.turn is not None else None
                self.board.tell(event, speech_id=self._speech_id(event.reply), turn_id=turn_id)
                if speech is not None and speech.kind == "reply":
                    self.calls.model_spoke()
            case ReplyTranscript():
                self.board.tell(event, speech_id=self._speech_id(event.reply))
                self.speech.transcript(event)
            case ReplyEnded():
                self.speech.ended(event)
                self._reply_usage(event)
                if event.status == "cancelled" and event.why == "interrupted":
                    self.calls.interrupted(event.reply)
            case Interrupted():
                self.board.tell(event, speech_id=self._speech_id(event.reply))
                self.speech.interrupted(event)
                if not self.board.stops_replies:
                    self.calls.interrupted(event.reply)

    def _playout(self, event: PlayoutStarted | PlayoutStopped | PlayoutCleared) -> None:
        self.board.tell(event, speech_id=self._speech_id(event.reply))
        self.speech.playout(event)
        self.life.active()

    def _reply_usage(self, event: Event) -> None:
        if not isinstance(event, ReplyEnded):
            return
        if event.usage is not None:
            self._count(event.reply, event.usage, told="ended")
        elif event.status == "completed":
            self.till.miss()

    def _usage(self, event: UsageReported) -> None:
        self.board.tell(event)
        if event.kind == "transcription" and event.item is not None:
            turn = self.turns.find(event.item)
            key = ("transcription", event.item)
            self.till.add(Used(kind="transcription", usage=event.usage, key=key, turn=turn, item=event.item))
        elif event.kind == "reply" and event.reply is not None:
            self._count(event.reply, event.usage, told="reported")
        else:
            self.till.add(Used(kind=event.kind, usage=event.usage, item=event.item))

    def _count(self, reply: str, usage: Usage, *, told: str) -> None:
        speech = self.speech.origin(reply)
        # words of ours that are spoken exactly come from a text-to-speech model, not from the conversation's
        exact = self.board.capabilities.say == "exact" and speech is not None and speech.kind != "reply"
        kind: UsageKind = "speech" if exact else "reply"
        turn = speech.turn if speech is not None else None
        speech_id = speech.id if speech is not None else None
        self.till.add(Used(kind=kind, usage=usage, key=(told, reply), speech_id=speech_id, turn=turn))

    def _rate_limit(self, event: RateLimit) -> None:
        self.board.tell(event)
        if event.remaining == 0 and event.name not in self._low:
            self._low.add(event.name)
            self.board.warn("rate_limit_low", f"nothing is left of the provider's limit of {event.name}")

    def _speech_id(self, reply: str) -> str | None:
        speech = self.speech.origin(reply)
        return speech.id if speech is not None else None

    def _fault(self, event: ProviderFault) -> None:
        if event.code == NO_LISTENER:
            self.speech.fault(event)  # nobody listens, so nobody is told either: the speech's record says it
            return
        self.board.tell(event)
        if event.fatal:
            self.life.end("provider_error", f"{event.code}: {event.message}")
        elif not self.speech.fault(event) and not event.retry:
            self.board.warn(event.code, event.message)

    def _typed(self, event: i.TextInput) -> None:
        if not self.board.live:
            return
        item = self.board.ids("op")[:32]
        self.life.active()
        self.board.send(AddText(item=item, text=event.text, role="user"))
        self._committed(TurnCommitted(item=item, text=event.text))

    def _handler_news(
        self, event: i.HandlerOpened | i.HandlerDone | i.HandlerAway | i.HandlerBack | i.HandlerLost
    ) -> None:
        match event:
            case i.HandlerOpened():
                self.handler.opened(event.epoch)
            case i.HandlerBack():
                self.handler.opened(event.epoch)
            case i.HandlerDone():
                self.handler.done(event)
            case i.HandlerAway() if not self.board.over:
                self.handler.away(event.detail)
            case i.HandlerLost():
                self.handler.lost(event.epoch)
