"""State that the parts of the session machine share: time, deadlines, pending effects and operations, and the turns."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.errors import AgentFieldError, SessionEnded
from agentfield.ids import Prefix
from agentfield.plugins.manifest.spec import Capabilities, Media
from agentfield.realtime.commands import Command, UpdateCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event
from agentfield_server.sessions.conversation.effects import (
    Broadcast,
    Effect,
    OpEffect,
    RecordEvent,
    RejectOp,
    SendCommand,
    SetState,
    TurnValue,
)
from agentfield_server.sessions.conversation.history import with_caller_words
from agentfield_server.sessions.conversation.timers import Timers
from agentfield_server.sessions.conversation.transitions import (
    SESSION_TRANSITIONS,
    TURN_TRANSITIONS,
    SessionPhase,
    Trigger,
    TurnStage,
)
from agentfield_server.sessions.conversation.usage.totals import UsageTotals

__all__ = ["IdSource", "InterruptionSwitch", "MachineState", "PendingOperations", "TurnRecord"]

IdSource = Callable[[Prefix], str]
"""Makes an identifier with a prefix."""

_REMEMBERED_OPS = 1024
_MAX_HISTORY = 400
_MAX_WARNINGS = 500
_CONFIRM_WAIT = 1.0
"""Seconds after which an update counts as confirmed where the provider confirms none."""


@dataclass(slots=True, eq=False)
class TurnRecord:
    """One turn, from its commit to the close of its execution. Times are seconds of the machine's clock."""

    item: str
    """The provider's id of the turn."""
    previous: str | None
    """Item of the turn before it, where the provider names one."""
    committed_at: float
    started_at: float
    ended_at: float
    text: str | None = None
    text_missing: str | None = None
    words_known: bool = False
    """Whether its words are known, or known to be missing (`text_missing` says why)."""
    awaits_predecessor: bool = True
    """Whether it still waits for its predecessor."""
    turn_id: str = ""
    """Id of its execution; empty until that is opened."""
    number: int = 0
    attempt: int = 1
    """How often the handler was given it: a lost handler run gives its turn back."""
    stage: TurnStage = TURN_TRANSITIONS.initial
    released: bool = False
    """Whether the handler has finished with it."""
    answered: bool = False
    """Whether the model began to answer it (model floor)."""
    at_provider: bool = False
    """Whether the provider has reported it, so that a reply that begins later knows it."""
    problem: Mapping[str, Any] | None = None
    """Why the handler failed in it."""
    answer_problem: Mapping[str, Any] | None = None
    """Why the model's answer to it failed (model floor)."""
    late_text: str | None = None
    """Words that arrived after the handler took it without; another attempt gets them."""
    heard: str | None = None
    """What the caller had heard of the speech that it interrupted."""
    backchannel: bool = False
    """Whether it was too short to interrupt: it is a turn, but the speech continues and is not stale because of it."""
    spoken: list[Mapping[str, Any]] = field(default_factory=list)
    """Outcomes of the speeches that answer it, as JSON."""
    usage: UsageTotals = field(default_factory=UsageTotals)

    def value(self, offset: float) -> TurnValue:
        """Return the turn as the handler receives it; `offset` is added to its times."""
        return TurnValue(
            id=self.turn_id,
            text=self.text,
            text_missing=self.text_missing,
            started_at=self.started_at + offset,
            ended_at=self.ended_at + offset,
            attempt=self.attempt,
            heard=self.heard,
        )

    def enter(self, trigger: Trigger) -> None:
        """Change the stage by a transition of the table.

        Raises:
            TransitionError: The table has no such transition.
        """
        self.stage = TURN_TRANSITIONS.next(self.stage, trigger)


