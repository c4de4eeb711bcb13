"""Sans-I/O: what this node runs, owes and waits for, and what to send after a link was lost.

Frames and outcomes go in, effects come out. The book knows no socket, no clock and no task. Its promises:

- an attempt is started once, however often its `Invoke` comes;
- a result is kept, and sent again on each new link, until it is acknowledged;
- an operation (`Call`, `SessionCommand`) is kept, and sent again in order, until it is answered or forgotten;
- a handler runs once per (session, epoch), and that it is done is sent again until the control plane shows it knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from agentfield.errors import LimitExceeded, SessionEnded, Unavailable
from agentfield.link.effects import (
    Effect,
    Happened,
    OpenHandler,
    Operation,
    Reject,
    Send,
    Settle,
    Start,
    Stop,
    StopHandler,
)
from agentfield.wire.frames import (
    Accepted,
    CallAccepted,
    CallResult,
    Cancel,
    Invoke,
    Ping,
    Pong,
    Result,
    ResultAck,
    RunningAttempt,
    SessionCommand,
    SessionDone,
    SessionEventFrame,
    SessionOpen,
    SessionReply,
    SessionStop,
    TurnDelivered,
    Welcome,
)

__all__ = ["LinkBook"]

SUPERSEDED = "superseded"
"""Reason of a stop: the session's handler, or the attempt, runs anew elsewhere."""


