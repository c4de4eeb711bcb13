"""Sans-I/O state of a node's link: running attempts, unacknowledged results, unanswered operations, open handlers.

Frames and outcomes go in, effects come out; the state knows no socket, clock or task. It guarantees:

- an attempt starts once, however often its `Invoke` is received, and never if it was given back;
- a result is kept, and sent again on each new link, until it is acknowledged;
- an operation (`Call`, `SessionCommand`) is kept, and sent again in order, until it is answered or forgotten;
- a handler runs once per (session, epoch), and its `SessionDone` is sent again until the control plane is known to have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from agentfield.errors import LimitExceeded, SessionEnded, Unavailable
from agentfield.link.effects import (
    DeliverEvent,
    Effect,
    OpenHandler,
    Operation,
    RejectAttempt,
    ResolveOperation,
    Send,
    StartAttempt,
    StopAttempt,
    StopHandler,
)
from agentfield.link.entry_gate import EntryGate
from agentfield.wire.frames import (
    Accepted,
    CallAccepted,
    CallResult,
    Cancel,
    GivenBack,
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
from agentfield.wire.link_protocol import PROOFS, PROTOCOLS

__all__ = ["GIVEN_BACK", "LinkState"]

SUPERSEDED = "superseded"
"""Stop reason: the session's handler, or the execution's attempt, was started again elsewhere."""


GIVEN_BACK = "given back"
"""Stop reason: the control plane runs the attempt elsewhere; nothing is reported about it."""


class LinkState:
    """State machine of one node's link.

    Args:
        max_running: Attempts that may run or wait for a slot; further ones are rejected.
        max_operations: Operations that may wait for an answer.
        gate: Decides which attempts may enter their function; shared with the watchdog's thread.
    """

    def __init__(self, *, max_running: int = 1100, max_operations: int = 10_000, gate: EntryGate | None = None) -> None:
        self.linked = False
        self._gate = EntryGate() if gate is None else gate
        self._number = 0
        """Number of the gate's last closing when `Hello` was written."""
        self._max_running = max_running
        self._max_operations = max_operations
        self._running: dict[str, Invoke] = {}
        self._started: set[tuple[str, int]] = set()
        self._results: dict[tuple[str, int], tuple[Result, bytes | None]] = {}
        """By attempt, each with its leaf."""
        self._operations: dict[str, Operation] = {}
        self._handlers: dict[str, int] = {}
        self._stopped: dict[str, int] = {}
        self._done: dict[str, SessionDone] = {}

    @property
    def outstanding(self) -> int:
        """Number of attempts that run or whose result is not acknowledged."""
        return len(self._running) + len(self._results)

    @property
    def newest_protocol(self) -> int:
        """Newest version of the link that fits the work: an attempt without salts can be reported in version 1 only."""
        unsalted = any(invoke.output_salt is None for invoke in self._running.values())
        return PROOFS - 1 if unsalted or any(leaf is None for _, leaf in self._results.values()) else PROTOCOLS[-1]

    # --- connecting and losing the link -------------------------------------------------------------------------------------

    def hello_fields(self) -> dict[str, Any]:
        """Return the fields of a `Hello` that report the work this node still has."""
        # read before the attempts: what is given back after this line has a higher number, and is settled by `GivenBack`
        self._number = self._gate.number
        return {
            "given_back": self._number,
            "running": tuple(
                _attempt(invoke)
                for execution_id, invoke in self._running.items()
                if self._gate.holds((execution_id, invoke.context.attempt))
            ),
            "results": tuple(
                RunningAttempt(execution_id=r.execution_id, attempt=r.attempt, epoch=r.epoch)
                for r, _leaf in self._results.values()
            ),
            "open_sessions": tuple(self._handlers.items()),
        }

    def link_opened(self, frame: Welcome) -> list[Effect]:
        """Apply the decisions of a `Welcome`, and send again everything that is not answered."""
        self.linked = True
        # before the gate opens: an attempt that was given back may arrive again, and must not meet its older self
        effects = self.drop_given_back()
        self._gate.confirm(self._number)
        kept = Counter(execution_id for execution_id, _ in self._results)
        # `ack` names no attempt: where two results of an execution are kept, both are sent again, and each is acknowledged
        # by a `ResultAck`, which does.
        acknowledged = {execution_id for execution_id in frame.ack if kept[execution_id] == 1}
        for key in [key for key in self._results if key[0] in acknowledged]:
            self._forget_result(key)
        for execution_id in frame.cancel:
            effects += self._cancelled(execution_id, "cancelled")
        effects += [Send(*result) for result in self._results.values()]
        effects += [Send(operation) for operation in self._operations.values()]
        effects += [Send(done) for done in self._done.values()]
        return effects

    def link_lost(self) -> None:
        """Note that the link is lost; unanswered frames are kept for the next one."""
        self.linked = False

    def receive_frame(self, frame: Any) -> list[Effect]:
        """Handle a frame of the control plane.

        Raises:
            Unavailable: The frame is not allowed after the handshake.
        """
        match frame:
            case Invoke():
                return self._invoked(frame)
            case ResultAck():
                self._forget_result((frame.execution_id, frame.attempt))
            case Cancel():
                return self._cancelled(frame.execution_id, frame.reason)
            case GivenBack():
                effects = self.drop_given_back()
                self._gate.confirm(frame.number)
                return effects
            case CallAccepted() | Pong():
                pass
            case CallResult():
                return self._resolved(frame.op_id, frame.output, frame.problem)
            case TurnDelivered():
                return self._resolved(frame.op_id, frame.turn, None)
            case SessionReply():
                self._forget_done(frame.session_id, op_id=frame.op_id)
                return self._resolved(frame.op_id, frame.value, frame.problem)
            case SessionOpen():
                return self._opened(frame)
            case SessionStop():
                return self._session_stopped(frame.session_id, frame.epoch, frame.reason, at_once=False)
            case SessionEventFrame():
                # a head of the log comes also after the handler has returned
                wanted = frame.session_id in self._handlers or frame.event.get("type") == "log.head"
                return [DeliverEvent(frame.session_id, frame.event)] if wanted else []
            case Ping():
                return [Send(Pong())]
            case _:
                raise Unavailable(f"The control plane sent {getattr(frame, 'type', frame)!r} after the handshake.")
        return []

    # --- attempts ---------------------------------------------------------------------------------------------------

    def enter_attempt(self, execution_id: str, attempt: int) -> bool:
        """Decide that an attempt enters its function now; False if it was given back or superseded."""
        invoke = self._running.get(execution_id)
        return (
            invoke is not None
            and invoke.context.attempt == attempt
            and self._gate.enter((execution_id, attempt), invoke.epoch)
        )

    def drop_given_back(self) -> list[Effect]:
        """Stop the attempts that the watchdog gave back; they have not entered their function."""
        effects: list[Effect] = []
        for invoke in list(self._running.values()):
            execution_id, attempt = invoke.context.execution_id, invoke.context.attempt
            if not self._gate.holds((execution_id, attempt)):
                del self._running[execution_id]
                effects.append(StopAttempt(execution_id, attempt, GIVEN_BACK))
        return effects

    def attempt_started(self, execution_id: str, attempt: int) -> list[Effect]:
        """Report that an attempt enters its function, with an `Accepted` frame."""
        invoke = self._running.get(execution_id)
        if invoke is None or invoke.context.attempt != attempt:
            return []
        self._started.add((execution_id, attempt))
        return self._send(_accepted(invoke))

    def attempt_finished(self, result: Result, leaf: bytes | None = None) -> list[Effect]:
        """Keep and send the result of an attempt; the result of a superseded attempt is dropped.

        Args:
            result: The result.
            leaf: Its leaf; None if it has a signature of its own.
        """
        invoke = self._running.get(result.execution_id)
        if invoke is None or invoke.context.attempt != result.attempt:
            return []
        del self._running[result.execution_id]
        key = (result.execution_id, result.attempt)
        self._started.discard(key)
        self._results[key] = result, leaf
        return [Send(result, leaf)] if self.linked else []

    def attempt_abandoned(self, execution_id: str, attempt: int) -> None:
        """Forget an attempt that was cancelled because the node stops; the control plane will find it lost."""
        invoke = self._running.get(execution_id)
        if invoke is not None and invoke.context.attempt == attempt:
            del self._running[execution_id]
            self._started.discard((execution_id, attempt))
            self._gate.forget((execution_id, attempt))

    def _forget_result(self, key: tuple[str, int]) -> None:
        self._results.pop(key, None)
        self._gate.forget(key)

    def _invoked(self, invoke: Invoke) -> list[Effect]:
        execution_id, attempt = invoke.context.execution_id, invoke.context.attempt
        if (result := self._results.get((execution_id, attempt))) is not None:
            return [Send(*result)] if self.linked else []
        before = self._running.get(execution_id)
        # A duplicate is answered with `Accepted` only if the function was entered: an attempt that still waits for a slot must
        # not count as entered, or the control plane could not give it to another instance.
        if before is not None and before.context.attempt >= attempt:
            again = (execution_id, attempt) in self._started
            return self._send(_accepted(invoke)) if again else []
        effects: list[Effect] = []
        if not self._gate.admit((execution_id, attempt)):
            return []
        if before is not None:
            self._started.discard((execution_id, before.context.attempt))
            self._gate.forget((execution_id, before.context.attempt))
            effects.append(StopAttempt(execution_id, before.context.attempt, SUPERSEDED))
        elif len(self._running) >= self._max_running:
            self._running[execution_id] = invoke
            return [RejectAttempt(invoke)]
        self._running[execution_id] = invoke
        return [*effects, StartAttempt(invoke)]

    def _cancelled(self, execution_id: str, reason: str) -> list[Effect]:
        invoke = self._running.get(execution_id)
        return [StopAttempt(execution_id, invoke.context.attempt, reason)] if invoke is not None else []

    # --- operations ---------------------------------------------------------------------------------------------

    def send_operation(self, operation: Operation) -> list[Effect]:
        """Keep an operation and send it, now and on each new link, until it is answered.

        Raises:
            LimitExceeded: `max_operations` wait for an answer already.
        """
        if len(self._operations) >= self._max_operations:
            raise LimitExceeded(
                f"This node has {self._max_operations} unanswered calls, which is the maximum.",
                hint="Await some calls before making more.",
            )
        self._operations[operation.op_id] = operation
        return self._send(operation)

    def forget_operation(self, op_id: str) -> None:
        """Drop an operation whose answer is no longer awaited."""
        self._operations.pop(op_id, None)

    def _resolved(self, op_id: str, value: Any, problem: dict[str, Any] | None) -> list[Effect]:
        if self._operations.pop(op_id, None) is None:
            return []
        return [ResolveOperation(op_id, value, problem)]

    # --- handlers -----------------------------------------------------------------------------------------------

    def handler_finished(self, done: SessionDone) -> list[Effect]:
        """Report that a handler returned or raised; a handler that was superseded reports nothing."""
        session_id = done.session_id
        if self._handlers.get(session_id) != done.epoch:
            return []
        del self._handlers[session_id]
        for op_id in [
            op.op_id for op in self._commands_of(session_id, done.epoch) if op.command in ("input", "listen")
        ]:
            del self._operations[op_id]  # sent again, `input` would take a turn that no handler reads
        # A handler that the control plane stopped need not be reported reliably: the session is already over there.
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
        self._forget_done(session_id, epoch=epoch)
        at_once = at_once or reason == SUPERSEDED
        effects: list[Effect] = []
        if running is not None:
            self._stopped[session_id] = running
            effects.append(StopHandler(session_id, running, reason, at_once))
        problem = SessionEnded(f"The session is over: {reason}.", reason=reason, session_id=session_id).to_problem()
        # Calls outlive the session's end, so that the handler can do its post-call work; a superseded handler may do nothing.
        for command in [c for c in self._commands_of(session_id, epoch) if at_once or c.command != "call"]:
            effects += self._resolved(command.op_id, None, problem)
        return effects

    def _forget_done(self, session_id: str, *, op_id: str | None = None, epoch: int | None = None) -> None:
        done = self._done.get(session_id)
        if done is not None and (done.op_id == op_id or (epoch is not None and done.epoch <= epoch)):
            del self._done[session_id]

    def _commands_of(self, session_id: str, epoch: int) -> list[SessionCommand]:
        commands: Iterable[Operation] = self._operations.values()
        return [
            c for c in commands if isinstance(c, SessionCommand) and c.session_id == session_id and c.epoch <= epoch
        ]

    def _send(self, frame: Accepted | Operation | SessionDone) -> list[Effect]:
        return [Send(frame)] if self.linked else []


def _accepted(invoke: Invoke) -> Accepted:
    return Accepted(execution_id=invoke.context.execution_id, attempt=invoke.context.attempt, epoch=invoke.epoch)


def _attempt(invoke: Invoke) -> RunningAttempt:
    return RunningAttempt(execution_id=invoke.context.execution_id, attempt=invoke.context.attempt, epoch=invoke.epoch)
