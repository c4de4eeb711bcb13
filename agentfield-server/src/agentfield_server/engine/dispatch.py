"""Dispatch of executions to nodes: the lease is committed first, then the node is invoked; the rest waits in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.identity import b64url
from agentfield.wire.frames import ExecutionContext, Invoke
from agentfield.wire.link_protocol import PROOFS
from agentfield_server.engine.results import commit_input
from agentfield_server.nodes import AssignedAttempt, LinkedNode, LinkHub
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewEvent, NewExecution

__all__ = ["LEASE", "Dispatcher", "returned"]

_log = logging.getLogger("agentfield.engine")

LEASE = 10.0
"""Seconds in which a node that lost its link may return and continue its work."""

_PAGE = 100
_AFTER_FAILURE = 1.0
_LONGEST_SLEEP = 1.0
"""Seconds between two reads of the clock while an execution is delayed, so that a jump of the clock is noticed."""


class Dispatcher:
    """Finds a node instance for each execution.

    One rule keeps restarts, reconnects and cancellations simple: an attempt is entered into `link.assigned` before its
    lease is committed, and the node is invoked only while the entry is still there.

    Args:
        store: Holds the queue.
        hub: Picks instances.
        clock: Seconds since the epoch.
        decisions: Returns the decisions about the pauses of an execution.
        start: Starts a task.
        lease: Duration of a lease, seconds.
    """

    def __init__(
        self,
        store: Store,
        hub: LinkHub,
        *,
        clock: Callable[[], float],
        decisions: Callable[[Execution], Awaitable[dict[str, dict[str, Any]]]],
        start: Callable[[Coroutine[Any, Any, None]], object],
        lease: float = LEASE,
    ) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._decisions = decisions
        self._start = start
        self._lease = lease
        self._backlog: set[str] = set()
        self._to_check: set[str] = set()
        self._due: dict[str, float] = {}
        """By node: when its next delayed execution may start."""
        self._wake = asyncio.Event()
        self.lease_lock = asyncio.Lock()
        """Serialises decisions about the leases of an instance: reconciled, given up, or returned."""

    @property
    def lease_until(self) -> float:
        """End of a lease that begins now, seconds since the epoch."""
        return self._clock() + self._lease

    def has_backlog(self, node_id: str) -> bool:
        """Return whether work of a node may be queued; then new work must not overtake it."""
        return node_id in self._backlog

    def work_waiting(self, node_id: str) -> None:
        """Note that work of a node is queued in the store."""
        self._backlog.add(node_id)
        self.capacity_freed(node_id)

    def capacity_freed(self, node_id: str) -> None:
        """Note that a node may have a free slot: look for queued work."""
        if node_id in self._backlog:
            self._to_check.add(node_id)
            self._wake.set()

    def release(self, link: LinkedNode, execution_id: str) -> None:
        """Free the slot of an attempt, and look for queued work that may take it."""
        link.release(execution_id)
        self.capacity_freed(link.node_id)

    def reserve(self, new: NewExecution) -> LinkedNode | None:
        """Reserve a slot for a new execution on a linked instance; return None when it must be queued."""
        node_id, _, function = new.target.partition(".")
        if node_id in self._backlog or new.delay:
            return None
        link = self._hub.pick(node_id, function)
        if link is not None:
            link.assigned[new.id] = AssignedAttempt(
                execution_id=new.id,
                run_id=new.run_id,
                session_id=new.session_id,
                actor_id=new.actor_id,
                function=function,
                deadline=None if new.timeout is None else self._clock() + new.timeout,
                parent_id=new.parent_id,
                input_salt=new.input_salt,
                input_commitment=new.input_commitment,
            )
        return link

    async def run(self) -> None:
        """Dispatch queued work until cancelled."""
        while True:
            await self._sleep()
            while self._to_check:
                node_id = self._to_check.pop()
                try:
                    await self._dispatch_waiting(node_id)
                except AgentFieldError as error:
                    _log.warning("queued work could not be dispatched, it will be tried again: %s", error.message)
                    self.work_waiting(node_id)
                    await asyncio.sleep(_AFTER_FAILURE)

    async def _sleep(self) -> None:
        """Wait until a node may have a free slot, or a delayed execution may start."""
        pause = None
        if self._due:
            pause = min(max(min(self._due.values()) - self._clock(), 0.0), _LONGEST_SLEEP)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        now = self._clock()
        for node_id in [name for name, at in self._due.items() if at <= now]:
            del self._due[node_id]
            self._backlog.add(node_id)
            self._to_check.add(node_id)

    async def _dispatch_waiting(self, node_id: str) -> None:
        """Lease queued executions of a node while it has free slots."""
        full, now = set[str](), self._clock()
        while any(link.load < 1 for link in self._hub.links(node_id)):
            # cleared before the query: an execution that is queued after it sets the mark again
            self._backlog.discard(node_id)
            now = self._clock()
            waiting = await self._store.queued_executions(node_id, now=now, limit=_PAGE, without=sorted(full))
            results = await asyncio.gather(*(self._try_dispatch(row) for row in waiting))
            # a target without a free instance must not block the others of the node
            untaken = full | {row.target for row, taken in zip(waiting, results, strict=True) if not taken}
            # looked at again: a slot that was freed since the query, without the mark, woke nobody
            full = {target for target in untaken if self._pick(target) is None}
            if len(waiting) == _PAGE or full:
                self._backlog.add(node_id)
            if not waiting and full == untaken:
                break
        at = await self._store.next_start(node_id, after=now)
        if at is not None:
            self._due[node_id] = at

    async def _try_dispatch(self, row: Execution) -> bool:
        """Lease one execution to a fitting instance; return False when there is none."""
        link = self._pick(row.target)
        if link is None:
            return False
        assigned = AssignedAttempt.of(row)
        assigned.accepted = False
        assigned.attempt = row.attempt + 1
        link.assigned[row.id] = assigned
        leased = None
        try:
            leased = await self._store.lease_execution(row.id, owner=link.instance_id, until=self.lease_until)
        finally:
            if leased is None:
                self.release(link, row.id)
        if leased is not None:
            await self.invoke(leased, link)
        return True

    def _pick(self, target: str) -> LinkedNode | None:
        node_id, _, function = target.partition(".")
        return self._hub.pick(node_id, function)

    def invoke_created(self, execution: Execution, link: LinkedNode) -> None:
        """Send the first invocation of an execution that was created with its lease; return the lease if the link has ended."""
        if not self._send(execution, link, {}):
            self._start(self._return_lease(execution, link))

    async def invoke(self, execution: Execution, link: LinkedNode) -> None:
        """Send the invocation to the assigned node; return the lease when its link has ended."""
        decisions = await self._decisions(execution)
        assigned, salt = link.assigned.get(execution.id), execution.input_salt
        if assigned is not None and assigned.input_commitment is None and salt is not None and link.protocol >= PROOFS:
            assigned.input_commitment = await commit_input(salt, execution.input)
        if not self._send(execution, link, decisions):
            await self._return_lease(execution, link)

    def _send(self, execution: Execution, link: LinkedNode, decisions: dict[str, dict[str, Any]]) -> bool:
        """Send an invocation; return whether the lease is settled: by the node, or because the execution was closed."""
        assigned = link.assigned.get(execution.id)
        if assigned is None and self._hub.instance(link.instance_id) is link:
            return True  # closed while the lease was committed
        if not link.takes_work and not link.draining:
            return False
        if not link.post(invoke_frame(execution, decisions, salted=link.protocol >= PROOFS)):
            return False
        # without a gap after the frame was queued: from now on the node may enter it
        if assigned is not None:
            assigned.output_salt = execution.output_salt
            assigned.execution = execution
            assigned.sent = True
        return True

    async def _return_lease(self, execution: Execution, link: LinkedNode) -> None:
        async with self.lease_lock:
            self.release(link, execution.id)
            newer = self._hub.connecting_or_linked(link.instance_id)
            if newer is not None and newer is not link and (not newer.reconciled or execution.id in newer.assigned):
                return  # the instance has linked again: its reconciliation decides about this attempt
            row = await self._store.get_execution(execution.id)
            if row is None or row.accepted or row.status != "running":
                return
            if await self._store.requeue_execution(
                row.id,
                attempt=execution.attempt,
                epoch=execution.lease_epoch,
                entered=False,
                events=(returned(row, f"it was not sent to the instance {link.instance_id}"),),
            ):
                self.work_waiting(link.node_id)


def returned(row: Execution, why: str) -> NewEvent:
    """Return the event of an attempt that was not entered and does not count."""
    body = {"attempt": row.attempt, "instance_id": row.lease_owner, "reason": why}
    return NewEvent(type="execution.returned", body=body, execution_id=row.id)


def invoke_frame(execution: Execution, decisions: dict[str, dict[str, Any]], *, salted: bool) -> Invoke:
    """Return the frame that invokes an attempt, with the salts of its commitments if the link has proofs."""
    salts = {"input_salt": execution.input_salt, "output_salt": execution.output_salt} if salted else {}
    return Invoke(
        epoch=execution.lease_epoch,
        function=execution.target.partition(".")[2],
        input=execution.input,
        lineage=execution.lineage,
        decisions=decisions,
        **{name: b64url(salt) for name, salt in salts.items() if salt is not None},
        context=ExecutionContext(
            execution_id=execution.id,
            run_id=execution.run_id,
            parent_id=execution.parent_id,
            session_id=execution.session_id,
            actor_id=execution.actor_id,
            attempt=execution.attempt,
            deadline=execution.deadline,
        ),
    )