class PendingOperations:
    """Commands of the handler that have no answer yet, and the last answers.

    A command is answered once. The handler's node sends a command again when its link broke before the answer came,
    so that a command that was answered is answered again with the same effect.

    Args:
        emit: Takes the answers.
    """

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._pending: dict[str, None] = {}
        self._answered: OrderedDict[str, OpEffect] = OrderedDict()

    def admit(self, op_id: str) -> bool:
        """Return whether a command is new; repeat the answer of one that was answered."""
        if op_id in self._pending:
            return False
        if op_id in self._answered:
            self._emit(self._answered[op_id])
            return False
        self._pending[op_id] = None
        return True

    def answer(self, effect: OpEffect) -> None:
        """Answer a command that is pending; ignore any other."""
        if effect.op_id not in self._pending:
            return
        del self._pending[effect.op_id]
        self._answered[effect.op_id] = effect
        while len(self._answered) > _REMEMBERED_OPS:
            self._answered.popitem(last=False)
        self._emit(effect)

    def reject(self, op_id: str, error: AgentFieldError) -> None:
        """Answer a command with an error."""
        self.answer(RejectOp(op_id, error.to_problem()))

    def pending(self) -> list[str]:
        """Return the op ids of the commands without an answer."""
        return list(self._pending)


class InterruptionSwitch:
    """Turns the setting off for a speech that the caller must not interrupt, and on again after it.

    A provider that is told not to interrupt does not answer a turn by itself either. Which of two settings it applied to a turn
    follows from the order of its events: a turn that is committed before the update is confirmed was committed under the earlier
    setting.

    Args:
        send: Sends a command to the provider.
    """

    def __init__(self, send: Callable[[Command], None]) -> None:
        self._send = send
        self.on = True
        """Whether the provider was last told to let the caller interrupt."""
        self._turned_on: float | None = None
        """When it was told so; None once the provider has confirmed it."""

    def reset(self) -> None:
        """Note that the provider's session is new: the caller may interrupt in it."""
        self.on, self._turned_on = True, None

    def set(self, on: bool, now: float) -> None:
        """Set whether the caller may interrupt; tell the provider if that changes."""
        if on == self.on:
            return
        self.on = on
        self._turned_on = now if on else None
        self.restore()

    def restore(self) -> None:
        """Tell the provider the setting, with the rest of the declared configuration."""
        self._send(UpdateCommand(interruptible=self.on))

    def confirmed(self) -> None:
        """Note that the provider has applied an update."""
        if self.on:
            self._turned_on = None

    def answers_by_itself(self, now: float) -> bool:
        """Return whether the provider answers a turn by itself whose commit it reports now."""
        return self.on and (self._turned_on is None or now - self._turned_on > _CONFIRM_WAIT)


