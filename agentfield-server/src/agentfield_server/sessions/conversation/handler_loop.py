"""Runs of the session's handler: when a run begins, when another follows, and when failures end the session."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from agentfield.errors import Conflict
from agentfield_server.sessions.conversation.effects import OpenHandler, ResolveInput
from agentfield_server.sessions.conversation.inputs import HandlerDone, HandlerInput, HandlerUnavailable
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["MAX_FAILURES", "NODE_WAIT", "HandlerLoop"]

MAX_FAILURES = 3
"""Failed runs in a row after which the session ends."""
NODE_WAIT = 10.0
"""Seconds within which a linked node must take the handler's run."""


class HandlerLoop:
    """Runs of the handler, one after another; each has an epoch, one higher than the last.

    Args:
        state: State shared with the other parts.
        turns: Turns that the handler takes.
        speech: Speeches that a lost or failed run leaves behind.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._inputs: deque[str] = deque()
        self.epoch = 0
        self._runs = 0
        """Runs that this control plane began."""
        self.running = False
        """Whether the current run has not returned, failed or been lost."""
        self.failures = 0
        """Failed runs since a run last finished a turn."""
        self.missing = HandlerUnavailable().detail
        """Why no instance runs the handler; the detail of the end if none links in time."""
        self.fatal: str | None = None
        """Why the handler's behaviour must end the session."""
        self._took = False
        """Whether the current run has taken a turn."""
        self._resumed = False
        self._announced = False

    def open(self, *, resumed: bool = False) -> None:
        """Begin a run of the handler; `resumed` if it continues a session after a loss or a restart."""
        self.epoch += 1
        self._runs += 1
        self.running = True
        self._took = False
        self._resumed, self._announced = resumed, False
        self._state.timers.set(TimerKind.NODE, self._state.now + NODE_WAIT)
        self._state.emit(OpenHandler(epoch=self.epoch, resumed=resumed))

    def is_current(self, epoch: int) -> bool:
        """Return whether a run is the current one; runs that an earlier control plane began never are."""
        return epoch == self.epoch and self._runs > 0

    def opened(self, epoch: int) -> None:
        """Note that a linked node has taken the run; record the first time."""
        if epoch != self.epoch or not self.running:
            return
        self._state.timers.clear(TimerKind.NODE)
        if not self._announced and not self._state.over:
            self._announced = True
            self._state.record("handler.started", epoch=epoch, resumed=self._resumed)

    def input(self, command: HandlerInput) -> None:
        """Queue a request for the next turn; it also says that the handler has finished with the last one."""
        if not self.running:
            self._state.ops.reject(command.op_id, Conflict("this run of the handler is over", code="handler_over"))
            return
        if self._took:
            self._turns.release()
            self.failures = 0
        self._inputs.append(command.op_id)

    def deliver(self) -> None:
        """Answer requests with turns, except while an uninterruptible speech is under way."""
        while self._inputs and self._turns.waiting and not self._speech.uninterruptible:
            turn = self._turns.take()
            if turn is None:
                return
            self._took = True
            self._state.ops.answer(ResolveInput(self._inputs.popleft(), turn))

    def done(self, event: HandlerDone) -> None:
        """Take the end of a run: it returned, or it raised."""
        if event.epoch != self.epoch or not self.running:
            return
        self.running = False
        self._state.timers.clear(TimerKind.NODE)
        self.refuse_inputs("the handler that asked is over")
        if self._state.over:
            self._turns.release()
        elif event.problem is not None:
            self._failed(event.problem)
        else:
            self._returned()

    def unavailable(self, detail: str) -> None:
        """Wait for an instance to link; the first deadline stays if there is one already."""
        self.missing = detail
        if self.running and TimerKind.NODE not in self._state.timers:
            self._state.timers.set(TimerKind.NODE, self._state.now + NODE_WAIT)

    def lost(self, epoch: int) -> None:
        """Begin the handler again on another node after its run was lost; its unfinished turn waits again."""
        if epoch != self.epoch or not self.running or self._state.over:
            return
        self.refuse_inputs("the node that ran the handler is gone")
        self._speech.queue.cancel(None)
        self._turns.return_current()
        self.open(resumed=True)

    def refuse_inputs(self, why: str) -> None:
        """Reject the pending requests for a turn, with `why` unless the session is over."""
        while self._inputs:
            error = self._state.ended_error() if self._state.over else Conflict(why, code="handler_over")
            self._state.ops.reject(self._inputs.popleft(), error)

    def _returned(self) -> None:
        self._turns.release()
        if self._state.model_floor:
            return
        if not self._took:
            self.fatal = "the handler returned without having taken a turn; call `await session.input()` in it, or declare floor='model'"
            return
        self.failures = 0
        self.open()

    def _failed(self, problem: Mapping[str, Any]) -> None:
        message = str(problem.get("detail") or problem.get("code") or "the handler raised")
        self._state.record("handler.failed", message=message)
        self._turns.release(problem)
        if self._state.model_floor:
            return
        self.failures += 1
        on_error = self._state.config.declaration.on_error
        if on_error is not None:
            self._speech.enqueue("on_error", asked=on_error, turn=self._turns.current if self._took else None)
        if self.failures >= MAX_FAILURES:
            self.fatal = f"the handler raised {MAX_FAILURES} times in a row, at last: {message}"
            return
        self.open()
