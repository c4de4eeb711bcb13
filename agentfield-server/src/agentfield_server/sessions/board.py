"""What the parts of the session machine share: the time, the timers, the effects so far and the answers owed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from agentfield.errors import AgentFieldError, SessionEnded
from agentfield.ids import Prefix
from agentfield.plugins.spec import Capabilities, Media
from agentfield.realtime.commands import Command
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event
from agentfield.wire.rest import SessionState
from agentfield_server.sessions.effects import Effect, Live, OpEffect, Record, Refuse, SendCommand

__all__ = ["Board", "IdSource", "Ops", "Timers"]

IdSource = Callable[[Prefix], str]
_REMEMBERED_OPS = 1024


class Timers:
    """Named deadlines; setting one again moves it."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def set(self, name: str, at: float) -> None:
        """Let `name` fire at a time (seconds, the machine's clock)."""
        self._at[name] = at

    def clear(self, name: str) -> None:
        """Forget a deadline; an unknown one is fine."""
        self._at.pop(name, None)

    def clear_all(self, *, but: str | None = None) -> None:
        """Forget all deadlines, except those whose name begins with `but`."""
        self._at = {name: at for name, at in self._at.items() if but is not None and name.startswith(but)}

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def next(self) -> float | None:
        """Return the earliest deadline."""
        return min(self._at.values(), default=None)

    def pop_due(self, now: float) -> str | None:
        """Take the earliest deadline that has passed."""
        due = min(((at, name) for name, at in self._at.items() if at <= now), default=None)
        if due is None:
            return None
        del self._at[due[1]]
        return due[1]


class Ops:
    """Answers owed to the handler: each command is answered once, however often it is sent."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._owed: dict[str, None] = {}
        self._given: OrderedDict[str, OpEffect] = OrderedDict()

    def admit(self, op_id: str) -> bool:
        """Tell whether a command is new; one that was answered is answered again the same way."""
        if op_id in self._owed:
            return False
        if op_id in self._given:
            self._emit(self._given[op_id])
            return False
        self._owed[op_id] = None
        return True

    def answer(self, effect: OpEffect) -> None:
        """Answer a command, unless it was answered already."""
        if effect.op_id not in self._owed:
            return
        del self._owed[effect.op_id]
        self._given[effect.op_id] = effect
        while len(self._given) > _REMEMBERED_OPS:
            self._given.popitem(last=False)
        self._emit(effect)

    def refuse(self, op_id: str, error: AgentFieldError) -> None:
        """Answer a command with an error."""
        self.answer(Refuse(op_id, error.to_problem()))

    def owed(self) -> list[str]:
        """Return the commands without an answer."""
        return list(self._owed)


class Board:
    """The shared state of one session's machine."""

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
        """Seconds to add to the machine's clock to get seconds since the epoch."""
        self.now = now
        self.state: SessionState = "created"
        self.reason: str | None = None
        self.detail: str | None = None
        self.attached = False
        """Whether the provider's session is ready to be commanded."""
        self.interruptible = True
        """What the provider was last told."""
        self.timers = Timers()
        self.out: list[Effect] = []
        self.ops = Ops(self.emit)
        self.history: list[Mapping[str, Any]] = []

    @property
    def model_floor(self) -> bool:
        """Whether the model answers by itself."""
        return self.config.declaration.floor == "model"

    @property
    def replays(self) -> bool:
        """Whether another session at the provider can take over, given what was said so far."""
        return self.capabilities.resumption in ("replay", "stateless")

    @property
    def carried(self) -> bool:
        """Whether the audio passes through us, so that how much was heard is measured here."""
        return self.media != "direct"

    @property
    def vad(self) -> bool:
        """Whether the provider finds out when the caller speaks; else a turn is known by its end."""
        return self.media != "turns" and self.config.turn_detection is not None

    @property
    def stops_replies(self) -> bool:
        """Whether it is us who stop a reply that the caller speaks over; else the provider does."""
        if self.capabilities.interruption == "server":
            return self.config.declaration.interrupt_after_ms > 0 or self.config.turn_detection is None
        return self.capabilities.interruption == "client"

    @property
    def live(self) -> bool:
        """Whether the call is on and nobody has ended it."""
        return self.state == "live"

    @property
    def over(self) -> bool:
        """Whether the session is ending or has ended."""
        return self.reason is not None

    def emit(self, effect: Effect) -> None:
        """Ask for something."""
        self.out.append(effect)

    def record(self, kind: str, /, **body: Any) -> None:
        """Record an event."""
        self.emit(Record(kind, body))

    def warn(self, code: str, message: str) -> None:
        """Record something odd that the call survives."""
        self.record("warning", code=code, message=message)

    def send(self, command: Command) -> None:
        """Command the provider, if there is one."""
        if self.attached:
            self.emit(SendCommand(command))

    def tell(self, event: Event, **extra: Any) -> None:
        """Pass an event on to those who listen now."""
        known = {name: value for name, value in extra.items() if value is not None}
        self.emit(Live({**event.model_dump(mode="json", exclude_none=True), **known}))

    def remember(self, entry: Mapping[str, Any]) -> None:
        """Add to the history that a handler can read."""
        self.history.append(entry)
        del self.history[:-400]

    def ended_error(self) -> SessionEnded:
        """Return the error for whoever still wants something of the session."""
        reason = self.reason or "ended"
        return SessionEnded(
            f"session {self.config.session_id} is over ({reason}): {self.detail}"
            if self.detail
            else f"session {self.config.session_id} is over ({reason})",
            hint="session.call(...) still works for 60 seconds; input, say and reply do not",
            reason=reason,
        )
