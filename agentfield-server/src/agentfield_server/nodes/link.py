"""The control plane's end of one node link: what the node said of itself, what it holds, and a bounded way to reach it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from agentfield.errors import AgentFieldError, NodeNotConnected
from agentfield.identity import digest
from agentfield.wire.frames import Drained, Hello, SessionDone, SessionOpen, encode_frame
from agentfield.wire.lines import message_of
from agentfield_server.store.records import Execution

__all__ = ["Held", "NodeLink", "declaration_hash"]

_OUTBOX = 1000


def declaration_hash(declared: BaseModel) -> str:
    """Return what tells declarations of one name apart: the digest of all that a node says of it."""
    return digest(declared.model_dump(mode="json"))


@dataclass(slots=True)
class Held:
    """An attempt that a node instance was given, or is about to be given."""

    execution_id: str
    run_id: str
    session_id: str | None
    actor_id: str | None
    function: str
    deadline: float | None
    input_digest: str | None
    accepted: bool = False

    @classmethod
    def of(cls, execution: Execution) -> Held:
        """Return what is remembered of a leased execution."""
        return cls(
            execution_id=execution.id,
            run_id=execution.run_id,
            session_id=execution.session_id,
            actor_id=execution.actor_id,
            function=execution.target.partition(".")[2],
            deadline=execution.deadline,
            input_digest=execution.input_digest,
            accepted=execution.accepted,
        )


class NodeLink:
    """One linked instance of a node.

    Args:
        socket: Its WebSocket.
        hello: What it said of itself; the signature was checked.
        linked_at: Seconds since the epoch.
        patience: Seconds that a full outbox is waited for before the link is given up.
        refused: Sessions of it that are not registered, and why.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        hello: Hello,
        *,
        linked_at: float,
        patience: float,
        refused: Mapping[str, AgentFieldError] = MappingProxyType({}),
    ) -> None:
        self.hello = hello
        self.refused = refused
        self.node_id = hello.node_id
        self.instance_id = hello.instance_id
        self.did = hello.did
        self.linked_at = linked_at
        self.functions = {spec.name: spec for spec in hello.functions}
        self.declared = {declaration.name: declaration for declaration in hello.sessions}
        self.hashes = {name: declaration_hash(spec) for name, spec in (*self.functions.items(), *self.declared.items())}
        """What it declares, functions and sessions, by name."""
        self.held: dict[str, Held] = {}
        """Attempts of this instance by execution id; an entry is made before the lease is committed."""
        self.blocked: Counter[str] = Counter()
        """Executions held here that wait for calls of their own, and for how many."""
        self.sessions: set[str] = {session_id for session_id, _epoch in hello.open_sessions}
        """Sessions whose handler this instance was asked to run and has not finished."""
        self.calls: set[str] = set()
        """Sessions whose handler stays here, also between two runs of it."""
        self.draining = hello.draining
        """Whether it takes nothing new."""
        self._drained = False
        self.last_used = 0
        """When it was last chosen, as a number that rises."""
        self.reconciled = False
        """Whether `held` has been read from the store; what is leased from then on is entered as it is leased."""
        self.heard_at = 0.0
        """When a frame last came, on the hub's monotonic clock."""
        self.ended: str | None = None
        """Why the link ended."""
        self.silent = False
        """Whether it ended because nothing was heard: then frames of the node may have been lost."""
        self._socket = socket
        self._patience = patience
        self._outbox: asyncio.Queue[str] = asyncio.Queue(_OUTBOX)
        self._end = asyncio.Event()
        self._waiters: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<NodeLink {self.node_id} {self.instance_id}>"

    @property
    def running(self) -> int:
        """How many attempts it holds."""
        return len(self.held)

    @property
    def load(self) -> float:
        """Share of its concurrency that is in use; what only waits for its own calls does not count."""
        return (len(self.held) - len(self.blocked)) / self.hello.concurrency

    async def send(self, frame: BaseModel) -> None:
        """Queue a frame for the node.

        Raises:
            NodeNotConnected: The link ended, or the node takes nothing any more.
        """
        if self.ended is not None:
            raise self._gone()
        match frame:
            case SessionOpen():
                self.sessions.add(frame.session_id)
        text = encode_frame(frame)
        try:
            self._outbox.put_nowait(text)
        except asyncio.QueueFull:
            await self._wait_for_room(text)

    async def _wait_for_room(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._patience):
                await self._outbox.put(text)
        except TimeoutError:
            self.end("it takes no frames", silent=True)
            raise self._gone() from None

    def _gone(self) -> NodeNotConnected:
        return NodeNotConnected(
            f"The link of node {self.node_id!r} is gone: {self.ended}.",
            hint=f"start the node again: af run FILE (the one with Agent({self.node_id!r}))",
            node_id=self.node_id,
        )

    def heard(self, frame: object) -> None:
        """Take note of a frame of the node."""
        if isinstance(frame, SessionDone):
            self.sessions.discard(frame.session_id)
            self._let_go()

    def keep(self, session_id: str) -> None:
        """The handler of a session stays here for as long as it can."""
        self.calls.add(session_id)

    def unkeep(self, session_id: str) -> None:
        """The session is over, or its handler went elsewhere."""
        self.calls.discard(session_id)
        self._let_go()

    def drain(self) -> None:
        """Give it nothing new, and tell it when it holds nothing any more."""
        self.draining = True
        self._let_go()

    def _let_go(self) -> None:
        if not self.draining or self._drained or self.held or self.sessions or self.calls:
            return
        self._drained = True
        with contextlib.suppress(asyncio.QueueFull):  # then it waits until its time is up
            self._outbox.put_nowait(encode_frame(Drained()))

    def end(self, why: str, *, silent: bool = False) -> None:
        """End the link; the first reason counts."""
        if self.ended is None:
            self.ended, self.silent = why, silent
        self._end.set()

    def block(self, execution_id: str) -> None:
        """A held execution waits for a call of its own."""
        self.blocked[execution_id] += 1

    def unblock(self, execution_id: str) -> None:
        """The call came to its end."""
        if execution_id in self.blocked:
            self.blocked[execution_id] -= 1
            if self.blocked[execution_id] <= 0:
                del self.blocked[execution_id]

    def release(self, execution_id: str) -> bool:
        """Forget an attempt; returns whether it was held."""
        self.blocked.pop(execution_id, None)
        held = self.held.pop(execution_id, None) is not None
        self._let_go()
        return held

    def follow(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that is of no use once the link is gone."""
        task = asyncio.get_running_loop().create_task(work)
        self._waiters.add(task)
        task.add_done_callback(self._waiters.discard)

    # --- used by the hub

    async def until_ended(self) -> None:
        """Wait until somebody ends the link."""
        await self._end.wait()

    async def write(self) -> None:
        """Carry frames from the outbox to the socket."""
        while True:
            text = message_of(await self._outbox.get(), self._outbox)
            try:
                async with asyncio.timeout(self._patience):
                    await self._socket.send_str(text)
            except (TimeoutError, ConnectionError):
                self.end("it takes no frames", silent=True)
                return

    async def stop_followers(self) -> None:
        """Cancel what `follow` started."""
        tasks = list(self._waiters)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
