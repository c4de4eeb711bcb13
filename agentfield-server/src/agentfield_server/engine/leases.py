"""Nodes that go and come back: what they keep, what is given to others, what has to be called lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from typing import Protocol

from agentfield.errors import AgentFieldError, NodeLost
from agentfield.wire.frames import Hello, Welcome
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.engine.dispatch import Dispatcher
from agentfield_server.nodes import Held, LinkHub, NodeLink
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewEvent

__all__ = ["Closer", "Leases"]

_log = logging.getLogger("agentfield.engine")

_NEVER_ENTERED = 10
"""Attempts that may end before the function was entered; then the input itself is suspected."""


class Closer(Protocol):
    """Closes an execution and tells who waits for it."""

    def __call__(
        self,
        execution_id: str,
        *,
        status: ExecutionStatus,
        problem: AgentFieldError,
        attempt: int | None = None,
        epoch: int | None = None,
    ) -> Awaitable[Execution | None]:
        """Close it in that attempt (None: in any)."""


class Leases:
    """Watches the leases of node instances.

    Args:
        store: What is kept.
        hub: Who is linked.
        dispatcher: Takes what is to run elsewhere.
        close: Closes what is lost.
        lease: Seconds that an instance may be away.
    """

    def __init__(self, store: Store, hub: LinkHub, dispatcher: Dispatcher, *, close: Closer, lease: float) -> None:
        self._store = store
        self._hub = hub
        self._dispatcher = dispatcher
        self._close = close
        self._lease = lease
        self._away: dict[str, float] = {}
        self._renewed = time.monotonic()

    def adopt(self, rows: Iterable[Execution]) -> None:
        """Give the holders of open executions time to come back, after a restart of the control plane."""
        for row in rows:
            if row.lease_owner is not None:
                self._away[row.lease_owner] = time.monotonic() + self._lease

    # --- coming

    async def reconcile(self, link: NodeLink) -> Welcome:
        """Compare what a node says it holds with what is stored, see `EnginePort.reconcile`."""
        async with self._dispatcher.settling:
            self._away.pop(link.instance_id, None)
            rows = await self._held_by(link)
            running = {attempt.execution_id for attempt in link.hello.running if _current(rows, attempt)}
            results = {attempt.execution_id for attempt in link.hello.results if _current(rows, attempt)}
            for row in rows.values():
                if row.accepted and row.id not in running | results:
                    await self._lost(row, f"the instance {link.instance_id} came back without it")
                else:
                    link.held[row.id] = Held.of(row)
            link.reconciled = True
            if rows:
                await self._store.renew_leases(link.instance_id, until=self._dispatcher.lease_until)
        return _welcome(link.hello, running, results)

    async def _held_by(self, link: NodeLink) -> dict[str, Execution]:
        rows = await self._store.open_executions(lease_owner=link.instance_id)
        return {row.id: row for row in rows if row.target.partition(".")[0] == link.node_id}

    async def ask_again(self, link: NodeLink) -> None:
        """Send what a node that came back may never have got; a node answers a repeated question, it runs it once."""
        answered = {attempt.execution_id for attempt in link.hello.results}
        for row in (await self._held_by(link)).values():
            held = link.held.get(row.id)
            if held is not None and not held.accepted and row.id not in answered:
                whole = row if not row.left_out else await self._store.get_execution(row.id)
                if whole is not None and (whole.status, whole.lease_epoch) == (row.status, row.lease_epoch):
                    await self._dispatcher.invoke(whole, link)

    # --- going

    async def node_lost(self, link: NodeLink) -> None:
        """Decide about what a node held, see `EnginePort.node_lost`.

        When it closed the link, all that it had sent has arrived: what is not accepted was not entered, and goes to
        somebody else at once. When it fell silent, nothing is known until its lease has ended.
        """
        self._away[link.instance_id] = time.monotonic() + self._lease
        if link.silent:
            return
        try:
            async with self._dispatcher.settling:
                for row in (await self._held_by(link)).values():
                    if not row.accepted and self._hub.coming(link.instance_id) is None:
                        await self._lost(row, f"the instance {link.instance_id} went away")
        except AgentFieldError as error:
            _log.warning("left for the end of the lease of %s: %s", link.instance_id, error.message)

    async def run(self) -> None:
        """Renew the leases of who is linked, settle those of who did not come back; until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 20)
            try:
                await self._renew()
                await self._expire()
            except AgentFieldError as error:
                _log.warning("leases could not be settled, it will be tried again: %s", error.message)

    async def _renew(self) -> None:
        if time.monotonic() - self._renewed < self._lease / 3:
            return
        self._renewed = time.monotonic()
        until = self._dispatcher.lease_until
        for link in self._hub.links():
            if link.held:
                await self._store.renew_leases(link.instance_id, until=until)

    async def _expire(self) -> None:
        now = time.monotonic()
        for instance_id in [name for name, until in self._away.items() if until <= now]:
            async with self._dispatcher.settling:
                if self._hub.coming(instance_id) is None and instance_id in self._away:
                    # again: what was entered between the look and the decision was left alone
                    while rows := await self._store.open_executions(lease_owner=instance_id):
                        for row in rows:
                            why = f"the instance {instance_id} did not come back within {self._lease:g} s"
                            await self._lost(row, why)
                    del self._away[instance_id]

    async def _lost(self, row: Execution, why: str) -> None:
        """Run a lost attempt again where that is allowed, close it where not."""
        allowed = row.attempt < row.max_attempts if row.accepted else row.attempt < _NEVER_ENTERED
        node_id = row.target.partition(".")[0]
        detail = f"The node {node_id!r} was lost while it ran {row.target}: {why}."
        if allowed:
            if await self._store.requeue_execution(
                row.id,
                attempt=row.attempt,
                epoch=row.lease_epoch,
                entered=row.accepted,
                events=(_retrying(row, detail),) if row.accepted else (),
            ):
                self._dispatcher.waits(node_id)
            return
        problem = NodeLost(
            detail,
            hint=f"see why {node_id} ended; if {row.target} may safely run twice, declare it with retries=1",
            execution_id=row.id,
            target=row.target,
        )
        await self._close(row.id, status="failed", problem=problem, attempt=row.attempt, epoch=row.lease_epoch)


def _retrying(row: Execution, detail: str) -> NewEvent:
    problem = NodeLost(detail, target=row.target).to_problem()
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
        # not wanted any more: stored before, or given up
        ack=tuple(attempt.execution_id for attempt in hello.results if attempt.execution_id not in results),
    )
