"""The task of one session: it feeds the machine from a bounded inbox and performs the effects in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from agentfield.errors import AgentFieldError, Conflict, Forbidden, InvalidInput
from agentfield.ids import new_id
from agentfield.plugins.hooks.middleware import MiddlewareChain
from agentfield.plugins.manifest.spec import PairSpec
from agentfield.realtime.bridge import EventLoopStallMonitor
from agentfield.realtime.caller import CallerInput
from agentfield.realtime.commands import CancelReplyCommand
from agentfield.realtime.config import SessionConfig
from agentfield.values import encode, nearest
from agentfield.wire.frames import SessionCommand, SessionDone
from agentfield.wire.rest import SessionState
from agentfield_server.bus import Bus
from agentfield_server.logs import log_context
from agentfield_server.nodes import LinkedNode, LinkHub
from agentfield_server.sessions.actor.caller_access import CallerAccess
from agentfield_server.sessions.actor.caller_attachment import CallerAttachment
from agentfield_server.sessions.actor.handler_channel import HandlerChannel, parse_command, reply_on_link
from agentfield_server.sessions.actor.inbox import Inbox, Work
from agentfield_server.sessions.actor.provider_connection import ConnectionEvent, MediaAdapter, ProviderConnection
from agentfield_server.sessions.actor.tool_runner import ExecutionEngine, ToolRunner, redact_input
from agentfield_server.sessions.actor.writer import LostOwnership, SessionWriter
from agentfield_server.sessions.clock import SessionClock
from agentfield_server.sessions.conversation.effects import (
    Broadcast,
    CancelTool,
    CloseRootExecution,
    CloseTurn,
    Effect,
    HangUp,
    OpenHandler,
    OpenTurn,
    RecordEvent,
    ReleaseMachine,
    ResumeUplink,
    Rotate,
    RunTool,
    SendCommand,
    SetState,
    StopHandler,
    StoreHandle,
)
from agentfield_server.sessions.conversation.inputs import HandlerDone, HandlerOpened, Input, Snapshot
from agentfield_server.sessions.conversation.machine import SessionMachine
from agentfield_server.sessions.conversation.usage.pricing import Pricer, reported_cost
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import SessionRow

__all__ = ["SessionActor"]

_log = logging.getLogger("agentfield.sessions")
_FORCED_END_WAIT = 5.0

T = TypeVar("T")


class SessionActor:
    """Runs one session: the machine, its connections to the provider, the caller and the handler, and its store writes.

    Everything that changes the machine happens inside the task of `run`. Other tasks reach it through `tell` and `ask`.

    Args:
        row: The session row as this process owns it.
        config: The frozen configuration.
        pair: The provider/transport pair of the session.
        adapter: Returns the pair's adapter.
        credential: Name of the leased key; stored in the call reference, so that recovery leases the same key.
        store: The store.
        engine: Runs tool executions and the handler's calls.
        hub: The linked nodes.
        bus: Takes live events.
        clock: The clock of the machine's deadlines.
        chain: The tool middleware.
        stall_monitor: Shared by all sessions; it uses `time.monotonic`.
        snapshot: State to resume from after a restart; None for a new session.
        price: Returns the cost of a usage report.
        secrets: Returns the texts that no caller may get.
        on_ended: Called after the committed end and again when the task ends; must be idempotent.
    """

    def __init__(
        self,
        row: SessionRow,
        config: SessionConfig,
        pair: PairSpec,
        *,
        adapter: Callable[[], Awaitable[MediaAdapter]],
        credential: str,
        store: Store,
        engine: ExecutionEngine,
        hub: LinkHub,
        bus: Bus,
        clock: SessionClock,
        chain: MiddlewareChain,
        stall_monitor: EventLoopStallMonitor,
        snapshot: Snapshot | None = None,
        price: Pricer = reported_cost,
        secrets: Callable[[], Iterable[str]] = tuple,
        on_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.pair = pair
        """The provider/transport pair of the session."""
        self._on_ended = on_ended
        self._store = store
        self._engine = engine
        self._bus = bus
        self._clock = clock
        self._went_live = asyncio.Event()
        self.ended = asyncio.Event()
        """Set after the end is committed."""
        now = clock.monotonic()
        self.machine = SessionMachine(
            config,
            capabilities=pair.capabilities,
            media=pair.media,
            ids=new_id,
            now=now,
            offset=clock.epoch() - now,
            snapshot=snapshot,
            price=price,
            redact=partial(redact_input, chain, row),
        )
        self._inbox = Inbox(self.machine.state.ended_error)
        self._writer = SessionWriter(store, row)
        self._connection = ProviderConnection(
            adapter,
            pair,
            config,
            put=self._inbox.put,
            tell=self.tell,
            on_caller_input=self._on_caller_input,
            stall_monitor=stall_monitor,
            secrets=secrets,
        )
        self._connection.ref = row.call_ref
        self._handler_channel = HandlerChannel(
            hub, row, config.declaration, place=lambda at, epoch: store.place_handler(row.id, at, epoch=epoch)
        )
        self._tool_runner = ToolRunner(engine, row, self._inbox.put, chain)
        self._attachment = CallerAttachment(self._connection, pair, tell=self.tell)
        self.caller_access = CallerAccess(
            self._connection,
            self._attachment,
            pair,
            row.id,
            self.machine.state,
            self._inbox,
            credential=credential,
            feed=self.feed,
        )
        """Attaches callers to the session."""

    @property
    def row(self) -> SessionRow:
        """The session row as last written."""
        return self._writer.row

    # --- called from other tasks

    def tell(self, item: Input | Work) -> None:
        """Enqueue an input or work without waiting; the inbox limit does not apply."""
        self._inbox.tell(item)

    @property
    def full(self) -> bool:
        """Whether the inbox is at its limit."""
        return self._inbox.full

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` inside the session's task, between two inputs, and return its result.

        Raises:
            SessionEnded: The session ended before `work` ran.
        """
        return await self._inbox.ask(work)

    async def wait_until_live(self, seconds: float) -> None:
        """Wait until the call is live or the session is over, for at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._went_live.wait()

    async def feed(self, event: Input) -> None:
        """Feed the machine and perform its effects; call it only inside the task of the session."""
        await self._apply_all(self.machine.feed(event, self._clock.monotonic()))

    # --- frames of nodes; the handler router enqueues these calls

    async def handler_command(self, link: LinkedNode, frame: SessionCommand) -> None:
        """Execute a command of the handler; reject one of a foreign node or instance, or of a stale handler run."""
        if link.node_id != self.row.node_id:
            await reply_on_link(link, frame, Forbidden("this session belongs to another node", code="foreign_session"))
        elif not self.machine.handler.is_current(frame.epoch):
            stale = Conflict("this handler run was superseded by a newer one", code="stale_handler")
            await reply_on_link(link, frame, stale)
        elif not self._handler_channel.runs_on(link):
            foreign = Forbidden("another instance runs the handler of this session", code="foreign_session")
            await reply_on_link(link, frame, foreign)
        elif frame.command == "set_state":
            await self._set_handler_state(link, frame)
        elif frame.command == "listen":
            self._handler_channel.listening = True
            await reply_on_link(link, frame)
        else:
            command = parse_command(frame)
            if isinstance(command, AgentFieldError):
                await reply_on_link(link, frame, command)
            else:
                await self.feed(command)

    async def _set_handler_state(self, link: LinkedNode, frame: SessionCommand) -> None:
        try:
            state = encode(frame.args.get("state") or {}, name="state").value
        except InvalidInput as error:
            await reply_on_link(link, frame, error)
        else:
            await self._writer.write_handler_state(dict(state))
            await reply_on_link(link, frame)

    async def handler_done(self, link: LinkedNode, frame: SessionDone) -> None:
        """Record the end of a handler run; the reply, sent after the commit, lets the node forget the run."""
        if self._handler_channel.runs_on(link) and self.machine.handler.is_current(frame.epoch):
            self._handler_channel.run_finished()
            await self.feed(HandlerDone(frame.epoch, nearest(frame.problem)))
        await reply_on_link(link, frame)

    async def node_linked(self, link: LinkedNode) -> None:
        """Open, reattach or replace the handler on a node instance that has linked."""
        event = await self._handler_channel.node_linked(link)
        if event is not None:
            await self.feed(event)

    async def node_lost(self, link: LinkedNode) -> None:
        """Move the handler away from a node instance whose link ended."""
        event = self._handler_channel.node_lost(link)
        if event is not None:
            await self.feed(event)

    # --- the task

    async def run(self) -> None:
        """Run until the machine is released, some time after the end; a cancellation releases everything without ending the call."""
        with log_context(session_id=self.row.id, run_id=self.row.run_id):
            await self._run()

    async def _run(self) -> None:
        try:
            await self._apply_all(self.machine.tick(self._clock.monotonic()))
            while not self._inbox.closed:
                await self._step()
        except LostOwnership:
            _log.warning("session %s was released: another control plane owns it", self.row.id)
        except Exception:  # noqa: BLE001 - a failure must end this session with a reason, and no other session
            _log.exception("session %s failed and will be ended", self.row.id)
            await self._end_by_force()
        finally:
            # the inbox first: nothing may be enqueued for a task that has ended
            self._inbox.close()
            self._handler_channel.release()
            self._went_live.set()
            await self._attachment.close()
            await self._tool_runner.close()
            await self._connection.detach()
            self._on_ended()

    async def _step(self) -> None:
        match item := await self._inbox.take(self._clock, self.machine.next_deadline()):
            case None:
                await self._apply_all(self.machine.tick(self._clock.monotonic()))
            case ConnectionEvent():
                # an event that waited in the inbox while its connection was replaced belongs to no current call
                if item.generation == self._connection.generation:
                    await self.feed(item.event)
            case _ if callable(item):
                await item()
            case _:
                await self.feed(item)

    def _on_caller_input(self, received: CallerInput) -> None:
        if not self.full:
            self._attachment.on_caller_input(received)

    async def _end_by_force(self) -> None:
        """Hang up and write the end without the machine, whose state can no longer be trusted.

        Each step has a deadline of its own, and a step that fails does not keep the others from closing what is open.
        """
        reason = self.machine.state.reason or "provider_error"
        detail = self.machine.state.detail or "the control plane failed in this session"
        stop, ended = (
            StopHandler(epoch=self.machine.handler.epoch, reason=reason),
            SetState(state="ended", reason=reason, detail=detail),
        )
        # the executions before the state: recovery finds a session that is not ended, and no other
        steps: tuple[Callable[[], Awaitable[object]], ...] = (
            self._connection.hang_up,
            self._cancel_undispatched,
            lambda: self._writer.close_turns(reason, detail),
            lambda: self._writer.close_root(reason, detail),
            lambda: self._writer.write_state(ended, None),
            lambda: self._handler_channel.stop(stop),
        )
        for step in steps:
            try:
                async with asyncio.timeout(_FORCED_END_WAIT):
                    await step()
            except LostOwnership:
                _log.warning("session %s was released: another control plane owns it", self.row.id)
                break
            except Exception:  # noqa: BLE001 - the other steps close what is still open
                _log.exception("a step of the end of session %s failed", self.row.id)
        self.ended.set()
        self._on_ended()

    # --- effects

    async def _apply_all(self, effects: list[Effect]) -> None:
        for effect in effects:
            await self._apply(effect)
        await self._writer.flush()

    async def _apply(self, effect: Effect) -> None:
        match effect:
            case RecordEvent():
                self._writer.add_event(effect)
                if effect.type == "warning":
                    await self._handler_channel.send_event({"type": "warning", **effect.body})
            case Broadcast():
                self._bus.publish(f"live:{self.row.id}", dict(effect.body))
                await self._handler_channel.send_event(effect.body)
            case SendCommand():
                # events are committed before the command that they precede; a cancel must not wait for the disk
                if not isinstance(effect.command, CancelReplyCommand):
                    await self._writer.flush()
                await self._connection.send(effect.command)
            case OpenTurn():
                await self._writer.open_turn(effect)
            case CloseTurn():
                await self._writer.close_turn(effect)
            case RunTool() | CancelTool():
                await self._apply_tool_effect(effect)
            case OpenHandler() | StopHandler():
                await self._apply_handler_effect(effect)
            case HangUp() | SetState() | CloseRootExecution() | ReleaseMachine():
                await self._apply_state_effect(effect)
            case Rotate():
                await self._writer.flush()
                await self._attachment.rotate()
            case ResumeUplink():
                self._connection.resume_uplink()
            case StoreHandle():
                self._connection.keep_handle(effect)
                await self._writer.write_call_ref(self._connection.ref)
            case _:
                await self._writer.flush()
                await self._handler_channel.answer_command(effect)

    async def _apply_tool_effect(self, effect: RunTool | CancelTool) -> None:
        if isinstance(effect, RunTool):
            # started before the flush, so that the store may group both commits; it keeps their order
            self._tool_runner.run(effect)
            await self._writer.flush()
        else:
            await self._writer.flush()
            await self._tool_runner.cancel(effect.call_id, effect.reason)

    async def _apply_handler_effect(self, effect: OpenHandler | StopHandler) -> None:
        if isinstance(effect, StopHandler):
            await self._writer.flush()
            await self._handler_channel.stop(effect)
            return
        await self._writer.write_handler_epoch(effect.epoch)
        state, history = self.row.handler_state, self.machine.state.history
        if await self._handler_channel.open(effect, state=state, history=history):
            self.tell(HandlerOpened(effect.epoch))
        else:
            self.tell(self._handler_channel.unavailable())

    async def _apply_state_effect(self, effect: HangUp | SetState | CloseRootExecution | ReleaseMachine) -> None:
        match effect:
            case HangUp():
                await self._writer.flush()
                await self._connection.hang_up()
            case SetState():
                await self._writer.write_state(effect, self._connection.ref)
                self._update_live_event(effect.state)
                if effect.state == "ended":
                    self.ended.set()
                    self._on_ended()
            case CloseRootExecution():
                await self._cancel_undispatched()
                await self._writer.close_root(effect.reason, effect.detail)
            case ReleaseMachine():
                self._inbox.closed = True

    def _update_live_event(self, state: SessionState) -> None:
        if state == "connecting":
            self._went_live.clear()
        else:
            self._went_live.set()

    async def _cancel_undispatched(self) -> None:
        """Cancel the tools that no node has started; those that wait, or waited, for a human decision continue."""
        self._tool_runner.session_over()
        for execution in await self._store.open_executions(session_id=self.row.id):
            if execution.kind == "tool" and execution.status == "queued" and not execution.pauses:
                try:
                    await self._engine.cancel(execution.id, "the session ended")
                except AgentFieldError as error:
                    _log.warning("%s of session %s was not cancelled: %s", execution.id, self.row.id, error.message)
