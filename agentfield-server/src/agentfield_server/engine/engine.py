"""The engine: a call is committed before it is dispatched, and answered after its result is committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from agentfield.errors import (
    AgentFieldError,
    Conflict,
    ExecutionCancelled,
    ExecutionTimeout,
    NodeNotConnected,
    NotFound,
)
from agentfield.values import is_large, nearest
from agentfield.wire.frames import Accepted, Call, Cancel, Progress, Result, Welcome
from agentfield.wire.node_declarations import FunctionSpec
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.access.admission import AccessControl
from agentfield_server.bus import Bus
from agentfield_server.engine.admission import admit, encode_input, prepare_execution, resolve_target
from agentfield_server.engine.approvals import Approvals
from agentfield_server.engine.deadlines import Deadlines
from agentfield_server.engine.dispatch import LEASE, Dispatcher
from agentfield_server.engine.entries import EntryRecorder
from agentfield_server.engine.leases import LeaseManager
from agentfield_server.engine.node_frames import NodeCalls, NodeResults
from agentfield_server.engine.results import ResultVerifier
from agentfield_server.engine.tasks import BackgroundTasks
from agentfield_server.engine.waiters import FINAL, ExecutionWaiters
from agentfield_server.nodes import AssignedAttempt, Handled, LinkedNode, LinkHub
from agentfield_server.store.operations import CompleteExecution, CreateExecution, RecordProgress, Then, settling
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["Engine"]

_log = logging.getLogger("agentfield.engine")

MAX_QUEUED = 10_000
"""Default limit of queued executions for one node."""


class Engine:
    """Runs executions on the linked nodes. An asynchronous context manager that owns its tasks.

    Args:
        store: The open store.
        hub: The node links; the engine binds itself to it.
        bus: Publishes each closed execution, topic ``execution:{id}``.
        access: Admits calls.
        clock: Seconds since the epoch.
        lease: Seconds in which a node that lost its link may return and continue its work.
        max_queued: Limit of queued executions for one node; twice as many for those of live sessions.
        ended: Called with each execution that is closed here.
    """

    def __init__(
        self,
        store: Store,
        hub: LinkHub,
        bus: Bus,
        *,
        access: AccessControl,
        clock: Callable[[], float],
        lease: float = LEASE,
        max_queued: int = MAX_QUEUED,
        ended: Callable[[Execution], None] = lambda _: None,
    ) -> None:
        self._store, self._hub, self._bus = store, hub, bus
        self._access, self._clock = access, clock
        self._max_queued, self._ended = max_queued, ended
        self._tasks = BackgroundTasks()
        self._entries = EntryRecorder(store)
        self._waiters = ExecutionWaiters(self.find, bus)
        self.approvals = Approvals(store, access, self._resume, clock=clock)
        """Decisions about suspended executions."""
        self._dispatcher = Dispatcher(
            store, hub, clock=clock, decisions=self.approvals.decisions, start=self._tasks.start, lease=lease
        )
        self._deadlines = Deadlines(clock=clock, due=self._time_out)
        self._leases = LeaseManager(store, hub, self._dispatcher, close=self._close, lease=lease)
        self._results = NodeResults(
            store,
            ResultVerifier(hub.did),
            self._dispatcher,
            self._entries,
            self.approvals,
            self._tasks,
            closed=self._announce_closed,
            clock=clock,
        )
        self._calls = NodeCalls(store, hub, self, self._tasks, capacity_freed=self._dispatcher.capacity_freed)
        hub.bind_engine(self)

    async def __aenter__(self) -> Self:
        """Take over the open executions of an earlier control plane and start the tasks."""
        rows = [row for row in await self._store.open_executions() if row.kind in ("tool", "call")]
        for row in rows:
            self._deadlines.add(row.id, row.deadline)
            if row.status == "queued":
                self._dispatcher.work_waiting(row.target.partition(".")[0])
        self._leases.restore(rows)
        await self.approvals.restore()
        for loop in (self._dispatcher.run(), self._deadlines.run(), self._leases.run(), self.approvals.run()):
            self._tasks.start(loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; open executions stay open for the next engine."""
        self._entries.close()
        await self._tasks.close()
        try:
            await self._entries.record_all()
        except AgentFieldError as error:
            _log.warning("what nodes entered last is not recorded: %s", error.message)

    # --- requests

    async def submit(self, new: NewExecution) -> Execution:
        """Commit a call of a target and dispatch it; a repeated `op_id` or idempotency key returns the first execution.

        Retries and timeout come from the target's declaration where `new` does not set them.

        Raises:
            NotFound: No node ever declared the target (code `unknown_target`).
            NodeNotConnected: Its node has been away for more than 10 s.
            InvalidInput: The input is not JSON, the parent is not of this run, or the key was used with another body.
            LimitExceeded: The input is larger than 1 MiB, or the queue of the node is full (code `queue_full`).
            Forbidden: The rules of access do not allow it (code `access_denied`).
        """
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self.start(new, settling(future))
        return await future

    def start(self, new: NewExecution, then: Then[Execution]) -> None:
        """Submit a call without waiting for its commit, see `submit`."""
        try:
            spec = resolve_target(self._hub, new.target)
            if is_large(new.input) or not self._access.knows_chain(new.parent_id):
                self._tasks.start_then(self._commit_slowly(new, spec), then)
            else:
                admitted = admit(new, self._access)
                self._commit(prepare_execution(new, spec, encode_input(new, spec), admitted), then)
        except (NotFound, NodeNotConnected) as error:
            if new.op_id is None:
                then(None, error)
            else:
                self._tasks.start_then(self._find_repeated(new.op_id, error), then)
        except AgentFieldError as error:
            then(None, error)

    async def _commit_slowly(self, new: NewExecution, spec: FunctionSpec) -> Execution:
        """Commit a call with a large input, or under a parent of which the store has to be asked."""
        await self._access.learn_chain(new.parent_id)
        admitted = admit(new, self._access)
        given = await asyncio.to_thread(encode_input, new, spec)
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self._commit(prepare_execution(new, spec, given, admitted), settling(future))
        return await future

    async def _find_repeated(self, op_id: str, error: AgentFieldError) -> Execution:
        """Return the execution of a repeated call: also when its node has left since."""
        earlier = await self._store.execution_for_op(op_id)
        if earlier is None:
            raise error
        return earlier

    async def run(self, new: NewExecution, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Submit an execution and wait for its end, see `submit` and `wait`."""
        with self._waiters.expect(new.id) as future:
            execution = await self.submit(new)
            if execution.id != new.id:
                return await self.wait(execution.id, timeout)
            if execution.status in FINAL:
                return execution
            return await self._waiters.until_closed(execution.id, future, timeout)

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait until an execution is closed; after `timeout` seconds return its current state.

        Raises:
            NotFound: It does not exist.
        """
        with self._waiters.expect(execution_id) as future:
            if self._hub.is_assigned(execution_id):
                return await self._waiters.until_closed(execution_id, future, timeout)
            execution = await self.find(execution_id)
            if execution.status in FINAL:
                return execution
            if execution.kind in ("session", "turn"):
                return await self._waiters.until_recorded(execution, timeout)
            return await self._waiters.until_closed(execution_id, future, timeout)

    def when_closed(self, execution_id: str, then: Then[Execution]) -> Callable[[], None]:
        """Call `then` once with the closed execution, or with the error if it cannot be read; return what cancels that."""
        cancel = self._waiters.call(execution_id, lambda execution: then(execution, None))
        if not self._hub.is_assigned(execution_id):  # it may be closed already
            self._tasks.start(self._notify_if_closed(execution_id, cancel, then))
        return cancel

    async def _notify_if_closed(self, execution_id: str, cancel: Callable[[], None], then: Then[Execution]) -> None:
        try:
            execution = await self.find(execution_id)
        except AgentFieldError as error:
            cancel()
            then(None, error)
        else:
            if execution.status in FINAL:
                self._waiters.resolve(execution)

    async def find(self, execution_id: str) -> Execution:
        """Return an execution.

        Raises:
            NotFound: It does not exist.
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
        """Cancel an execution and its descendants; return the closed execution. One that is closed already stays as it is.

        Args:
            execution_id: The execution.
            reason: Reason for the problem document.
            tree: Whether the executions that it called are cancelled too.

        Raises:
            NotFound: It does not exist.
            Conflict: It is a session or turn; those end with their session.
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
        """Cancel every open call of a run; return how many. A session and its turns end with the session."""
        rows = [row for row in await self._store.open_executions(run_id=run_id) if row.kind in ("tool", "call")]
        done = [await self.cancel(row.id, reason, tree=False) for row in rows]
        return sum(row.status == "cancelled" for row in done)

    def output_schema_of(self, target: str) -> Mapping[str, Any] | None:
        """Return the declared JSON Schema of a target's result, None when it has none."""
        spec = self._hub.function(target)
        return None if spec is None else spec.output_schema

    def timeout_of(self, target: str) -> float | None:
        """Return the declared timeout of a target in seconds, None when it has none."""
        spec = self._hub.function(target)
        return None if spec is None else spec.timeout

    # --- lifecycle of an execution

    def _commit(self, new: NewExecution, then: Then[Execution]) -> None:
        """Commit an execution and dispatch it, whether or not its caller still waits."""
        link = self._dispatcher.reserve(new)
        if link is None:
            operation = CreateExecution(new, max_queued=self._max_queued)
        else:
            operation = CreateExecution(new, lease_to=link.instance_id, lease_until=self._dispatcher.lease_until)
        self._store.post(operation, partial(self._committed, new, link, then))

    def _committed(
        self,
        new: NewExecution,
        link: LinkedNode | None,
        then: Then[Execution],
        created: tuple[Execution, bool] | None,
        error: BaseException | None,
    ) -> None:
        execution, is_new = created or (None, False)
        try:
            if execution is not None and is_new:
                self._deadlines.add(execution.id, execution.deadline)
                if link is None:
                    self._dispatcher.work_waiting(new.target.partition(".")[0])
                else:
                    self._dispatcher.invoke_created(execution, link)
            elif link is not None:
                self._dispatcher.release(link, new.id)
        finally:  # it is committed, whatever fails here
            then(execution, error)

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
        """Close an execution without a result of its node; cancel it there, and cancel its descendants."""
        document = {**problem.to_problem(), "execution_id": execution_id}
        future: asyncio.Future[Execution | None] = asyncio.get_running_loop().create_future()
        operation = CompleteExecution(
            execution_id=execution_id, attempt=attempt, epoch=epoch, status=status, problem=document
        )
        self._entries.submit(execution_id)
        self._store.post(operation, partial(self._closed, settling(future), tree))
        return await future

    def _closed(
        self, then: Then[Execution | None], tree: bool, closed: Execution | None, error: BaseException | None
    ) -> None:
        try:
            if closed is not None:
                link = self._hub.instance(closed.lease_owner)
                if link is not None and closed.id in link.assigned:
                    link.post(Cancel(execution_id=closed.id, reason=closed.status))
                self._announce_closed(closed, link)
                if tree:
                    self._tasks.start(self._cancel_children(closed))
        finally:
            then(closed, error)

    async def _cancel_children(self, parent: Execution) -> None:
        for row in await self._store.open_executions(run_id=parent.run_id):
            if row.parent_id == parent.id and row.kind in ("tool", "call"):
                problem = ExecutionCancelled(f"{parent.target}, which had called {row.target}, was given up.")
                await self._close(row.id, status="cancelled", problem=problem)

    def _announce_closed(self, done: Execution, link: LinkedNode | None) -> None:
        """Release the slot of a closed execution and notify waiters and the bus."""
        if link is not None:
            link.release(done.id)
        # also without a link: the concurrency of a function is counted over all instances of its node
        self._dispatcher.capacity_freed(done.target.partition(".")[0])
        self._waiters.resolve(done)
        self._bus.publish(f"execution:{done.id}", done)
        self._ended(done)

    async def _time_out(self, execution_id: str) -> None:
        row = await self._store.get_execution(execution_id)
        if row is None or row.status in FINAL or row.deadline is None:
            return
        if row.deadline > self._clock():
            self._deadlines.add(row.id, row.deadline)  # moved: the deadline does not run while it is suspended
            return
        seconds = row.deadline - row.created_at
        problem = ExecutionTimeout(
            f"{row.target} did not answer within {seconds:g} s.",
            hint="allow more time (timeout=), or see what it waits for",
            target=row.target,
        )
        await self._close(execution_id, status="timeout", problem=problem)

    # --- EnginePort

    async def reconcile(self, link: LinkedNode) -> Welcome:
        """Compare the attempts that a node reports with the store."""
        return await self._leases.reconcile(link)

    async def node_linked(self, link: LinkedNode) -> None:
        """Repeat invocations that the node may have missed, and dispatch queued work to it."""
        if link.assigned:
            self._tasks.start(self._leases.resend_invocations(link))
        self._dispatcher.capacity_freed(link.node_id)

    async def node_lost(self, link: LinkedNode) -> None:
        """Decide about the attempts of a lost node."""
        try:
            await self._entries.record_all(link.instance_id)
        except AgentFieldError as error:
            _log.warning("the entries of %s will be recorded later: %s", link.instance_id, error.message)
        await self._leases.node_lost(link)
        self._dispatcher.capacity_freed(link.node_id)

    def accepted(self, link: LinkedNode, frame: Accepted) -> None:
        """Remember that a function was entered; it is recorded with the result, or by itself."""
        assigned = link.assigned.get(frame.execution_id)
        if assigned is None:
            # given up meanwhile (a newer attempt on the same instance would be assigned): stop it there
            link.post(Cancel(execution_id=frame.execution_id, reason="given up"))
        elif assigned.attempt == frame.attempt and not assigned.accepted:
            assigned.accepted, assigned.entered_at = True, time.monotonic()
            self._entries.note(link.instance_id, frame)

    async def given_back(self, link: LinkedNode, attempts: Sequence[AssignedAttempt]) -> None:
        """Requeue attempts that a node gave back before it entered them."""
        await self._leases.given_back(link, attempts)

    def takes_work_again(self, link: LinkedNode) -> None:
        """Dispatch queued work to a node whose event loop turns again."""
        self._dispatcher.capacity_freed(link.node_id)

    def result(self, link: LinkedNode, frame: Result, done: Handled) -> None:
        """Record the result of an attempt, notify waiters, then acknowledge it."""
        self._results.handle(link, frame, done)

    def fail_result(self, link: LinkedNode, frame: Result, problem: dict[str, Any], done: Handled) -> None:
        """Record a failure instead of a result that the control plane failed at, then acknowledge it."""
        self._results.fail(link, frame, problem, done)

    async def _resume(self, execution_id: str) -> None:
        """Dispatch a suspended execution that was queued again, with the time that it had left."""
        row = await self._store.get_execution(execution_id)
        if row is not None and row.status not in FINAL:
            self._deadlines.add(row.id, row.deadline)
            self._dispatcher.work_waiting(row.target.partition(".")[0])

    def progress(self, link: LinkedNode, frame: Progress, done: Handled) -> None:
        """Record the progress of an attempt."""
        if frame.execution_id not in link.assigned:
            done()
            return
        self._entries.submit(frame.execution_id)
        value = nearest(dict(frame.value))
        operation = RecordProgress(frame.execution_id, attempt=frame.attempt, epoch=frame.epoch, value=value)
        self._store.post(operation, lambda _, error: done(error))

    def call(self, link: LinkedNode, frame: Call, done: Handled) -> None:
        """Commit a call of a node and follow it to its end."""
        if frame.parent_id is not None:
            self._entries.submit(frame.parent_id)
        self._calls.serve(link, frame, done, now=self._clock())
