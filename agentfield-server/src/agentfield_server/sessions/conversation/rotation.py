"""Rotation: a new provider session replaces one that expires or broke, and the conversation continues in it.

Three ways lead to a rotation: the provider's session expires (at the first quiet moment from `ROTATE_FROM`, at the
latest at `LATEST`), its connection broke, or a replacement could not be opened and is tried again. The replacement is
empty: it receives the history and the results of tools, and an answer that was lost is requested again. A replacement
that the provider resumes by a handle receives only what followed the handle.
"""

from __future__ import annotations

from collections import deque

from agentfield.realtime.commands import AddTextCommand
from agentfield.realtime.events import SessionResumable
from agentfield_server.sessions.conversation.effects import Rotate, StoreHandle
from agentfield_server.sessions.conversation.history import HistoryLine, history_lines, truncate_history
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState, TurnRecord
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.tools.calls import ToolCallTracker
from agentfield_server.sessions.conversation.transitions import EndReason
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["LATEST", "MAX_ROTATIONS", "READY_WAIT", "ROTATE_FROM", "WINDOW", "ProviderRotation"]

ROTATE_FROM = 60.0
"""Seconds before the expiry from which the first quiet moment is used."""
LATEST = 15.0
"""Seconds before the expiry at which the rotation no longer waits for a quiet moment."""
MAX_ROTATIONS = 3
"""Replacements that may be opened within `WINDOW`."""
WINDOW = 60.0
"""Seconds within which at most `MAX_ROTATIONS` replacements are opened."""
READY_WAIT = 30.0
"""Seconds within which the replacement must be ready."""
_MAX_HANDLE = 16_384
_AGAIN_AFTER = 1.0
_ANSWER_WAIT = 5.0


