"""The engine: every call is a row before it is work, and is answered after its result is a row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from agentfield.errors import (
    AgentFieldError,
    Conflict,
    ExecutionCancelled,
    ExecutionTimeout,
    NodeNotConnected,
    NotFound,
)
from agentfield.wire.frames import Accepted, Call, Cancel, PauseRequest, Progress, Result, ResultAck, Welcome
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.bus import Bus
from agentfield_server.engine.approvals import Approvals
from agentfield_server.engine.backoff import pause
from agentfield_server.engine.calls import Calls
from agentfield_server.engine.deadlines import Deadlines
from agentfield_server.engine.dispatch import LEASE, Dispatcher
from agentfield_server.engine.leases import Leases
from agentfield_server.engine.results import Outcome, judge
from agentfield_server.engine.targets import declared, prepared
from agentfield_server.engine.tasks import Tasks
from agentfield_server.engine.waiters import Waiters
from agentfield_server.nodes import Held, LinkHub, NodeLink
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, Execution, NewEvent, NewExecution

__all__ = ["FINAL", "Engine"]

T = TypeVar("T")

_log = logging.getLogger("agentfield.engine")

FINAL: frozenset[ExecutionStatus] = frozenset({"succeeded", "failed", "cancelled", "timeout"})
"""States that are never left."""

MAX_QUEUED = 10_000
"""How many executions may wait for one node."""


class Engine:
    """Runs executions on the linked nodes. An asynchronous context manager that owns its tasks.

    Args:
        store: What is kept; open.
        hub: The node links; the engine binds itself to it.
        bus: Told of each closed execution, topic ``execution:{id}``.
        clock: Seconds since the epoch.
        lease: Seconds that a node which is away may come back and go on with its work.
        max_queued: How many executions may wait for one node; twice as many of those that live calls wait for.
        ended: Told of each execution that is closed here.
    """

    def __init__(
        self,
        store: Store,
        hub: LinkHub,
        bus: Bus,
        *,
        clock: Callable[[], float],
        lease: float = LEASE,
        max_queued: int = MAX_QUEUED,
        ended: Callable[[Execution], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._hub = hub
        self._bus = bus
        self._clock = clock
        self._max_queued = max_queued
        self._ended = ended
        self._tasks = Tasks()
        self._waiters = Waiters()
        self.approvals = Approvals(store, self._go_on, clock=clock)
        """Decisions of humans."""
        self._dispatcher = Dispatcher(store, hub, clock=clock, decisions=self.approvals.decisions, lease=lease)
        self._deadlines = Deadlines(clock=clock, due=self._time_out)
        self._leases = Leases(store, hub, self._dispatcher, close=self._close, lease=lease)
        self._calls = Calls(store, hub, self, room=self._dispatcher.room)
        hub.bind_engine(self)

    async def __aenter__(self) -> Self:
        """Take up what was left open, and start."""
        rows = [row for row in await self._store.open_executions() if row.kind in ("tool", "call")]
        for row in rows:
            self._deadlines.add(row.id, row.deadline)
            if row.status == "queued":
                self._dispatcher.waits(row.target.partition(".")[0])
        self._leases.adopt(rows)
        await self.approvals.adopt()
        for loop in (self._dispatcher.run(), self._deadlines.run(), self._leases.run(), self.approvals.run()):
            self._tasks.start(loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; open executions stay open and are taken up by the next engine."""
        await self._tasks.close()

    # --- asking

    async def submit(self, new: NewExecution) -> Execution:
        """Commit a call of a target and dispatch it; a repeated `op_id` or idempotency key returns the first one.

        Retries and timeout are taken from the target's declaration where `new` does not set them.

        Raises:
            NotFound: Nobody ever declared the target (code `unknown_target`).
            NodeNotConnected: Its node is away for more than 10 s.
            InvalidInput: The input is not JSON, the parent is not of this run, or the key was used with another body.
            LimitExceeded: The input is larger than 1 MiB, or too many wait for the node already (code `queue_full`).
        """
        try:
            spec = declared(self._hub, new.target)
        except (NotFound, NodeNotConnected):
            # a repeated call has its answer, whoever is away by now
            earlier = None if new.op_id is None else await self._store.execution_of(new.op_id)
            if earlier is None:
                raise
            return earlier
        new = await prepared(new, spec)
        return await self._whole(self._create(new))

    async def run(self, new: NewExecution, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Submit and wait, as `submit` and `wait` in one."""
        with self._waiters.expect(new.id) as future:
            execution = await self.submit(new)
            if execution.id != new.id:
                return await self.wait(execution.id, timeout)
            if execution.status in FINAL:
                return execution
            return await self._until(execution.id, future, timeout)

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait until an execution is closed; after `timeout` seconds return it as it is then.

        Raises:
            NotFound: There is no such execution.
        """
        with self._waiters.expect(execution_id) as future:
            execution = await self.find(execution_id)
            if execution.status in FINAL:
                return execution
            if execution.kind in ("session", "turn"):
                return await self._until_recorded(execution, timeout)
            return await self._until(execution_id, future, timeout)

    async def _until(self, execution_id: str, future: asyncio.Future[Execution], timeout: float | None) -> Execution:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            return await self.find(execution_id)

    async def _until_recorded(self, execution: Execution, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait for what the sessions close, by its event."""
        try:
            with self._bus.subscribe(f"run:{execution.run_id}") as events:
                async with asyncio.timeout(timeout):
                    while (current := await self.find(execution.id)).status not in FINAL:
                        async for rows in events:
                            if isinstance(rows, list) and any(_ends(row, execution.id) for row in rows):
                                break
                    return current
        except TimeoutError:
            return await self.find(execution.id)

    async def find(self, execution_id: str) -> Execution:
        """Return an execution.

        Raises:
            NotFound: There is none.
        """
        execution = await self._store.get_execution(execution_id)
        if execution is None:
            raise NotFound(
                f"There is no execution {execution_id!r}.",
                code="unknown_execution",
                hint="an id begins with exe_; af session workflows SESSION shows them",
            )
        return execution

    async def cancel(self, execution_id: str, reason: str = "cancelled", *, tree: bool = True) -> Execution:
        """Cancel an execution and what it called; returns it closed, also when it was closed before.

        Args:
            execution_id: The execution.
            reason: Why, for whoever looks at it.
            tree: Whether what it called is cancelled too.

        Raises:
            NotFound: There is no such execution.
            Conflict: It is a session or turn: those end with their session.
        """
        execution = await self.find(execution_id)
        if execution.kind in ("session", "turn"):
            raise Conflict(
                f"{execution_id} is a {execution.kind}; it ends with its session.",
                code="not_cancellable",
                hint=f"af session end {execution.session_id}",
            )
        problem = ExecutionCancelled(f"The call of {execution.target} was cancelled: {reason}.", reason=reason)
        done = await self._close(execution_id, status="cancelled", problem=problem, tree=tree)
        return done or await self.find(execution_id)

    async def cancel_run(self, run_id: str, reason: str) -> int:
        """Cancel every open call of a run; returns how many. A session and its turns end with the session."""
        rows = [row for row in await self._store.open_executions(run_id=run_id) if row.kind in ("tool", "call")]
        done = [await self.cancel(row.id, reason, tree=False) for row in rows]
        return sum(row.status == "cancelled" for row in done)

    def timeout_of(self, target: str) -> float | None:
        """Return the timeout that a target declares, None when there is none."""
        spec = self._hub.function(target)
        return None if spec is None else spec.timeout

    # --- the way of an execution

    async def _create(self, new: NewExecution) -> Execution:
        link = self._dispatcher.reserve(new)
        execution, is_new = None, False
        try:
            if link is None:
                execution, is_new = await self._store.create_execution(new, room=self._max_queued)
            else:
                execution, is_new = await self._store.create_execution(
                    new, lease_to=link.instance_id, lease_until=self._dispatcher.lease_until
                )
        finally:
            if link is not None and not is_new:
                link.release(new.id)
        if not is_new:
            return execution
        self._deadlines.add(execution.id, execution.deadline)
        if link is None:
            self._dispatcher.waits(new.target.partition(".")[0])
        else:
            await self._dispatcher.invoke(execution, link)
        return execution

    async def _close(
        self,
        execution_id: str,
        *,
        status: ExecutionStatus,
        problem: AgentFieldError,
        attempt: int | None = None,
        epoch: int | None = None,
        tree: bool = True,
    ) -> Execution | None:
        """Close an execution from this side; who runs it is told to stop, what it called is stopped as well."""
        document = {**problem.to_problem(), "execution_id": execution_id}
        outcome = Outcome(status=status, problem=document)
        return await self._whole(self._close_now(execution_id, outcome, attempt=attempt, epoch=epoch, tree=tree))

    async def _close_now(
        self, execution_id: str, outcome: Outcome, *, attempt: int | None, epoch: int | None, tree: bool
    ) -> Execution | None:
        done = await self._store.complete_execution(
            execution_id, attempt=attempt, epoch=epoch, status=outcome.status, problem=outcome.problem
        )
        if done is None:
            return None
        link = self._hub.instance(done.lease_owner)
        if link is not None and execution_id in link.held:
            self._tasks.start(self._tell_to_stop(link, done))
        self._closed(done, link)
        if tree:
            self._tasks.start(self._close_children(done))
        return done

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, also when who asked for it is cancelled: what is committed must be told of."""
        return await asyncio.shield(self._tasks.start(work, watched=True))

    async def _tell_to_stop(self, link: NodeLink, done: Execution) -> None:
        try:
            await link.send(Cancel(execution_id=done.id, reason=done.status))
        except NodeNotConnected:
            _log.debug("node %s left before %s could be cancelled there", link.node_id, done.id)

    async def _close_children(self, parent: Execution) -> None:
        for row in await self._store.open_executions(run_id=parent.run_id):
            if row.parent_id == parent.id and row.kind in ("tool", "call"):
                problem = ExecutionCancelled(f"{parent.target}, which had called {row.target}, was given up.")
                await self._close(row.id, status="cancelled", problem=problem)

    def _closed(self, done: Execution, link: NodeLink | None) -> None:
        """Tell everybody that an execution is closed."""
        if link is not None:
            link.release(done.id)
            self._dispatcher.room(link.node_id)
        self._ended(done)
        self._waiters.push(done)
        self._bus.publish(f"execution:{done.id}", done)

    async def _time_out(self, execution_id: str) -> None:
        row = await self._store.get_execution(execution_id)
        if row is None or row.status in FINAL or row.deadline is None:
            return
        if row.deadline > self._clock():
            self._deadlines.add(row.id, row.deadline)  # it was parked meanwhile: the time stood still
            return
        seconds = row.deadline - row.created_at
        problem = ExecutionTimeout(
            f"{row.target} did not answer within {seconds:g} s.",
            hint="allow more time (timeout=), or see what it waits for",
            target=row.target,
        )
        await self._close(execution_id, status="timeout", problem=problem)

    # --- EnginePort

    async def reconcile(self, link: NodeLink) -> Welcome:
        """Compare what a node says it holds with what is stored."""
        return await self._leases.reconcile(link)

    async def node_linked(self, link: NodeLink) -> None:
        """Give a node what it missed, and what waits."""
        if link.held:
            self._tasks.start(self._leases.ask_again(link))
        self._dispatcher.room(link.node_id)

    async def node_lost(self, link: NodeLink) -> None:
        """Decide about what a node held."""
        await self._leases.node_lost(link)

    async def accepted(self, link: NodeLink, frame: Accepted) -> None:
        """Record that a function was entered."""
        held = link.held.get(frame.execution_id)
        if held is not None and await self._store.accept_execution(
            frame.execution_id, attempt=frame.attempt, epoch=frame.epoch
        ):
            held.accepted = True
        elif frame.execution_id not in link.held:
            # given up meanwhile; a newer attempt on the same instance would be held
            await link.send(Cancel(execution_id=frame.execution_id, reason="given up"))

    async def result(self, link: NodeLink, frame: Result, *, entered: bool = False) -> None:
        """Record what came of an attempt, answer who waits, then acknowledge.

        Args:
            link: Where it ran.
            frame: What the node says.
            entered: Whether that the function was entered is to be recorded with it.
        """
        held = link.held.get(frame.execution_id)
        used = held is not None and await self._record(link, frame, held, entered=entered)
        used = used or await self._was_used(frame)
        await link.send(ResultAck(execution_id=frame.execution_id, attempt=frame.attempt, accepted=used))

    async def _record(self, link: NodeLink, frame: Result, held: Held, *, entered: bool) -> bool:
        outcome = await judge(frame, did=link.did, input_digest=held.input_digest)
        if entered and outcome.status != "succeeded":
            await self._store.accept_execution(frame.execution_id, attempt=frame.attempt, epoch=frame.epoch)
        if outcome.status == "waiting" and frame.pause is not None:
            return await self._park(link, frame, frame.pause)
        if frame.retry and outcome.status != "succeeded" and await self._again(link, frame, outcome):
            return True
        done = await self._store.complete_execution(
            frame.execution_id,
            attempt=frame.attempt,
            epoch=frame.epoch,
            status=outcome.status,
            output=outcome.output,
            problem=outcome.problem,
            input_digest=outcome.input_digest,
            output_digest=outcome.output_digest,
            signature=outcome.signature,
            signer=outcome.signer,
            entered=(frame.took or 0.0) if entered else None,
        )
        if done is not None:
            self._closed(done, link)
        return done is not None

    async def _again(self, link: NodeLink, frame: Result, outcome: Outcome) -> bool:
        """Queue another attempt, where one is left and the node signed for what it said."""
        row = await self._store.get_execution(frame.execution_id)
        if row is None or row.attempt >= row.max_attempts or outcome.signature is None:
            return False
        at = self._clock() + pause(row.backoff, row.attempt)
        if row.deadline is not None and at >= row.deadline:
            return False
        body = {"attempt": frame.attempt, "status": outcome.status, "problem": outcome.problem, "not_before": at}
        event = NewEvent(type="execution.retrying", body=body, execution_id=row.id)
        queued = await self._store.requeue_execution(
            row.id, attempt=frame.attempt, epoch=frame.epoch, not_before=at, anew=True, events=(event,)
        )
        if queued:
            link.release(row.id)
            self._dispatcher.waits(link.node_id)
        return queued

    async def _park(self, link: NodeLink, frame: Result, request: PauseRequest) -> bool:
        """Let an execution wait for a decision: its place on the node is free from here on."""
        parked = await self.approvals.park(frame.execution_id, request, attempt=frame.attempt, epoch=frame.epoch)
        if parked is not None:
            link.release(frame.execution_id)
            self._dispatcher.room(link.node_id)
        return parked is not None

    async def _go_on(self, execution_id: str) -> None:
        """A parked execution is queued again, with the time that it had left."""
        row = await self._store.get_execution(execution_id)
        if row is not None and row.status not in FINAL:
            self._deadlines.add(row.id, row.deadline)
            self._dispatcher.waits(row.target.partition(".")[0])

    async def progress(self, link: NodeLink, frame: Progress) -> None:
        """Record how far a run has come."""
        if frame.execution_id in link.held:
            await self._store.progress(
                frame.execution_id, attempt=frame.attempt, epoch=frame.epoch, value=dict(frame.value)
            )

    async def _was_used(self, frame: Result) -> bool:
        row = await self._store.get_execution(frame.execution_id)
        return (
            row is not None
            and row.status in FINAL
            and row.attempt == frame.attempt
            and row.signature == frame.signature
        )

    async def call(self, link: NodeLink, frame: Call) -> None:
        """Commit a call of a node and follow it."""
        await self._calls.serve(link, frame, now=self._clock())


def _ends(row: EventRow, execution_id: str) -> bool:
    return row.type == "execution.ended" and row.execution_id == execution_id
