"""One linked instance of a node: its declarations, its assigned attempts and sessions, and a bounded outbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from agentfield.errors import AgentFieldError, NodeNotConnected
from agentfield.identity import digest
from agentfield.wire.frames import AnyFrame, Drained, GiveBack, GivenBack, Hello, SessionDone, SessionOpen, encode_frame
from agentfield.wire.framing import take_frames
from agentfield_server.store.records import Execution

__all__ = ["HANDLERS_LOST", "AssignedAttempt", "LinkedNode", "declaration_hash", "declared_tags"]

_OUTBOX = 1000

BLOCKED_LIMIT = 2.0
"""Seconds without a turn of a node's event loop after which it gets no new work."""

HANDLERS_LOST = 10.0
"""Seconds without a turn after which the session handlers of a node count as lost."""


def declaration_hash(declared: BaseModel) -> str:
    """Return the digest of a declaration; two declarations of one name are equal when their digests are."""
    return digest(declared.model_dump(mode="json"))


def declared_tags(hello: Hello) -> list[tuple[str, str]]:
    """Return the tags that a node declares, as pairs of target and tag."""
    tags = {spec.name: spec.tags for spec in hello.functions} | {spec.name: spec.tags for spec in hello.sessions}
    return [(f"{hello.node_id}.{name}", tag) for name in tags for tag in tags[name]]


@dataclass(slots=True)
class AssignedAttempt:
    """An attempt that is assigned to a node instance; entered before its lease is committed."""

    execution_id: str
    run_id: str
    session_id: str | None
    actor_id: str | None
    function: str
    deadline: float | None
    parent_id: str | None = None
    input_salt: bytes | None = None
    output_salt: bytes | None = None
    input_commitment: bytes | None = None
    """Commitment to the input; None until it is needed, where the input was not read."""
    attempt: int = 1
    accepted: bool = False
    """Whether the node said that it entered the function."""
    sent: bool = False
    """Whether the node may have received the invocation."""
    entered_at: float | None = None
    """When this control plane heard of the entry, on its monotonic clock."""
    execution: Execution | None = None
    """The execution as its lease returned it, so that it is not read back when it ends."""

    @classmethod
    def of(cls, execution: Execution) -> AssignedAttempt:
        """Return the assignment of a leased execution."""
        return cls(
            execution_id=execution.id,
            run_id=execution.run_id,
            session_id=execution.session_id,
            actor_id=execution.actor_id,
            function=execution.target.partition(".")[2],
            deadline=execution.deadline,
            parent_id=execution.parent_id,
            input_salt=execution.input_salt,
            output_salt=execution.output_salt,
            attempt=execution.attempt,
            accepted=execution.accepted,
        )