class ProviderRotation:
    """When a provider session is replaced, and what the replacement receives.

    Args:
        state: State shared with the other parts.
        turns: Turns of the caller.
        speech: Speeches of the agent.
        calls: Tool calls of the model.
    """

    def __init__(
        self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer, calls: ToolCallTracker
    ) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._opened: deque[float] = deque()
        self._due = False
        self._swapped = False
        self._why = ""
        self.running = False
        """Whether a replacement was requested and is not ready yet."""
        self.empty = False
        """Whether the session that becomes ready next is new, and must be told the conversation, or what it lacks of it."""
        self._known: int | None = None
        """How many entries of the history that session knows."""
        self.fatal: tuple[EndReason, str] | None = None
        """Why no replacement can take over: reason and detail of the end."""

    # --- when to rotate

    def plan(self, left: float) -> None:
        """Plan the rotation of the ready session, which expires in `left` seconds."""
        now, warn = self._state.now, self._state.config.declaration.limits.warn
        start = max(left - ROTATE_FROM, left / 2)
        self._state.timers.set(TimerKind.ROTATION_DUE, now + start)
        self._state.timers.set(TimerKind.ROTATION_FORCED, now + max(left - LATEST, left * 0.75))
        if 0 < warn < start:
            self._state.timers.set(TimerKind.ROTATION_WARNING, now + start - warn)

    def fire(self, kind: TimerKind) -> None:
        """Act on a deadline of the rotation that has passed."""
        match kind:
            case TimerKind.ROTATION_WARNING:
                warn = self._state.config.declaration.limits.warn
                message = (
                    f"the provider's session expires; another one takes over in about {warn:g} s, in a quiet moment"
                )
                self._state.warn("provider_expires", message)
            case TimerKind.ROTATION_DUE:
                self._due = True
            case TimerKind.ROTATION_FORCED if not self.running:
                self._start("provider_rotated", "the provider's session expires")
            case TimerKind.ROTATION_RETRY if self.running:
                self._open()
            case TimerKind.ROTATION_READY if self.running:
                self.fatal = EndReason.PROVIDER_ERROR, f"another provider session was not ready within {READY_WAIT:g} s"

    def check(self) -> None:
        """Begin a rotation that is due if the conversation is quiet."""
        if self._due and self._state.live and not self.running and self._quiet():
            self._start("provider_rotated", "the provider's session expires")

    def lost(self, message: str | None, *, expired: bool = False) -> None:
        """Begin a rotation because the provider's connection broke without a refusal, or its session expired early."""
        if not self.running and expired:
            self._start("provider_rotated", "the provider's session expired early")
        elif not self.running:
            self._start("provider_lost", message or "the line to the provider broke")
        else:
            self.failed(message)

    def failed(self, message: str | None) -> None:
        """Try again after a moment to open a replacement, at most `MAX_ROTATIONS` times within `WINDOW`."""
        self._swapped = False
        if self._spent():
            detail = f"{MAX_ROTATIONS} others could not be opened: {message or 'the line broke'}"
            self.fatal = EndReason.PROVIDER_ERROR, detail
        else:
            self._state.timers.set(TimerKind.ROTATION_RETRY, self._state.now + _AGAIN_AFTER)

    # --- the replacement

    @property
    def opening(self) -> bool:
        """Whether the replacement has not taken over yet: events that arrive now are of the old session."""
        return self.running and not self._swapped

    def resumable(self, event: SessionResumable) -> None:
        """Keep the handle by which a replacement continues the conversation."""
        if self._state.capabilities.resumption != "handle" or self.opening:
            return
        if event.handle is not None and len(event.handle) > _MAX_HANDLE:
            self._state.warn("handle_too_long", f"the provider's handle is longer than {_MAX_HANDLE} characters")
            return
        self._state.emit(StoreHandle(event.handle, self._state.history_count))

    def opened(self, known: int | None = None) -> None:
        """Note that the replacement has taken over.

        Args:
            known: How many entries of the history it knows, resumed by a handle; None if it is empty.
        """
        self._known = known
        if self.running:
            self._swapped = True
            self._turns.discard_unfinished(self._why)
            self._state.timers.clear(TimerKind.ROTATION_RETRY)

    def ready(self) -> None:
        """Note that the provider's session is ready; no rotation is running."""
        self.running = self._swapped = False
        for kind in (TimerKind.ROTATION_RETRY, TimerKind.ROTATION_READY):
            self._state.timers.clear(kind)

    def replay(self) -> None:
        """Tell a new session what it does not know of the conversation, and the results of tool calls."""
        if not self.empty:
            return
        self.empty = False
        known, self._known = self._known or 0, None
        latest = self._turns.newest
        if latest is not None and not latest.answered and not latest.backchannel:
            self._ask_again(latest)
        unsaid: list[HistoryLine] = [("user", text) for text in self._turns.pending_texts()]
        tools: list[HistoryLine] = [("system", text) for text in self._calls.pending_texts()]
        for role, text in [*truncate_history([*history_lines(self._state.history_since(known)), *unsaid]), *tools]:
            item = self._state.ids("op")[:32]
            self._turns.ignore_item(item)
            self._state.send(AddTextCommand(item=item, text=text, role=role))

    # --- inside

    def _quiet(self) -> bool:
        turns, state = self._turns, self._state
        if turns.speaking is not None or turns.has_pending or not (self._speech.quiet and self._calls.quiet):
            return False
        latest = turns.newest
        if not state.model_floor or latest is None or latest.answered or latest.backchannel:
            return True
        # the model's answer to the newest turn may be about to begin
        until = latest.committed_at + _ANSWER_WAIT
        if state.now < until:
            state.timers.set(TimerKind.ROTATION_LOOK, until)
        return state.now >= until

    def _start(self, code: str, why: str) -> None:
        if self._spent():
            expired = code == "provider_rotated"
            reason = EndReason.PROVIDER_EXPIRED if expired else EndReason.PROVIDER_ERROR
            self.fatal = reason, f"{why}, and {MAX_ROTATIONS} others have taken over within {WINDOW:g} s"
            return
        state = self._state
        state.warn(code, f"{why}; another one takes over, and the conversation goes on in it")
        # before `attached` is cleared: the old session is still told to stop the reply, if it exists
        said = self._speech.rotate(code)
        state.attached = False
        if said is not None and said.kind == "reply" and not said.requested:
            self._ask_again(said.turn)
        self._calls.flush_batches()
        self._calls.follow_up.ask_instead()
        self._turns.discard_unfinished(code)
        self._why = code
        self.running = self.empty = True
        self._open()

    def _ask_again(self, turn: TurnRecord | None) -> None:
        """Request the answer to a turn again: on the model's floor nothing else asks for an answer that was lost."""
        if turn is None or not turn.text or turn.turn_id not in self._turns.open:
            return
        if self._state.model_floor and not (self._speech.has_speech_of(turn) or self._turns.has_newer(turn)):
            self._speech.enqueue("reply", turn=turn)

    def _open(self) -> None:
        state = self._state
        self._due = False
        self._opened.append(state.now)
        for kind in (
            TimerKind.ROTATION_DUE,
            TimerKind.ROTATION_FORCED,
            TimerKind.ROTATION_WARNING,
            TimerKind.ROTATION_RETRY,
        ):
            state.timers.clear(kind)
        state.timers.set(TimerKind.ROTATION_READY, state.now + READY_WAIT)
        state.emit(Rotate())

    def _spent(self) -> bool:
        while self._opened and self._opened[0] <= self._state.now - WINDOW:
            self._opened.popleft()
        return len(self._opened) >= MAX_ROTATIONS
