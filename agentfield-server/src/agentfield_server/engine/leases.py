"""Leases of node instances: which attempts a returning node keeps, and which are requeued or failed as lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Literal, Protocol

from agentfield.errors import AgentFieldError, NodeLost
from agentfield.wire.frames import Cancel, Hello, Welcome
from agentfield.wire.link_protocol import WATCHED
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.engine.dispatch import Dispatcher, returned
from agentfield_server.nodes import AssignedAttempt, LinkedNode, LinkHub
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewEvent

__all__ = ["ExecutionCloser", "LeaseManager"]

_log = logging.getLogger("agentfield.engine")

_NEVER_ENTERED = 10
"""Attempts that may be returned before the function was entered; after that many, the invocation itself may end the link."""

_SLACK = 1.0
"""Seconds beyond its timeout in which a node ends an attempt itself."""

_Entered = Literal["yes", "no", "unknown"]


class ExecutionCloser(Protocol):
    """Closes an execution and notifies its waiters."""

    def __call__(
        self,
        execution_id: str,
        *,
        status: ExecutionStatus,
        problem: AgentFieldError,
        attempt: int | None = None,
        epoch: int | None = None,
    ) -> Awaitable[Execution | None]:
        """Close it if that attempt is current (None: any)."""


class LeaseManager:
    """Renews the leases of linked instances and decides about those of lost ones.

    Args:
        store: The store.
        hub: Knows the linked instances.
        dispatcher: Dispatches requeued executions.
        close: Closes lost executions.
        lease: Seconds that an instance may be away.
    """

    def __init__(
        self, store: Store, hub: LinkHub, dispatcher: Dispatcher, *, close: ExecutionCloser, lease: float
    ) -> None:
        self._store = store
        self._hub = hub
        self._dispatcher = dispatcher
        self._close = close
        self._lease = lease
        self._away: dict[str, float] = {}
        self._renewed = time.monotonic()

    def restore(self, rows: Iterable[Execution]) -> None:
        """After a restart of the control plane, give the owners of open executions one lease of time to link again."""
        for row in rows:
            if row.lease_owner is not None:
                self._away[row.lease_owner] = time.monotonic() + self._lease

    # --- an instance links

    async def reconcile(self, link: LinkedNode) -> Welcome:
        """Compare the attempts that a node reports with the store, see `EnginePort.reconcile`."""
        async with self._dispatcher.lease_lock:
            self._away.pop(link.instance_id, None)
            rows = await self._held_by(link)
            running = {attempt.execution_id for attempt in link.hello.running if _current(rows, attempt)}
            results = {attempt.execution_id for attempt in link.hello.results if _current(rows, attempt)}
            for row in rows.values():
                if row.accepted and row.id not in running | results:
                    why = f"the instance {link.instance_id} came back without it"
                    await self._handle_lost_attempt(row, why, entered="yes")
                else:
                    link.assigned[row.id] = AssignedAttempt.of(row)
                    # one that the node does not report was never received, or dropped: it is sent again
                    link.assigned[row.id].sent = row.id in running | results
            link.reconciled = True
            if rows:
                await self._store.renew_leases(link.instance_id, until=self._dispatcher.lease_until)
        return _welcome(link.hello, running, results)

    async def _held_by(self, link: LinkedNode) -> dict[str, Execution]:
        rows = await self._store.open_executions(lease_owner=link.instance_id)
        return {row.id: row for row in rows if row.target.partition(".")[0] == link.node_id}

    async def resend_invocations(self, link: LinkedNode) -> None:
        """Repeat invocations that a returned node may not have received; a node runs a repeated invocation only once."""
        answered = {attempt.execution_id for attempt in link.hello.results}
        for row in (await self._held_by(link)).values():
            assigned = link.assigned.get(row.id)
            if assigned is not None and not assigned.accepted and row.id not in answered:
                whole = row if not row.left_out else await self._store.get_execution(row.id)
                if whole is not None and (whole.status, whole.lease_epoch) == (row.status, row.lease_epoch):
                    await self._dispatcher.invoke(whole, link)

    # --- an instance is lost

    async def node_lost(self, link: LinkedNode) -> None:
        """Decide about the attempts of a lost node, see `EnginePort.node_lost`.

        When the node closed the link in order, all its frames have arrived: an attempt that is not accepted was not
        entered, and is requeued at once, as is one that was never sent. When the link broke or fell silent, an attempt
        that was sent may have been entered: the instance has its lease to come back and say so.
        """
        # one whose DID was revoked does not come back
        self._away[link.instance_id] = time.monotonic() + (0.0 if link.revoked else self._lease)
        # a node of version 1 may enter a function before it writes `Accepted`
        all_known = link.closed_in_order and link.protocol >= WATCHED
        try:
            async with self._dispatcher.lease_lock:
                for row in (await self._held_by(link)).values():
                    assigned = link.assigned.get(row.id)
                    if row.accepted or assigned is None or assigned.accepted or not (all_known or not assigned.sent):
                        continue
                    if self._hub.connecting_or_linked(link.instance_id) is None:
                        why = f"the instance {link.instance_id} went away"
                        await self._handle_lost_attempt(row, why, entered="no")
        except AgentFieldError as error:
            _log.warning(
                "the attempts of %s are decided about when its lease ends: %s", link.instance_id, error.message
            )

    async def given_back(self, link: LinkedNode, attempts: Sequence[AssignedAttempt]) -> None:
        """Requeue attempts that a blocked instance gave back, see `EnginePort.given_back`."""
        try:
            async with self._dispatcher.lease_lock:
                rows = await self._held_by(link)
                for attempt in attempts:
                    row = rows.get(attempt.execution_id)
                    if row is not None and not row.accepted and row.attempt == attempt.attempt:
                        why = f"the event loop of the instance {link.instance_id} is blocked"
                        await self._handle_lost_attempt(row, why, entered="no")
        except AgentFieldError as error:
            link.end(error.message)  # the instance links again, and gets what it does not report
            raise

    async def run(self) -> None:
        """Renew the leases of linked instances and expire those of lost ones; runs until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 20)
            try:
                await self._renew()
                await self._expire()
                await self._end_overdue()
            except AgentFieldError as error:
                _log.warning("leases could not be renewed or expired, it will be tried again: %s", error.message)

    async def _renew(self) -> None:
        if time.monotonic() - self._renewed < self._lease / 3:
            return
        self._renewed = time.monotonic()
        until = self._dispatcher.lease_until
        for link in self._hub.links():
            if link.assigned:
                await self._store.renew_leases(link.instance_id, until=until)

    async def _expire(self) -> None:
        now = time.monotonic()
        for instance_id in [name for name, until in self._away.items() if until <= now]:
            async with self._dispatcher.lease_lock:
                if self._hub.lives(instance_id):
                    continue  # its watchdog reports that it works, and it links again once its event loop turns
                if instance_id in self._away:
                    # read again: an attempt that was accepted between the read and the requeue was left alone
                    while rows := await self._store.open_executions(lease_owner=instance_id):
                        for row in rows:
                            why = f"the instance {instance_id} did not come back within {self._lease:g} s"
                            await self._handle_lost_attempt(row, why, entered="yes" if row.accepted else "unknown")
                    del self._away[instance_id]

    async def _end_overdue(self) -> None:
        """Give up the attempts of blocked instances whose own time is over; an instance that turns does so itself.

        The last attempt is left to the deadline of its execution.
        """
        now = time.monotonic()
        for link in self._hub.links():
            if link.takes_work or link.draining:
                continue
            for assigned in list(link.assigned.values()):
                spec = link.functions.get(assigned.function)
                if spec is None or spec.timeout is None or assigned.entered_at is None:
                    continue
                if now - assigned.entered_at > spec.timeout + _SLACK:
                    await self._end_attempt(link, assigned)

    async def _end_attempt(self, link: LinkedNode, assigned: AssignedAttempt) -> None:
        async with self._dispatcher.lease_lock:
            row = (await self._held_by(link)).get(assigned.execution_id)
            if row is None or row.attempt != assigned.attempt or row.attempt >= row.max_attempts:
                return
            why = f"the event loop of the instance {link.instance_id} is blocked, and the time of the attempt is over"
            await self._handle_lost_attempt(row, why, entered="yes")
            self._dispatcher.release(link, row.id)
        link.post(Cancel(execution_id=row.id, reason="timeout"))

    async def _handle_lost_attempt(self, row: Execution, why: str, *, entered: _Entered) -> None:
        """Requeue a lost attempt if another one is allowed, else close the execution as failed."""
        allowed = row.attempt < (_NEVER_ENTERED if entered == "no" else row.max_attempts)
        node_id = row.target.partition(".")[0]
        detail = f"The node {node_id!r} was lost {_WHEN[entered]} {row.target}: {why}."
        if allowed:
            if await self._store.requeue_execution(
                row.id,
                attempt=row.attempt,
                epoch=row.lease_epoch,
                entered=entered != "no",
                counts=entered != "no",
                events=(returned(row, why) if entered == "no" else _retrying(row, detail, entered),),
            ):
                self._dispatcher.work_waiting(node_id)
            return
        problem = NodeLost(
            detail,
            hint=f"see why {node_id} ended; if {row.target} may safely run twice, declare it with retries=1",
            execution_id=row.id,
            target=row.target,
            attempt=row.attempt,
            instance_id=row.lease_owner,
            entered=entered,
        )
        await self._close(row.id, status="failed", problem=problem, attempt=row.attempt, epoch=row.lease_epoch)


_WHEN: dict[_Entered, str] = {
    "yes": "while it ran",
    "no": "before it entered",
    "unknown": "after it was sent a call of",
}


def _retrying(row: Execution, detail: str, entered: _Entered) -> NewEvent:
    problem = NodeLost(detail, target=row.target, entered=entered).to_problem()
    body = {"attempt": row.attempt, "status": "failed", "problem": problem, "not_before": None}
    return NewEvent(type="execution.retrying", body=body, execution_id=row.id)


class _Attempt(Protocol):
    @property
    def execution_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def epoch(self) -> int: ...


def _current(rows: dict[str, Execution], attempt: _Attempt) -> bool:
    row = rows.get(attempt.execution_id)
    return row is not None and (row.attempt, row.lease_epoch) == (attempt.attempt, attempt.epoch)


def _welcome(hello: Hello, running: set[str], results: set[str]) -> Welcome:
    return Welcome(
        keep=tuple(sorted(running)),
        cancel=tuple(attempt.execution_id for attempt in hello.running if attempt.execution_id not in running),
        # results that are recorded already or given up: acknowledged, so that the node drops them
        ack=tuple(attempt.execution_id for attempt in hello.results if attempt.execution_id not in results),
    )
