"""`NodeLink`: applies the effects of `LinkState` through the socket, the attempt runner and the handler runner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agentfield.declarations.reasoner import Reasoner
from agentfield.declarations.session_declaration import DeclaredSession
from agentfield.errors import AgentFieldError, Conflict, Unavailable, error_from_problem
from agentfield.held_heads import HeldHeads
from agentfield.identity import NodeKey
from agentfield.ids import new_id
from agentfield.link.attempt_runner import AttemptRunner
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
from agentfield.link.greetings import Greeter
from agentfield.link.handler_runner import HandlerRunner
from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.link.loop_watchdog import LoopWatchdog
from agentfield.link.results import ResultSigner, UnsignedResult
from agentfield.link.socket import LinkSocket
from agentfield.link.state import LinkState
from agentfield.link.thread_calls import ThreadCalls
from agentfield.wire.frames import (
    Call,
    Challenge,
    Drain,
    Drained,
    GiveBack,
    Hello,
    Invoke,
    LoopState,
    WatchHello,
    Welcome,
)
from agentfield.wire.link_protocol import PROOFS, WATCHED
from agentfield.wire.node_declarations import InstalledPair

__all__ = ["LinkListener", "NodeLink"]

_log = logging.getLogger("agentfield.node")

MAX_WAITING_ATTEMPTS = 1000
"""Attempts that may wait for a slot beyond those that run."""

LinkListener = Callable[[str, str, str], None]
"""Called with ``("linked", url, "")`` when the link opens and ``("lost", url, reason)`` when it is lost."""


class NodeLink:
    """One instance of a node and its link to the control plane; `run` may be called once.

    Args:
        node_id: The node's name.
        key: Signs the introduction and the results.
        reasoners: Its reasoners by name.
        sessions: Its declared sessions by name.
        url: Returns the control plane's address; called before each connection attempt.
        api_key: The control plane's API key, if it needs one.
        concurrency: Attempts that may run at a time.
        listener: Called when the link opens and when it is lost.
        pairs: The provider/transport pairs that this node has plugins for.
        known: The control planes that it may link to; by default the first one of each address, in this process.
        heads: Keeps the signed heads of its sessions; by default in this process.
    """

    def __init__(
        self,
        *,
        node_id: str,
        key: NodeKey,
        reasoners: Mapping[str, Reasoner],
        sessions: Mapping[str, DeclaredSession],
        url: Callable[[], str],
        api_key: str | None = None,
        concurrency: int = 100,
        listener: LinkListener | None = None,
        pairs: tuple[InstalledPair, ...] = (),
        known: KnownControlPlanes | None = None,
        heads: HeldHeads | None = None,
    ) -> None:
        self.node_id = node_id
        self.instance_id = new_id("node")
        self._greeter = Greeter(key, known or KnownControlPlanes())
        self._signer = ResultSigner(key, node_id=node_id, instance_id=self.instance_id)
        self._reasoners = reasoners
        self._sessions = sessions
        self._concurrency = concurrency
        self._listener = listener
        self._pairs = pairs
        self._gate = EntryGate()
        self._protocol = 1
        """Version of the current or last link."""
        self._state = LinkState(max_running=concurrency + MAX_WAITING_ATTEMPTS, gate=self._gate)
        self._socket = LinkSocket(self, url=url, api_key=api_key)
        self.thread_calls = ThreadCalls()
        """The calls of functions that run in threads."""
        self._attempts = AttemptRunner(
            node_id=node_id,
            reasoners=reasoners,
            signer=self._signer,
            state=self._state,
            apply=self._apply,
            enter=self._enter,
            concurrency=concurrency,
            max_threads=concurrency + MAX_WAITING_ATTEMPTS,
            thread_calls=self.thread_calls,
        )
        self._watchdog = LoopWatchdog(
            node_id,
            self._gate,
            url=url,
            api_key=api_key,
            hello=self._watch_hello,
            turns_again=self._turns_again,
        )
        self._handlers = HandlerRunner(
            node_id=node_id, sessions=sessions, state=self._state, apply=self._apply, sender=self
        )
        self._heads = heads or HeldHeads()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None
        self._draining = False
        self._drained = False
        """Whether the control plane announced that it will send no more work."""
        self._stopping = False
        self._changed = asyncio.Event()
        self._closed: AgentFieldError | None = None
        self.linked = asyncio.Event()
        """Set while the link is open."""
        self.asked_to_drain = asyncio.Event()
        """Set once the control plane has asked this instance to drain."""
        self.last_failure = ""
        """Why the link was lost, or could not be opened, the last time; empty while it is open."""
        self.refused: dict[str, AgentFieldError] = {}
        """Sessions that the control plane did not register, with the reason; the rest of the node works."""

    async def run(self) -> None:
        """Keep the link open and do its work until cancelled.

        Raises:
            NodeRefused: The control plane refused this node for good.
        """
        self._loop = asyncio.get_running_loop()
        self.thread_calls.open(self._loop)
        error: AgentFieldError = Unavailable(f"The node {self.node_id} has stopped.")
        self._watchdog.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                error = await self._socket.run()
                self._handlers.close()
                self._attempts.cancel()
        finally:
            self._watchdog.stop()
            self._group = None
            self._close(error)
        raise error

    @property
    def working(self) -> str:
        """Unfinished work in words, such as ``2 runs, 1 call``; empty without any."""
        counts = ((self._state.outstanding, "run"), (self._handlers.count, "call"))
        return ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number)

    async def drain(self, seconds: float, *, handlers: bool = True) -> None:
        """Accept no new work, wait up to `seconds` for the rest to finish, then cancel the handlers.

        Work that the control plane sent before it received `Drain` is still accepted, until its `Drained` arrives.

        Args:
            seconds: How long attempts may take to finish and be acknowledged, and handlers to finish.
            handlers: Whether handlers may use that time too; otherwise they are cancelled at once and restarted elsewhere.
        """
        self._draining = True
        self._socket.send(Drain())
        if not handlers:
            self._stop_handlers()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._drain_finished(handlers=handlers):
                    self._changed.clear()
                    await self._changed.wait()
        self._stop_handlers()

    def _stop_handlers(self) -> None:
        self._stopping = True
        self._handlers.close()

    def _drain_finished(self, *, handlers: bool) -> bool:
        # Without a link no acknowledgement can arrive: only handlers, which continue to work, are worth waiting for.
        if not self.linked.is_set() and not (handlers and self.working):
            return True
        return not self.working and (self._drained or not handlers)

    def ask(self, command: Operation) -> asyncio.Future[Any]:
        """Send an operation, in order and again after a reconnect; return the future of its answer or refusal.

        Raises:
            Conflict: This code does not run on the node's event loop (code `wrong_event_loop`).
            LimitExceeded: Too many operations wait for an answer already.
            AgentFieldError: The node has stopped.
        """
        self._require_own_loop()
        if self._closed is not None:
            raise self._closed
        effects = self._state.send_operation(command)
        answer = self._answers[command.op_id] = asyncio.get_running_loop().create_future()
        self._apply(effects)
        return answer

    async def call(self, frame: Call, *, seconds: float | None) -> Any:
        """Run a target and return its output; the calling attempt yields its slot while it waits.

        Args:
            frame: The call.
            seconds: How long to wait, None for no limit.

        Raises:
            TimeoutError: No answer arrived in that time.
            Conflict: This code does not run on the node's event loop (code `wrong_event_loop`).
            AgentFieldError: The call did not succeed, or the node has stopped.
        """
        self._require_own_loop()
        try:
            with self._attempts.limiter.yielded(frame.parent_id or ""):
                async with asyncio.timeout(seconds):
                    return await self.ask(frame)
        finally:
            self.forget(frame.op_id)

    def forget(self, op_id: str) -> None:
        """Drop an operation whose answer is no longer awaited."""
        self._state.forget_operation(op_id)
        self._answers.pop(op_id, None)

    # --- LinkDelegate of the socket ----------------------------------------------------------------------------------

    @property
    def newest_protocol(self) -> int:
        """Newest version of the link that the node's work can be reported in."""
        return self._state.newest_protocol

    def hello(self, challenge: Challenge, protocol: int, url: str) -> str:
        """Return the signed introduction of this instance, as it is sent."""
        self._protocol = protocol
        hello = Hello(
            protocol=protocol,
            node_id=self.node_id,
            instance_id=self.instance_id,
            did=self._greeter.did,
            signature="",
            nonce=None if protocol < PROOFS else secrets.token_urlsafe(32),
            concurrency=self._concurrency,
            functions=tuple(reasoner.spec for reasoner in self._reasoners.values()),
            sessions=tuple(entry.declaration for entry in self._sessions.values()),
            pairs=self._pairs,
            draining=self._draining,
            **self._state.hello_fields(),
        )
        return self._greeter.hello(hello, challenge, url)

    def welcomed(self, welcome: Welcome, url: str) -> None:
        """Handle an opened link: send everything that is not answered."""
        if self._protocol >= PROOFS:
            self._signer.audience = self._greeter.welcomed(welcome, url)
        self.last_failure = ""
        self._note_refused(welcome)
        self.linked.set()
        if self._draining:  # set after `Hello` was written, so that it did not say so
            self._socket.send(Drain())
        self._apply(self._state.link_opened(welcome))
        self._send_unsettled()
        self._notify("linked", url, "")

    def message(self, frames: Iterable[str | UnsignedResult]) -> str:
        """Return the text of a message, with its results signed."""
        return self._signer.sign(frames)

    def received(self, frame: Any) -> None:
        """Handle a frame."""
        match frame:
            case Drain():
                self.asked_to_drain.set()
            case Drained():
                self._drained = True
                self._changed.set()
            case _:
                self._apply(self._state.receive_frame(frame))

    def lost(self, url: str, reason: str) -> None:
        """Handle a link that was lost or could not be opened."""
        self._state.link_lost()
        self.linked.clear()
        self._drained = False
        self.last_failure = reason
        self._changed.set()
        self._notify("lost", url, reason)

    # --- inside -------------------------------------------------------------------------------------------------

    async def _enter(self, invoke: Invoke) -> bool:
        """Report that an attempt enters its function; return once the kernel has the report.

        From then on the attempt counts as entered, even if the function blocks the event loop at once. Without a link the
        report waits for the next one, whose `Welcome` may cancel the attempt.
        """
        key = (invoke.context.execution_id, invoke.context.attempt)
        if not self._state.enter_attempt(*key):
            self._apply(self._state.drop_given_back())
            return False
        while True:
            await self.linked.wait()
            self._apply(self._state.attempt_started(*key))
            if await self._socket.written():
                return True

    def _watch_hello(self, challenge: Challenge, url: str) -> str | None:
        """Return the first frame of the watchdog's connection, None if the link has no such; called in its thread."""
        if self._protocol < WATCHED:
            return None
        hello = WatchHello(
            protocol=self._protocol,
            node_id=self.node_id,
            instance_id=self.instance_id,
            did=self._greeter.did,
            signature="",
        )
        return self._greeter.watch(hello, challenge, url)

    def _turns_again(self) -> None:
        """Tell the control plane that the event loop turns again, and what was given back while it did not."""
        self._send_unsettled()
        if self._protocol >= WATCHED:
            self._socket.send(LoopState(blocked=0.0))

    def _send_unsettled(self) -> None:
        if (unsettled := self._gate.unsettled()) is not None and self._protocol >= WATCHED:
            self._socket.send(GiveBack(number=unsettled[0], entered=unsettled[1]))

    def _require_own_loop(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        # Another loop would wait for ever: its thread is not woken when the answer arrives on the loop of the link.
        if self._loop is not None and running is not self._loop:
            raise Conflict(
                f"This code runs outside the event loop of {self.node_id}, so it cannot await a call or a session's command.",
                code="wrong_event_loop",
                hint="In a plain function write app.call_sync('node.name', ...) instead of asyncio.run(app.call(...)).",
            )

    def _note_refused(self, welcome: Welcome) -> None:
        before, self.refused = self.refused, {n: error_from_problem(p) for n, p in welcome.refused.items()}
        for name, error in self.refused.items():
            if name not in before or before[name].message != error.message:
                _log.error("%s.%s is not registered: %s\n  code: %s", self.node_id, name, error, error.code)

    def _apply(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._socket.send(effect.frame, effect.leaf)
                case StartAttempt():
                    self._start(effect)
                case RejectAttempt():
                    self._attempts.reject(effect.invoke)
                case StopAttempt():
                    self._attempts.stop(effect.execution_id, effect.attempt, effect.reason)
                case OpenHandler():
                    self._open(effect)
                case StopHandler():
                    self._handlers.stop(effect.session_id, effect.epoch, effect.reason, at_once=effect.at_once)
                case ResolveOperation():
                    self._resolve(effect)
                case DeliverEvent() if effect.event.get("type") == "log.head":
                    self._heads.take(effect.session_id, effect.event)
                case DeliverEvent():
                    self._handlers.deliver_event(effect.session_id, effect.event)
        self._changed.set()

    def _start(self, effect: StartAttempt) -> None:
        if self._stopping or self._group is None:
            self._state.attempt_abandoned(effect.invoke.context.execution_id, effect.invoke.context.attempt)
        else:
            self._attempts.start(effect.invoke, self._group)

    def _open(self, effect: OpenHandler) -> None:
        if not self._stopping and self._group is not None:
            self._handlers.open(effect.opened, self._group)

    def _resolve(self, effect: ResolveOperation) -> None:
        answer = self._answers.pop(effect.op_id, None)
        if answer is None or answer.done():
            return
        if effect.problem is not None:
            answer.set_exception(error_from_problem(effect.problem))
        else:
            answer.set_result(effect.value)

    def _close(self, error: AgentFieldError) -> None:
        self._closed = error
        self.thread_calls.close()
        self._attempts.close()
        self.linked.clear()
        self._changed.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # marks it as retrieved: an answer that nobody awaits must not be logged as lost
        self._answers.clear()

    def _notify(self, change: str, url: str, reason: str) -> None:
        if self._listener is not None:
            self._listener(change, url, reason)