class MachineState:
    """Shared state of one session's machine.

    Args:
        config: The frozen configuration.
        capabilities: Capabilities of the session's pair of provider and transport.
        media: Which way the caller's audio takes.
        ids: Makes identifiers, given their prefix.
        offset: Seconds to add to the machine's clock to get seconds since the epoch.
        now: The time of creation, seconds of the machine's clock.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        capabilities: Capabilities,
        media: Media,
        ids: IdSource,
        offset: float,
        now: float,
    ) -> None:
        self.config = config
        self.capabilities = capabilities
        self.media = media
        self.ids = ids
        self.offset = offset
        self.now = now
        self.phase = SESSION_TRANSITIONS.initial
        self.reason: str | None = None
        """An `EndReason`, or the reason that a transport plugin gave; None until the session ends."""
        self.detail: str | None = None
        self.attached = False
        """Whether the provider's session is ready for commands."""
        self.sent = 0
        """Number of commands that were sent: their order, where several happen at one time."""
        self.interruption = InterruptionSwitch(self.send)
        self.timers = Timers()
        self._warnings = 0
        self.effects: list[Effect] = []
        """Effects since the last `feed` or `tick`."""
        self.ops = PendingOperations(self.emit)
        self.history: list[Mapping[str, Any]] = []
        """The newest entries of the conversation, for the handler and for a replacement at the provider."""
        self.history_count = 0
        """How many entries the conversation has had, forgotten ones included."""

    # --- how the pair works

    @property
    def model_floor(self) -> bool:
        """Whether the model answers by itself."""
        return self.config.declaration.floor == "model"

    @property
    def can_rotate(self) -> bool:
        """Whether another provider session can take over, given the conversation so far."""
        return self.capabilities.resumption in ("replay", "handle", "stateless")

    @property
    def relays_audio(self) -> bool:
        """Whether the audio passes through the control plane, which then measures how much was heard."""
        return self.media != "direct"

    @property
    def detects_turns(self) -> bool:
        """Whether the provider detects when the caller speaks; otherwise a turn is known by its commit alone."""
        return self.media != "turns" and self.config.turn_detection is not None

    def answers_after(self, what: Literal["turn", "commit", "tool_result"]) -> bool:
        """Return whether the model answers by itself after a detected turn, a commit, or the results of its tools."""
        return self.model_floor and what in self.capabilities.answers_after

    @property
    def transcribes(self) -> bool:
        """Whether the caller's words are transcribed."""
        own = self.capabilities.transcription == "own" and self.capabilities.caller_transcript != "none"
        return own or self.config.transcription is not None

    @property
    def stops_replies(self) -> bool:
        """Whether the machine stops a reply that the caller speaks over; otherwise the provider does."""
        if self.capabilities.interruption == "server":
            return self.config.declaration.interrupt_after_ms > 0 or self.config.turn_detection is None
        return self.capabilities.interruption == "client"

    # --- where the session stands

    @property
    def live(self) -> bool:
        """Whether the provider's session can be commanded and the session is not ending."""
        return self.phase is SessionPhase.LIVE

    @property
    def over(self) -> bool:
        """Whether the session is ending or has ended."""
        return self.reason is not None

    def enter(self, trigger: Trigger) -> None:
        """Change the phase by a transition of the table, and emit it.

        Raises:
            TransitionError: The table has no such transition.
        """
        self.phase = SESSION_TRANSITIONS.next(self.phase, trigger)
        self.emit(SetState(state=self.phase.wire, reason=self.reason, detail=self.detail))

    def enter_end(self, trigger: Trigger, reason: str, detail: str | None) -> None:
        """Change the phase by a transition that ends the session, set the reason, and emit both.

        Raises:
            TransitionError: The table has no such transition, or not with this reason.
        """
        self.phase = SESSION_TRANSITIONS.end(self.phase, trigger, reason)
        self.reason, self.detail = str(reason), detail
        self.emit(SetState(state=self.phase.wire, reason=self.reason, detail=detail))

    # --- what the parts emit

    def emit(self, effect: Effect) -> None:
        """Add an effect."""
        self.effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, and forget them."""
        effects, self.effects = self.effects, []
        return effects

    def record(self, kind: str, /, **body: Any) -> None:
        """Record an event in the run's log."""
        self.emit(RecordEvent(kind, body))

    def warn(self, code: str, message: str) -> None:
        """Record a warning, at most `_MAX_WARNINGS` of a session; the session goes on."""
        self._warnings += 1
        if self._warnings < _MAX_WARNINGS:
            self.record("warning", code=code, message=message)
        elif self._warnings == _MAX_WARNINGS:
            self.record("warning", code="too_many_warnings", message="further warnings are not recorded")

    def send(self, command: Command) -> None:
        """Send a command to the provider if its session is ready, else drop it."""
        if self.attached:
            self.sent += 1
            self.emit(SendCommand(command))

    def broadcast(self, event: Event, **extra: Any) -> None:
        """Pass an event on to the listeners; it is not stored."""
        known = {name: value for name, value in extra.items() if value is not None}
        self.emit(Broadcast({**event.model_dump(mode="json", exclude_none=True), **known}))

    def add_history(self, entry: Mapping[str, Any]) -> None:
        """Add an entry to the history of the conversation."""
        self.history.append(entry)
        self.history_count += 1
        del self.history[:-_MAX_HISTORY]

    def restore_history(self, history: Sequence[Mapping[str, Any]], count: int) -> None:
        """Restore the history from before a restart; `count` includes forgotten entries."""
        self.history.extend(history)
        self.history_count = max(count, len(history))

    def history_since(self, count: int) -> list[Mapping[str, Any]]:
        """Return the entries that followed the first `count` ones, as far as they are remembered."""
        newer = max(0, self.history_count - count)
        return self.history[max(0, len(self.history) - newer) :]

    def set_caller_words(self, turn_id: str, text: str) -> None:
        """Put the late words of a turn into the history."""
        self.history[:] = with_caller_words(self.history, turn_id, text)

    def ended_error(self) -> SessionEnded:
        """Return the error that answers a command after the end."""
        reason = self.reason or "ended"
        return SessionEnded(
            f"session {self.config.session_id} is over ({reason}): {self.detail}"
            if self.detail
            else f"session {self.config.session_id} is over ({reason})",
            hint="session.call(...) still works for 60 seconds; input, say and reply do not",
            reason=reason,
            **({"why": self.detail} if self.detail else {}),
        )
