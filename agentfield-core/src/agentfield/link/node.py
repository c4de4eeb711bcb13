"""A linked node: the book, the socket, the runs and the handlers put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentfield.errors import AgentFieldError, Unavailable, error_from_problem
from agentfield.identity import NodeKey, b64url, challenge_message
from agentfield.ids import new_id
from agentfield.link.book import LinkBook
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
from agentfield.link.handlers import Handler, Handlers, SessionEntry
from agentfield.link.runs import Runs
from agentfield.link.socket import LinkSocket
from agentfield.reasoner import Reasoner
from agentfield.wire.frames import Call, Challenge, Drain, Drained, Hello, InstalledPair, Welcome

__all__ = ["Handler", "NodeLink", "SessionEntry", "Watcher"]

_log = logging.getLogger("agentfield.node")

WAITING_ROOM = 1000
"""Runs that may wait beyond those that the node's concurrency lets run."""

Watcher = Callable[[str, str, str], None]
"""Is told ``("linked", url, "")`` and ``("lost", url, why)``."""


class NodeLink:
    """One instance of a node and its link; runs once.

    Args:
        node_id: The node's name.
        key: Its key.
        reasoners: Its functions by name.
        sessions: Its sessions by name.
        url: Gives the control plane's address, asked before each attempt.
        api_key: Key for the control plane, if any.
        concurrency: Runs at a time.
        watcher: Is told when the link stands and when it is lost.
        pairs: What this node has plugins for.
    """

    def __init__(
        self,
        *,
        node_id: str,
        key: NodeKey,
        reasoners: Mapping[str, Reasoner],
        sessions: Mapping[str, SessionEntry],
        url: Callable[[], str],
        api_key: str | None = None,
        concurrency: int = 100,
        watcher: Watcher | None = None,
        pairs: tuple[InstalledPair, ...] = (),
    ) -> None:
        self.node_id = node_id
        self.instance_id = new_id("node")
        self._key = key
        self._reasoners = reasoners
        self._sessions = sessions
        self._concurrency = concurrency
        self._watcher = watcher
        self._pairs = pairs
        self._book = LinkBook(max_running=concurrency + WAITING_ROOM)
        self._socket = LinkSocket(self, url=url, api_key=api_key)
        self._runs = Runs(
            node_id=node_id,
            reasoners=reasoners,
            key=key,
            book=self._book,
            apply=self._apply,
            concurrency=concurrency,
        )
        self._handlers = Handlers(node_id=node_id, entries=sessions, book=self._book, apply=self._apply, port=self)
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._draining = False
        self._drained = False
        """Whether the control plane said that it will send nothing more."""
        self._stopping = False
        self._settled = asyncio.Event()
        self._closed: AgentFieldError | None = None
        self.linked = asyncio.Event()
        """Set while the link stands."""
        self.asked_to_drain = asyncio.Event()
        """Set once the control plane wants this instance to end."""
        self.last_failure = ""
        """Why the link was last lost or could not be opened."""
        self.refused: dict[str, AgentFieldError] = {}
        """Sessions that the control plane does not register, and why; the rest of the node works."""

    async def run(self) -> None:
        """Stay linked and work until cancelled.

        Raises:
            NodeRefused: The control plane does not want this node.
        """
        error: AgentFieldError = Unavailable(f"The node {self.node_id} has stopped.")
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                error = await self._socket.run()
                self._handlers.close()
                self._runs.cancel()
        finally:
            self._group = None
            self._close(error)
        raise error

    @property
    def working(self) -> str:
        """What still runs here, in words; empty when nothing does."""
        counts = ((self._book.held, "run"), (self._handlers.count, "call"))
        return ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number)

    async def drain(self, seconds: float, *, handlers: bool = True) -> None:
        """Take nothing new, and give what is there `seconds` to end; then it is cut off.

        What the control plane had sent before it knew is still taken. It says when nothing more can come.

        Args:
            seconds: How long runs may take to end and be acknowledged, and calls to end.
            handlers: Whether handlers stay for that long too; otherwise they run elsewhere at once.
        """
        self._draining = True
        self._socket.send(Drain())
        if not handlers:
            self._let_go()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._done(handlers=handlers):
                    self._settled.clear()
                    await self._settled.wait()
        self._let_go()

    def _let_go(self) -> None:
        self._stopping = True
        self._handlers.close()

    def _done(self, *, handlers: bool) -> bool:
        if not self.linked.is_set() and not (handlers and self.working):
            return True
        return not self.working and (self._drained or not handlers)

    def ask(self, command: Operation) -> asyncio.Future[Any]:
        """Send an operation, in order and again after a reconnect; the future holds its answer or refusal.

        Raises:
            LimitExceeded: Too many wait for an answer already.
            AgentFieldError: The node has stopped.
        """
        if self._closed is not None:
            raise self._closed
        effects = self._book.ask(command)
        answer = self._answers[command.op_id] = asyncio.get_running_loop().create_future()
        self._apply(effects)
        return answer

    async def call(self, frame: Call, *, seconds: float | None) -> Any:
        """Run a target and return its output; while a run waits for that, its place is lent to others.

        Args:
            frame: The call.
            seconds: How long to wait at most.

        Raises:
            TimeoutError: There was no answer in that time.
            AgentFieldError: It did not succeed, or the node has stopped.
        """
        try:
            with self._runs.room.lent(frame.parent_id or ""):
                async with asyncio.timeout(seconds):
                    return await self.ask(frame)
        finally:
            self.forget(frame.op_id)

    def forget(self, op_id: str) -> None:
        """Nobody waits for this operation's answer any longer."""
        self._book.forget(op_id)
        self._answers.pop(op_id, None)

    # --- Peer of the socket -------------------------------------------------------------------------------------

    def hello(self, challenge: Challenge) -> Hello:
        """Return the signed introduction of this instance."""
        message = challenge_message(challenge.nonce, self.node_id, self.instance_id)
        return Hello(
            node_id=self.node_id,
            instance_id=self.instance_id,
            did=self._key.did,
            signature=b64url(self._key.sign(message)),
            concurrency=self._concurrency,
            functions=tuple(reasoner.spec for reasoner in self._reasoners.values()),
            sessions=tuple(entry.declaration for entry in self._sessions.values()),
            pairs=self._pairs,
            draining=self._draining,
            **self._book.report(),
        )

    def welcomed(self, welcome: Welcome, url: str) -> None:
        """The link stands: send what is owed."""
        self.last_failure = ""
        self._note_refused(welcome)
        self.linked.set()
        if self._draining:  # begun after the introduction was written, it was not said yet
            self._socket.send(Drain())
        self._apply(self._book.welcome(welcome))
        self._tell("linked", url, "")

    def received(self, frame: Any) -> None:
        """Take a frame."""
        match frame:
            case Drain():
                self.asked_to_drain.set()
            case Drained():
                self._drained = True
                self._settled.set()
            case _:
                self._apply(self._book.receive(frame))

    def lost(self, url: str, why: str) -> None:
        """The link is gone, or could not be opened."""
        self._book.lost()
        self.linked.clear()
        self._drained = False
        self.last_failure = why
        self._settled.set()
        self._tell("lost", url, why)

    # --- inside -------------------------------------------------------------------------------------------------

    def _note_refused(self, welcome: Welcome) -> None:
        before, self.refused = self.refused, {n: error_from_problem(p) for n, p in welcome.refused.items()}
        for name, error in self.refused.items():
            if name not in before or before[name].message != error.message:
                _log.error("%s.%s is not registered: %s\n  code: %s", self.node_id, name, error, error.code)

    def _apply(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._socket.send(effect.frame)
                case Start():
                    self._start(effect)
                case Reject():
                    self._runs.reject(effect.invoke)
                case Stop():
                    self._runs.stop(effect.execution_id, effect.attempt, effect.reason)
                case OpenHandler():
                    self._open(effect)
                case StopHandler():
                    self._handlers.stop(effect.session_id, effect.epoch, effect.reason, at_once=effect.at_once)
                case Settle():
                    self._settle(effect)
                case Happened():
                    self._handlers.happened(effect.session_id, effect.event)
        self._settled.set()

    def _start(self, effect: Start) -> None:
        if self._stopping or self._group is None:
            self._book.abandoned(effect.invoke.context.execution_id, effect.invoke.context.attempt)
        else:
            self._runs.start(effect.invoke, self._group)

    def _open(self, effect: OpenHandler) -> None:
        if not self._stopping and self._group is not None:
            self._handlers.open(effect.opened, self._group)

    def _settle(self, effect: Settle) -> None:
        answer = self._answers.pop(effect.op_id, None)
        if answer is None or answer.done():
            return
        if effect.problem is not None:
            answer.set_exception(error_from_problem(effect.problem))
        else:
            answer.set_result(effect.value)

    def _close(self, error: AgentFieldError) -> None:
        self._closed = error
        self._runs.close()
        self.linked.clear()
        self._settled.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever waits still sees it; nobody need
        self._answers.clear()

    def _tell(self, what: str, url: str, why: str) -> None:
        if self._watcher is not None:
            self._watcher(what, url, why)