class LinkedNode:
    """One linked instance of a node.

    Args:
        socket: Its WebSocket.
        hello: Its verified hello.
        linked_at: Seconds since the epoch.
        send_timeout: Seconds to wait for a full outbox or a blocked socket before the link is ended.
        refused: Sessions that are not registered, with the reason.
        seen: Place of the instance in the store's order of first sight.
        sessions: Sessions whose handler it still runs, as far as the store says so too.
        principal: Principal that opened the link.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        hello: Hello,
        *,
        linked_at: float,
        send_timeout: float,
        refused: Mapping[str, AgentFieldError] = MappingProxyType({}),
        seen: int = 0,
        sessions: Iterable[str] = (),
        principal: str = "local",
    ) -> None:
        self.hello = hello
        self.refused = refused
        self.node_id = hello.node_id
        self.instance_id = hello.instance_id
        self.did = hello.did
        self.seen = seen
        self.principal = principal
        self.revoked = False
        """Whether the link ended because its DID was revoked: what it held is lost, and the instance may not come back."""
        self.protocol = hello.protocol
        self.linked_at = linked_at
        self.functions = {spec.name: spec for spec in hello.functions}
        self.declared = {declaration.name: declaration for declaration in hello.sessions}
        self.hashes = {name: declaration_hash(spec) for name, spec in (*self.functions.items(), *self.declared.items())}
        """Digests of its declarations, functions and sessions, by name."""
        self.assigned: dict[str, AssignedAttempt] = {}
        """Attempts of this instance by execution id; an entry is made before the lease is committed."""
        self.blocked: Counter[str] = Counter()
        """Assigned executions that wait for calls of their own, with the number of those calls."""
        self.sessions: set[str] = set(sessions)
        """Sessions whose handler this instance was asked to run and has not finished."""
        self.pinned_sessions: set[str] = set()
        """Sessions whose handler stays on this instance between two handler runs."""
        self.draining = hello.draining
        """Whether it takes no new work."""
        self._drained = False
        self.last_used = 0
        """Sequence number of its last choice, for round robin among equals."""
        self.reconciled = False
        """Whether `assigned` has been read from the store; attempts leased later are entered by the dispatcher."""
        self.heard_at = 0.0
        """When the last frame arrived, on the hub's monotonic clock."""
        self.ended: str | None = None
        """Why the link ended, None while it stands."""
        self.closed_in_order = False
        """Whether the node closed the link; otherwise frames of the node may have been lost."""
        self.loop_blocked = 0.0
        """Seconds for which the node's event loop had not turned, as its watchdog last said."""
        self.blocked_by: str | None = None
        """The function that blocked it, and the source line, as its watchdog last said."""
        self.handlers_lost = False
        """Whether the handlers on this instance count as lost because its event loop is blocked."""
        self.given_back = hello.given_back
        """Number of the last `GiveBack` that was handled."""
        self._socket = socket
        self._send_timeout = send_timeout
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._outbox_read = asyncio.Event()
        """Set when frames were taken from the outbox."""
        self._end = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_close: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<LinkedNode {self.node_id} {self.instance_id}>"

    @property
    def running(self) -> int:
        """Number of assigned attempts."""
        return len(self.assigned)

    @property
    def load(self) -> float:
        """Share of its concurrency in use; an attempt that waits for its own calls does not count."""
        return (len(self.assigned) - len(self.blocked)) / self.hello.concurrency

    @property
    def takes_work(self) -> bool:
        """Whether it may get new work: it neither drains nor blocks its event loop."""
        return not self.draining and self.loop_blocked < BLOCKED_LIMIT

    async def send(self, frame: AnyFrame) -> None:
        """Queue a frame for the node.

        Raises:
            NodeNotConnected: The link ended, or the outbox stayed full.
        """
        if self.ended is not None:
            raise self._not_connected()
        match frame:
            case SessionOpen():
                self.sessions.add(frame.session_id)
        if self._outbox.qsize() >= _OUTBOX:
            await self._wait_for_outbox()
        self._outbox.put_nowait(encode_frame(frame))

    async def _wait_for_outbox(self) -> None:
        try:
            async with asyncio.timeout(self._send_timeout):
                while self._outbox.qsize() >= _OUTBOX:
                    self._outbox_read.clear()
                    await self._outbox_read.wait()
        except TimeoutError:
            self.end("it takes no frames")
            raise self._not_connected() from None

    def post(self, frame: AnyFrame) -> bool:
        """Queue an invocation or an answer for the node without waiting; return False when the link has ended.

        The outbox needs no room for it: there are never more of these than the node has asked for, as its concurrency, its
        results, or its calls.
        """
        if self.ended is None:
            self._outbox.put_nowait(encode_frame(frame))
        return self.ended is None

    def take_unentered(self, frame: GiveBack) -> list[AssignedAttempt]:
        """Take back the attempts that the node gave back, and confirm it on the link, behind all that was sent before."""
        if frame.number <= self.given_back:
            return []
        self.given_back = frame.number
        entered = {(attempt.execution_id, attempt.attempt) for attempt in frame.entered}
        taken = [
            assigned
            for assigned in self.assigned.values()
            if assigned.sent and not assigned.accepted and (assigned.execution_id, assigned.attempt) not in entered
        ]
        # waiting for room would let invocations overtake the confirmation
        self._outbox.put_nowait(encode_frame(GivenBack(number=frame.number)))
        for assigned in taken:
            self.release(assigned.execution_id)
        return taken

    def _not_connected(self) -> NodeNotConnected:
        return NodeNotConnected(
            f"The link of node {self.node_id!r} is gone: {self.ended}.",
            hint=f"start the node again: af run FILE (the one with Agent({self.node_id!r}))",
            node_id=self.node_id,
        )

    def note_received(self, frame: object) -> None:
        """Update the state of the link by a received frame."""
        if isinstance(frame, SessionDone):
            self.sessions.discard(frame.session_id)
            self._send_drained_when_idle()

    def pin_session(self, session_id: str) -> None:
        """Keep the handler of a session on this instance between its runs."""
        self.pinned_sessions.add(session_id)

    def unpin_session(self, session_id: str) -> None:
        """Release a session: it ended, or its handler moved to another instance."""
        self.pinned_sessions.discard(session_id)
        self._send_drained_when_idle()

    def drain(self) -> None:
        """Assign no new work; send `drained` once nothing is left here."""
        self.draining = True
        self._send_drained_when_idle()

    def _send_drained_when_idle(self) -> None:
        if not self.draining or self._drained or self.assigned or self.sessions or self.pinned_sessions:
            return
        self._drained = True
        self._outbox.put_nowait(encode_frame(Drained()))

    def end(self, why: str, *, in_order: bool = False) -> None:
        """End the link; the first reason is kept."""
        if self.ended is None:
            self.ended, self.closed_in_order = why, in_order
        self._end.set()

    def block(self, execution_id: str) -> None:
        """Count a call that an assigned execution waits for."""
        self.blocked[execution_id] += 1

    def unblock(self, execution_id: str) -> None:
        """Count the end of such a call."""
        if execution_id in self.blocked:
            self.blocked[execution_id] -= 1
            if self.blocked[execution_id] <= 0:
                del self.blocked[execution_id]

    def release(self, execution_id: str) -> bool:
        """Remove an attempt; return whether it was assigned here."""
        self.blocked.pop(execution_id, None)
        assigned = self.assigned.pop(execution_id, None) is not None
        self._send_drained_when_idle()
        return assigned

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that is cancelled when the link ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- used by the hub

    async def wait_ended(self) -> None:
        """Wait until `end` is called."""
        await self._end.wait()

    async def write(self) -> None:
        """Write frames from the outbox to the socket until it blocks or breaks."""
        while True:
            text = "\n".join(take_frames(await self._outbox.get(), self._outbox))
            self._outbox_read.set()
            try:
                async with asyncio.timeout(self._send_timeout):
                    await self._socket.send_str(text)
            except (TimeoutError, ConnectionError):
                self.end("it takes no frames")
                return

    async def close(self) -> None:
        """Cancel the tasks of `start_task`, wait for them, and call what waits for the end of the link."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for callback in self._at_close:
            callback()

    def at_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the link is closed."""
        self._at_close.append(callback)
