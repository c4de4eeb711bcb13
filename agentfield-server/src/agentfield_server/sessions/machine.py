"""The state machine of a session: inputs and the time in, effects out; no clock, no socket, no chance.

Provider events, handler commands, results and deadlines go in through `feed` and `tick`; what is to be done comes
back as a list of effects in order. All rules of a conversation live here and in the parts beside this module.
"""

from __future__ import annotations

from agentfield.errors import Conflict, InvalidInput
from agentfield.plugins.spec import Capabilities, Media
from agentfield.realtime.commands import AddText
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
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
    UsageReported,
    Warned,
)
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.board import Board, IdSource
from agentfield_server.sessions.calls import ToolDesk
from agentfield_server.sessions.effects import Effect, ResolveOp
from agentfield_server.sessions.handler import HandlerLoop
from agentfield_server.sessions.life import Life
from agentfield_server.sessions.speech import Sequencer
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
    ) -> None:
        self.board = Board(config, capabilities=capabilities, media=media, ids=ids, offset=offset, now=now)
        self.turns = TurnBook(self.board)
        self.speech = Sequencer(self.board, self.turns)
        self.calls = ToolDesk(self.board, self.turns, self.speech)
        self.handler = HandlerLoop(self.board, self.turns, self.speech)
        self.life = Life(self.board, self.turns, self.speech, self.calls, self.handler)
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
        self.board.history.extend(snapshot.history)
        for speech_id, asked in snapshot.open_speeches:
            self.speech.lost(speech_id, asked)
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
                self._command(event)
            case i.HandlerOpened() | i.HandlerDone() | i.HandlerAway() | i.HandlerBack() | i.HandlerLost():
                self._handler_news(event)
            case i.ToolStarted():
                self.calls.started(event)
            case i.ToolFinished():
                self.calls.finished(event)
            case i.OfferAccepted():
                self.life.offered()
            case i.ProviderFailed():
                self.life.closed(SessionClosed(reason="provider_error", message=event.message))
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
                self.board.tell(event, speech_id=self._speech_id(event.reply))
                self.speech.playout(event)
                self.life.active()
            case ToolRequested():
                self.calls.requested(event)
            case Warned():
                self.board.warn(event.code, event.message)
            case ProviderFault():
                self._fault(event)
            case UsageReported() | RateLimit():
                self.board.tell(event)
            case ReplyAudio():
                pass  # the bridge plays it; the machine holds no audio

    def _ready(self, event: SessionReady) -> None:
        self.life.ready(event)
        if self._resumed and self.board.live:
            self._resumed = False
            self.handler.open(resumed=True)
            self.calls.resume()

    def _turn(self, event: TurnStarted | TurnStopped | TurnCommitted | TurnTranscript | TurnDiscarded) -> None:
        self.life.active()
        match event:
            case TurnStarted():
                self.board.tell(event)
                self.turns.started(event)
                self.speech.caller_spoke()
            case TurnStopped():
                self.board.tell(event)
                self.turns.stopped(event)
            case TurnCommitted() if not self.board.over:
                self.turns.committed(event)
            case TurnTranscript():
                self.board.tell(event)
                self.turns.transcript(event)
            case TurnDiscarded() if not self.board.over:
                self.turns.discarded(event)

    def _reply(self, event: ReplyStarted | ReplyTranscript | ReplyEnded | Interrupted) -> None:
        self.life.active()
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
                if event.status == "cancelled" and event.why == "interrupted":
                    self.calls.interrupted(event.reply)
            case Interrupted():
                self.board.tell(event, speech_id=self._speech_id(event.reply))
                self.speech.interrupted(event)
                self.calls.interrupted(event.reply)

    def _speech_id(self, reply: str) -> str | None:
        speech = self.speech.origin(reply)
        return speech.id if speech is not None else None

    def _fault(self, event: ProviderFault) -> None:
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
        self.turns.committed(TurnCommitted(item=item, text=event.text))
        if self.board.model_floor:
            self.speech.ask("reply", turn=self.turns.newest)

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
                self.handler.away()
            case i.HandlerLost():
                self.handler.lost(event.epoch)

    def _command(self, command: i.HandlerCommand) -> None:
        if not self.board.ops.admit(command.op_id):
            return
        if command.epoch != self.handler.epoch:
            error = Conflict(
                "this run of the handler is over; another one has the session",
                code="stale_handler",
                epoch=command.epoch,
            )
            self.board.ops.refuse(command.op_id, error)
        elif isinstance(command, i.HandlerCall):
            self._call(command)
        elif self.board.over:
            self.board.ops.refuse(command.op_id, self.board.ended_error())
        else:
            self._live_command(command)

    def _live_command(self, command: i.HandlerCommand) -> None:
        match command:
            case i.HandlerInput():
                self.handler.input(command)
            case i.HandlerSay():
                self.speech.ask(
                    "say",
                    asked=command.text,
                    interruptible=command.interruptible,
                    stale=command.stale,
                    turn=self.turns.current,
                    op_id=command.op_id,
                )
            case i.HandlerReply() if (unlisted := self._unlisted(command)) is not None:
                self.board.ops.refuse(command.op_id, unlisted)
            case i.HandlerReply():
                self.speech.ask(
                    "reply",
                    instructions=command.instructions,
                    tools=command.tools,
                    turn=self.turns.current,
                    op_id=command.op_id,
                )
            case i.CancelSpeech():
                self.speech.take_back(command.speech_op)
                self.board.ops.answer(ResolveOp(command.op_id))
            case i.HandlerEnd():
                self.board.ops.answer(ResolveOp(command.op_id))
                self.life.end("handler_ended", None if command.reason == "handler_ended" else command.reason)

    def _unlisted(self, command: i.HandlerReply) -> InvalidInput | None:
        listed = [tool.target for tool in self.board.config.tools]
        strange = sorted(set(command.tools or ()) - set(listed))
        if not strange:
            return None
        return InvalidInput(
            f"reply(tools=...) names {', '.join(strange)}, which tools=[...] of the session does not list.",
            code="unlisted_tool",
            hint=f"listed: {', '.join(listed) or 'none'}",
            field="tools",
        )

    def _call(self, command: i.HandlerCall) -> None:
        if self.board.state == "ended" and "grace" not in self.board.timers:
            self.board.ops.refuse(command.op_id, self.board.ended_error())
            return
        self.calls.call(command)
