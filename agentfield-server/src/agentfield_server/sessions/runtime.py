"""One session at work: a task that feeds the machine from a bounded inbox and carries its effects out in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from agentfield.errors import AgentFieldError, Conflict, Forbidden
from agentfield.ids import new_id
from agentfield.plugins.middleware import Chain
from agentfield.plugins.spec import PairSpec
from agentfield.realtime.caller import CallerInput
from agentfield.realtime.commands import CancelReply
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.stalls import Stalls
from agentfield.wire.frames import SessionCommand, SessionDone
from agentfield.wire.rest import SessionState
from agentfield_server.bus import Bus
from agentfield_server.logs import log_context
from agentfield_server.nodes import LinkHub, NodeLink
from agentfield_server.sessions import effects as e
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.callers import Callers
from agentfield_server.sessions.callline import CallLine, FromCall, MediaAdapter
from agentfield_server.sessions.carriage import Carriage
from agentfield_server.sessions.handlerline import HandlerLine, answer_on, parse_command
from agentfield_server.sessions.inbox import Inbox, Task
from agentfield_server.sessions.ledger import Fenced, Ledger
from agentfield_server.sessions.machine import SessionMachine
from agentfield_server.sessions.prices import Pricer, as_told
from agentfield_server.sessions.times import Timekeeper
from agentfield_server.sessions.tools import Executions, ToolRunner
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import SessionRow

__all__ = ["SessionActor"]

_log = logging.getLogger("agentfield.sessions")
_LAST_RESORT = 5.0

T = TypeVar("T")


class SessionActor:
    """Drives one session.

    Args:
        row: The session as this process owns it.
        config: Its frozen configuration.
        pair: The row of the matrix that carries it.
        adapter: Returns the pair's adapter.
        credential: Name of the key that the session uses; kept with what is stored of its call.
        store: What is kept.
        engine: Who runs calls.
        hub: The linked nodes.
        bus: Takes live events.
        time: The clock.
        chain: The tool middleware.
        stalls: Shared by all sessions, by the clock of `time.monotonic`.
        snapshot: What to go on from after a restart, None for a new call.
        price: Tells what usage costs.
        ended: Called once the end is committed, and when the session is let go.
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
        engine: Executions,
        hub: LinkHub,
        bus: Bus,
        time: Timekeeper,
        chain: Chain,
        stalls: Stalls,
        snapshot: i.Snapshot | None = None,
        price: Pricer = as_told,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.pair = pair
        """The row of the matrix that carries the session."""
        self._on_end = ended
        self._store = store
        self._engine = engine
        self._bus = bus
        self._time = time
        self._went_live = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when the end is committed."""
        now = time.monotonic()
        self.machine = SessionMachine(
            config,
            capabilities=pair.capabilities,
            media=pair.media,
            ids=new_id,
            now=now,
            offset=time.epoch() - now,
            snapshot=snapshot,
            price=price,
        )
        self._inbox = Inbox(self.machine.board.ended_error)
        self._ledger = Ledger(store, row)
        self._call = CallLine(
            adapter, pair, config, put=self._inbox.put, tell=self.tell, hear=self._hear, stalls=stalls
        )
        self._call.ref = row.call_ref
        self._handler = HandlerLine(hub, row, config.declaration)
        self._tools = ToolRunner(engine, row, self._inbox.put, chain)
        self._carriage = Carriage(self._call, pair, tell=self.tell)
        self.callers = Callers(
            self._call,
            self._carriage,
            pair,
            row.id,
            self.machine.board,
            self._inbox,
            credential=credential,
            feed=self.feed,
        )
        """How callers get to the session."""

    @property
    def row(self) -> SessionRow:
        """The session as last stored."""
        return self._ledger.row

    # --- what others ask

    def tell(self, item: i.Input | Task) -> None:
        """Enqueue without waiting, for who must not wait."""
        self._inbox.tell(item)

    @property
    def full(self) -> bool:
        """Whether more waits than should."""
        return self._inbox.full

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something between two inputs and return what it returns.

        Raises:
            SessionEnded: The session was let go before it came to that.
        """
        return await self._inbox.ask(work)

    async def until_live(self, seconds: float) -> None:
        """Wait until the call is live, or the session is over, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._went_live.wait()

    async def feed(self, event: i.Input) -> None:
        """Feed the machine and carry out what it asks; for use inside the task of the session."""
        await self._perform(self.machine.feed(event, self._time.monotonic()))

    # --- frames of nodes, enqueued by the manager

    async def command(self, link: NodeLink, frame: SessionCommand) -> None:
        """A handler's command."""
        if link.node_id != self.row.node_id:
            await answer_on(link, frame, Forbidden("this session belongs to another node", code="foreign_session"))
        elif not self.machine.handler.current(frame.epoch):
            error = Conflict("this run of the handler is over; another one has the session", code="stale_handler")
            await answer_on(link, frame, error)
        elif frame.command == "set_state":
            await self._ledger.handler_state(dict(frame.args.get("state") or {}))
            await answer_on(link, frame)
        elif frame.command == "listen":
            self._handler.listening = True
            await answer_on(link, frame)
        else:
            command = parse_command(frame)
            if isinstance(command, AgentFieldError):
                await answer_on(link, frame, command)
            else:
                await self.feed(command)

    async def done(self, link: NodeLink, frame: SessionDone) -> None:
        """A run of the handler is over; the node may forget it once that is committed."""
        if link.node_id == self.row.node_id and self.machine.handler.current(frame.epoch):
            self._handler.finished()
            await self.feed(i.HandlerDone(frame.epoch, frame.problem))
        await answer_on(link, frame)

    async def node_linked(self, link: NodeLink) -> None:
        """A node is there."""
        news = await self._handler.linked(link)
        if news is not None:
            await self.feed(news)

    async def node_lost(self, link: NodeLink) -> None:
        """A node is gone."""
        news = self._handler.lost(link)
        if news is not None:
            await self.feed(news)

    # --- the task

    async def run(self) -> None:
        """Work until the session is over and its grace has passed; when cancelled, let go of everything."""
        with log_context(session_id=self.row.id, run_id=self.row.run_id):
            await self._run()

    async def _run(self) -> None:
        try:
            await self._perform(self.machine.tick(self._time.monotonic()))
            while not self._inbox.closed:
                await self._step()
        except Fenced:
            _log.warning("session %s is let go: another control plane has it", self.row.id)
        except Exception:  # noqa: BLE001 - one session's failure must end that session, with a reason, and no other
            _log.exception("session %s failed and is ended", self.row.id)
            await self._last_resort()
        finally:
            self._inbox.close()
            self._handler.let_go()
            self._went_live.set()
            await self._carriage.close()
            await self._tools.close()
            await self._call.let_go()
            self._on_end()

    async def _step(self) -> None:
        match item := await self._inbox.take(self._time, self.machine.next_deadline()):
            case None:
                await self._perform(self.machine.tick(self._time.monotonic()))
            case FromCall():
                if item.generation == self._call.generation:
                    await self.feed(item.event)
            case _ if callable(item):
                await item()
            case _:
                await self.feed(item)

    def _hear(self, heard: CallerInput) -> None:
        if not self.full:
            self._carriage.hear(heard)

    async def _last_resort(self) -> None:
        """The machine cannot be trusted any more: hang up and write the end by hand."""
        reason = self.machine.board.reason or "provider_error"
        detail = self.machine.board.detail or "the control plane failed in this session"
        try:
            async with asyncio.timeout(_LAST_RESORT):
                await self._call.hang_up()
                await self._ledger.close_root(reason, detail)
                await self._ledger.state(e.SetState(state="ended", reason=reason, detail=detail), None)
        except (AgentFieldError, Fenced, TimeoutError) as error:
            _log.error("the end of session %s could not be stored: %s", self.row.id, error)
        self.ended.set()
        self._on_end()

    # --- effects

    async def _perform(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            await self._do(effect)
        await self._ledger.flush()

    async def _do(self, effect: e.Effect) -> None:
        match effect:
            case e.Record():
                self._ledger.note(effect)
                if effect.type == "warning":
                    await self._handler.event({"type": "warning", **effect.body})
            case e.Live():
                self._bus.publish(f"live:{self.row.id}", dict(effect.body))
                await self._handler.event(effect.body)
            case e.SendCommand():
                if not isinstance(effect.command, CancelReply):
                    await self._ledger.flush()
                await self._call.send(effect.command)
            case e.OpenTurn():
                await self._ledger.open_turn(effect)
            case e.CloseTurn():
                await self._ledger.close_turn(effect)
            case e.RunTool() | e.CancelTool():
                await self._tool(effect)
            case e.OpenHandler() | e.StopHandler():
                await self._run_handler(effect)
            case e.HangUp() | e.SetState() | e.Ended() | e.Finished():
                await self._change(effect)
            case e.Rotate():
                await self._ledger.flush()
                await self._carriage.rotate()
            case e.TakeAudio():
                self._call.take_audio()
            case _:
                await self._ledger.flush()
                await self._handler.answer(effect)

    async def _tool(self, effect: e.RunTool | e.CancelTool) -> None:
        if isinstance(effect, e.RunTool):
            # begun first, so that both commits travel together; the store keeps their order
            self._tools.run(effect)
            await self._ledger.flush()
        else:
            await self._ledger.flush()
            await self._tools.cancel(effect.call_id, "the caller interrupted")

    async def _run_handler(self, effect: e.OpenHandler | e.StopHandler) -> None:
        if isinstance(effect, e.StopHandler):
            await self._ledger.flush()
            await self._handler.stop(effect)
            return
        await self._ledger.handler_epoch(effect.epoch)
        state, history = self.row.handler_state, self.machine.board.history
        if await self._handler.open(effect, state=state, history=history):
            self.tell(i.HandlerOpened(effect.epoch))
        else:
            self.tell(self._handler.away())

    async def _change(self, effect: e.HangUp | e.SetState | e.Ended | e.Finished) -> None:
        match effect:
            case e.HangUp():
                await self._ledger.flush()
                await self._call.hang_up()
            case e.SetState():
                await self._ledger.state(effect, self._call.ref)
                self._tell_live(effect.state)
                if effect.state == "ended":
                    self.ended.set()
                    self._on_end()
            case e.Ended():
                await self._cancel_undispatched()
                await self._ledger.close_root(effect.reason, effect.detail)
            case e.Finished():
                self._inbox.closed = True

    def _tell_live(self, state: SessionState) -> None:
        if state == "connecting":
            self._went_live.clear()
        else:
            self._went_live.set()

    async def _cancel_undispatched(self) -> None:
        """Tools that nobody has begun are not begun any more; those that waited for a human go on."""
        self._tools.session_over()
        for execution in await self._store.open_executions(session_id=self.row.id):
            if execution.kind == "tool" and execution.status == "queued" and not execution.pauses:
                try:
                    await self._engine.cancel(execution.id, "the session ended")
                except AgentFieldError as error:
                    _log.warning("%s of session %s was not cancelled: %s", execution.id, self.row.id, error.message)