class LinkBook:
    """The bookkeeping of one node's link.

    Args:
        max_running: Runs that may be under way or wait for room; further ones are rejected.
        max_operations: Operations that may wait for an answer.
    """

    def __init__(self, *, max_running: int = 1100, max_operations: int = 10_000) -> None:
        self.linked = False
        self._max_running = max_running
        self._max_operations = max_operations
        self._running: dict[str, Invoke] = {}
        self._entered: set[tuple[str, int]] = set()
        self._results: dict[tuple[str, int], Result] = {}
        self._operations: dict[str, Operation] = {}
        self._handlers: dict[str, int] = {}
        self._stopped: dict[str, int] = {}
        self._done: dict[str, SessionDone] = {}

    @property
    def held(self) -> int:
        """How many runs are under way, or have a result that is not acknowledged."""
        return len(self._running) + len(self._results)

    # --- the life of a link -------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return the fields of a `Hello` that tell what this node still holds."""
        return {
            "running": tuple(_attempt(invoke) for invoke in self._running.values()),
            "results": tuple(
                RunningAttempt(execution_id=r.execution_id, attempt=r.attempt, epoch=r.epoch)
                for r in self._results.values()
            ),
            "open_sessions": tuple(self._handlers.items()),
        }

    def welcome(self, frame: Welcome) -> list[Effect]:
        """The node is linked: settle what the control plane decided, send again what it has not answered."""
        self.linked = True
        held = Counter(execution_id for execution_id, _ in self._results)
        # An acknowledgement names no attempt: where two are held, both are sent again and acknowledged one by one.
        acknowledged = {execution_id for execution_id in frame.ack if held[execution_id] == 1}
        self._results = {key: result for key, result in self._results.items() if key[0] not in acknowledged}
        effects: list[Effect] = []
        for execution_id in frame.cancel:
            effects += self._cancelled(execution_id, "cancelled")
        effects += [Send(result) for result in self._results.values()]
        effects += [Send(operation) for operation in self._operations.values()]
        effects += [Send(done) for done in self._done.values()]
        return effects

    def lost(self) -> None:
        """The link is gone; what is owed is kept for the next one."""
        self.linked = False

    def receive(self, frame: Any) -> list[Effect]:
        """Take a frame of the control plane.

        Raises:
            Unavailable: It does not belong here.
        """
        match frame:
            case Invoke():
                return self._invoked(frame)
            case ResultAck():
                self._results.pop((frame.execution_id, frame.attempt), None)
            case Cancel():
                return self._cancelled(frame.execution_id, frame.reason)
            case CallAccepted() | Pong():
                pass
            case CallResult():
                return self._settled(frame.op_id, frame.output, frame.problem)
            case TurnDelivered():
                return self._settled(frame.op_id, frame.turn, None)
            case SessionReply():
                self._known(frame.session_id, op_id=frame.op_id)
                return self._settled(frame.op_id, frame.value, frame.problem)
            case SessionOpen():
                return self._opened(frame)
            case SessionStop():
                return self._session_stopped(frame.session_id, frame.epoch, frame.reason, at_once=False)
            case SessionEventFrame():
                return [Happened(frame.session_id, frame.event)] if frame.session_id in self._handlers else []
            case Ping():
                return [Send(Pong())]
            case _:
                raise Unavailable(f"The control plane sent {getattr(frame, 'type', frame)!r} in the middle of a link.")
        return []

    # --- runs ---------------------------------------------------------------------------------------------------

    def entered(self, execution_id: str, attempt: int) -> list[Effect]:
        """A run has begun: it is accepted."""
        invoke = self._running.get(execution_id)
        if invoke is None or invoke.context.attempt != attempt:
            return []
        self._entered.add((execution_id, attempt))
        return self._send(Accepted(**_attempt(invoke).model_dump()))

    def finished(self, result: Result) -> list[Effect]:
        """A run came to its end. Runs that were superseded have nothing to report."""
        invoke = self._running.get(result.execution_id)
        if invoke is None or invoke.context.attempt != result.attempt:
            return []
        del self._running[result.execution_id]
        key = (result.execution_id, result.attempt)
        self._entered.discard(key)
        self._results[key] = result
        return self._send(result)

    def abandoned(self, execution_id: str, attempt: int) -> None:
        """A run was cut off because the node stops; the control plane will find it lost."""
        invoke = self._running.get(execution_id)
        if invoke is not None and invoke.context.attempt == attempt:
            del self._running[execution_id]
            self._entered.discard((execution_id, attempt))

    def _invoked(self, invoke: Invoke) -> list[Effect]:
        execution_id, attempt = invoke.context.execution_id, invoke.context.attempt
        if (result := self._results.get((execution_id, attempt))) is not None:
            return self._send(result)
        before = self._running.get(execution_id)
        if before is not None and before.context.attempt >= attempt:
            again = (execution_id, attempt) in self._entered
            return self._send(Accepted(**_attempt(invoke).model_dump())) if again else []
        effects: list[Effect] = []
        if before is not None:
            self._entered.discard((execution_id, before.context.attempt))
            effects.append(Stop(execution_id, before.context.attempt, SUPERSEDED))
        elif len(self._running) >= self._max_running:
            self._running[execution_id] = invoke
            return [Reject(invoke)]
        self._running[execution_id] = invoke
        return [*effects, Start(invoke)]

    def _cancelled(self, execution_id: str, reason: str) -> list[Effect]:
        invoke = self._running.get(execution_id)
        return [Stop(execution_id, invoke.context.attempt, reason)] if invoke is not None else []

    # --- operations ---------------------------------------------------------------------------------------------

    def ask(self, operation: Operation) -> list[Effect]:
        """Send an operation, now or when the link is back, until it is answered.

        Raises:
            LimitExceeded: Too many wait for an answer already.
        """
        if len(self._operations) >= self._max_operations:
            raise LimitExceeded(
                f"{self._max_operations} calls of this node wait for an answer; that is the most there may be.",
                hint="Await calls before you make more of them.",
            )
        self._operations[operation.op_id] = operation
        return self._send(operation)

    def forget(self, op_id: str) -> None:
        """Nobody waits for an operation any longer."""
        self._operations.pop(op_id, None)

    def _settled(self, op_id: str, value: Any, problem: dict[str, Any] | None) -> list[Effect]:
        if self._operations.pop(op_id, None) is None:
            return []
        return [Settle(op_id, value, problem)]

    # --- handlers -----------------------------------------------------------------------------------------------

    def handler_done(self, done: SessionDone) -> list[Effect]:
        """A handler returned or raised."""
        session_id = done.session_id
        if self._handlers.get(session_id) != done.epoch:
            return []  # it was superseded; a newer run speaks for the session now
        del self._handlers[session_id]
        for op_id in [op.op_id for op in self._of(session_id, done.epoch) if op.command in ("input", "listen")]:
            del self._operations[op_id]  # a turn would reach nobody
        if self._stopped.pop(session_id, None) != done.epoch:
            self._done[session_id] = done
        return self._send(done)

    def _opened(self, opened: SessionOpen) -> list[Effect]:
        session_id, epoch = opened.session_id, opened.epoch
        effects: list[Effect] = []
        done = self._done.get(session_id)
        if done is not None and done.epoch == epoch:
            return self._send(done)
        running = self._handlers.get(session_id)
        if (running is not None and running >= epoch) or (done is not None and done.epoch > epoch):
            return []
        if running is not None:
            effects += self._session_stopped(session_id, running, SUPERSEDED, at_once=True)
        self._stopped.pop(session_id, None)
        self._done.pop(session_id, None)
        self._handlers[session_id] = epoch
        return [*effects, OpenHandler(opened)]

    def _session_stopped(self, session_id: str, epoch: int, reason: str, *, at_once: bool) -> list[Effect]:
        running = self._handlers.get(session_id)
        if running is not None and epoch < running:
            return []
        self._known(session_id, epoch=epoch)
        at_once = at_once or reason == SUPERSEDED
        effects: list[Effect] = []
        if running is not None:
            self._stopped[session_id] = running
            effects.append(StopHandler(session_id, running, reason, at_once))
        problem = SessionEnded(f"The session is over: {reason}.", reason=reason, session_id=session_id).to_problem()
        for command in [c for c in self._of(session_id, epoch) if at_once or c.command != "call"]:
            effects += self._settled(command.op_id, None, problem)
        return effects

    def _known(self, session_id: str, *, op_id: str | None = None, epoch: int | None = None) -> None:
        done = self._done.get(session_id)
        if done is not None and (done.op_id == op_id or (epoch is not None and done.epoch <= epoch)):
            del self._done[session_id]

    def _of(self, session_id: str, epoch: int) -> list[SessionCommand]:
        commands: Iterable[Operation] = self._operations.values()
        return [
            c for c in commands if isinstance(c, SessionCommand) and c.session_id == session_id and c.epoch <= epoch
        ]

    def _send(self, frame: Accepted | Result | Operation | SessionDone) -> list[Effect]:
        return [Send(frame)] if self.linked else []


def _attempt(invoke: Invoke) -> RunningAttempt:
    return RunningAttempt(execution_id=invoke.context.execution_id, attempt=invoke.context.attempt, epoch=invoke.epoch)
