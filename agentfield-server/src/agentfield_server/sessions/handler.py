"""The handler's loop: when it runs, when it runs again, and what its failure means."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from agentfield.errors import Conflict
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.effects import OpenHandler, ResolveInput
from agentfield_server.sessions.inputs import HandlerAway, HandlerDone, HandlerInput
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.turns import TurnBook

__all__ = ["MAX_FAILURES", "NODE_WAIT", "HandlerLoop"]

MAX_FAILURES = 3
NODE_WAIT = 10.0
"""Seconds in which a handler must find a linked node."""


class HandlerLoop:
    """Runs of the handler, one after the other; each has an epoch."""

    def __init__(self, board: Board, turns: TurnBook, speech: Sequencer) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech
        self._inputs: deque[str] = deque()
        self.epoch = 0
        self._runs = 0
        """How many runs this control plane began."""
        self.running = False
        self.failures = 0
        self.missing = HandlerAway().detail
        """Why no instance has the handler, for when none comes."""
        self.fatal: str | None = None
        """Why the session must end, said by the handler's behaviour."""
        self._took = False
        self._resumed = False
        self._announced = False

    def open(self, *, resumed: bool = False) -> None:
        """Run the handler (again)."""
        self.epoch += 1
        self._runs += 1
        self.running = True
        self._took = False
        self._resumed, self._announced = resumed, False
        self._board.timers.set("node", self._board.now + NODE_WAIT)
        self._board.emit(OpenHandler(epoch=self.epoch, resumed=resumed))

    def current(self, epoch: int) -> bool:
        """Tell whether a run still counts: one that an earlier control plane began does not, it is begun again."""
        return epoch == self.epoch and self._runs > 0

    def opened(self, epoch: int) -> None:
        """A linked node has it."""
        if epoch != self.epoch or not self.running:
            return
        self._board.timers.clear("node")
        if not self._announced and not self._board.over:
            self._announced = True
            self._board.record("handler.started", epoch=epoch, resumed=self._resumed)

    def input(self, command: HandlerInput) -> None:
        """The handler asks for the next turn, so it is done with the last one."""
        if not self.running:
            self._board.ops.refuse(command.op_id, Conflict("this run of the handler is over", code="handler_over"))
            return
        if self._took:
            self._turns.release()
            self.failures = 0
        self._inputs.append(command.op_id)

    def deliver(self) -> None:
        """Hand out turns to who waits for one, not while something uninterruptible is said."""
        while self._inputs and self._turns.waiting and not self._speech.uninterruptible:
            turn = self._turns.take()
            if turn is None:
                return
            self._took = True
            self._board.ops.answer(ResolveInput(self._inputs.popleft(), turn))

    def done(self, event: HandlerDone) -> None:
        """The handler returned or raised."""
        if event.epoch != self.epoch or not self.running:
            return
        self.running = False
        self._board.timers.clear("node")
        self.refuse_inputs("the handler that asked is over")
        if self._board.over:
            self._turns.release()
        elif event.problem is not None:
            self._failed(event.problem)
        else:
            self._returned()

    def away(self, detail: str) -> None:
        """No instance has it; one is waited for, as long as was said first."""
        self.missing = detail
        if self.running and "node" not in self._board.timers:
            self._board.timers.set("node", self._board.now + NODE_WAIT)

    def lost(self, epoch: int) -> None:
        """The handler is gone for good: it runs from the top elsewhere, and its open turn comes again."""
        if epoch != self.epoch or not self.running or self._board.over:
            return
        self.refuse_inputs("the node that ran the handler is gone")
        self._speech.queue.take_back(None)
        self._turns.give_back()
        self.open(resumed=True)

    def refuse_inputs(self, why: str) -> None:
        """Answer whoever waits for a turn that there will be none."""
        while self._inputs:
            error = self._board.ended_error() if self._board.over else Conflict(why, code="handler_over")
            self._board.ops.refuse(self._inputs.popleft(), error)

    def _returned(self) -> None:
        self._turns.release()
        if self._board.model_floor:
            return
        if not self._took:
            self.fatal = "the handler returned without having taken a turn; call `await session.input()` in it, or declare floor='model'"
            return
        self.failures = 0
        self.open()

    def _failed(self, problem: Mapping[str, Any]) -> None:
        message = str(problem.get("detail") or problem.get("code") or "the handler raised")
        self._board.record("handler.failed", message=message)
        self._turns.release(problem)
        if self._board.model_floor:
            return
        self.failures += 1
        on_error = self._board.config.declaration.on_error
        if on_error is not None:
            self._speech.ask("on_error", asked=on_error, turn=self._turns.current if self._took else None)
        if self.failures >= MAX_FAILURES:
            self.fatal = f"the handler raised {MAX_FAILURES} times in a row, at last: {message}"
            return
        self.open()
