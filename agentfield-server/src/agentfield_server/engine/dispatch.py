"""Work to nodes: the lease is committed first, then the node is asked; what finds no room waits in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from agentfield.errors import AgentFieldError, NodeNotConnected
from agentfield.wire.frames import ExecutionContext, Invoke
from agentfield_server.nodes import Held, LinkHub, NodeLink
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["LEASE", "Dispatcher"]

_log = logging.getLogger("agentfield.engine")

LEASE = 10.0
"""Seconds that a node which is away may come back and go on with its work."""

_PAGE = 100
_AFTER_FAILURE = 1.0
_LONGEST_SLEEP = 1.0
"""Seconds between two looks at the clock while something waits for its time, so that a jump of it is noticed."""


class Dispatcher:
    """Finds a node for each execution.

    The rule that keeps restarts, reconnects and cancellations simple: an attempt is entered into `link.held` before its
    lease is committed, and the node is asked only while it is still there.

    Args:
        store: Where executions wait.
        hub: Who may take them.
        clock: Seconds since the epoch.
        decisions: Returns what was decided about the pauses of an execution.
        lease: Seconds of a lease.
    """

    def __init__(
        self,
        store: Store,
        hub: LinkHub,
        *,
        clock: Callable[[], float],
        decisions: Callable[[Execution], Awaitable[dict[str, dict[str, Any]]]],
        lease: float = LEASE,
    ) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._decisions = decisions
        self._lease = lease
        self._backlog: set[str] = set()
        self._look: set[str] = set()
        self._due: dict[str, float] = {}
        """When the next delayed execution of a node may start."""
        self._wake = asyncio.Event()
        self.settling = asyncio.Lock()
        """Held while leases of an instance are decided about: reclaimed, given up, or given back."""

    @property
    def lease_until(self) -> float:
        """When a lease that is given now ends."""
        return self._clock() + self._lease

    def has_backlog(self, node_id: str) -> bool:
        """Tell whether work of a node may be waiting; then nothing new may overtake it."""
        return node_id in self._backlog

    def waits(self, node_id: str) -> None:
        """Work of a node is waiting in the store."""
        self._backlog.add(node_id)
        self.room(node_id)

    def room(self, node_id: str) -> None:
        """A node may have room: look for waiting work."""
        if node_id in self._backlog:
            self._look.add(node_id)
            self._wake.set()

    def reserve(self, new: NewExecution) -> NodeLink | None:
        """Take a place for a new execution on a linked instance; None when it has to wait."""
        node_id, _, function = new.target.partition(".")
        if node_id in self._backlog or new.delay:
            return None
        link = self._hub.pick(node_id, function)
        if link is not None:
            link.held[new.id] = Held(
                execution_id=new.id,
                run_id=new.run_id,
                session_id=new.session_id,
                actor_id=new.actor_id,
                function=function,
                deadline=None if new.timeout is None else self._clock() + new.timeout,
                input_digest=new.input_digest,
            )
        return link

    async def run(self) -> None:
        """Hand out waiting work until cancelled."""
        while True:
            await self._sleep()
            while self._look:
                node_id = self._look.pop()
                try:
                    await self._hand_out(node_id)
                except AgentFieldError as error:
                    _log.warning("waiting work could not be handed out, it will be tried again: %s", error.message)
                    self._backlog.add(node_id)
                    await asyncio.sleep(_AFTER_FAILURE)

    async def _sleep(self) -> None:
        """Wait until a node may have room, or something that waited for its time may start."""
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
            self._look.add(node_id)

    async def _hand_out(self, node_id: str) -> None:
        """Lease waiting executions of a node for as long as it has room."""
        full, now = set[str](), self._clock()
        while any(link.load < 1 for link in self._hub.links(node_id)):
            # cleared before the store is asked: what is queued from here on sets it again
            self._backlog.discard(node_id)
            now = self._clock()
            waiting = await self._store.queued_executions(node_id, now=now, limit=_PAGE, without=sorted(full))
            results = await asyncio.gather(*(self._offer(row) for row in waiting))
            # a target that nobody takes now must not stand in the way of the others
            full |= {row.target for row, taken in zip(waiting, results, strict=True) if not taken}
            if len(waiting) == _PAGE or full:
                self._backlog.add(node_id)
            if not waiting:
                break
        at = await self._store.next_start(node_id, after=now)
        if at is not None:
            self._due[node_id] = at

    async def _offer(self, row: Execution) -> bool:
        """Lease one execution to whoever fits; False when nobody does."""
        node_id, _, function = row.target.partition(".")
        link = self._hub.pick(node_id, function)
        if link is None:
            return False
        held = Held.of(row)
        held.accepted = False
        link.held[row.id] = held
        leased = None
        try:
            leased = await self._store.lease_execution(row.id, owner=link.instance_id, until=self.lease_until)
        finally:
            if leased is None:
                link.release(row.id)
        if leased is not None:
            await self.invoke(leased, link)
        return True

    async def invoke(self, execution: Execution, link: NodeLink) -> None:
        """Ask the node that holds an execution to run it; give the lease back when the node is not there any more."""
        if execution.id not in link.held and self._hub.instance(link.instance_id) is link:
            return  # closed meanwhile
        try:
            await link.send(invoke_frame(execution, await self._decisions(execution)))
        except NodeNotConnected:
            await self._give_back(execution, link)

    async def _give_back(self, execution: Execution, link: NodeLink) -> None:
        async with self.settling:
            link.release(execution.id)
            newer = self._hub.coming(link.instance_id)
            if newer is not None and newer is not link and (not newer.reconciled or execution.id in newer.held):
                return  # the instance is back and has it, or is about to find it
            row = await self._store.get_execution(execution.id)
            if row is None or row.accepted or row.status != "running":
                return
            if await self._store.requeue_execution(
                row.id, attempt=execution.attempt, epoch=execution.lease_epoch, entered=False
            ):
                self.waits(link.node_id)


def invoke_frame(execution: Execution, decisions: dict[str, dict[str, Any]]) -> Invoke:
    """Return the frame that asks for an attempt."""
    return Invoke(
        epoch=execution.lease_epoch,
        function=execution.target.partition(".")[2],
        input=execution.input,
        lineage=execution.lineage,
        decisions=decisions,
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
