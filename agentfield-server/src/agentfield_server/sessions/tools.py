"""Runs what a session calls, the model's tools and the handler's own calls, through the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from agentfield.errors import (
    AgentFieldError,
    Conflict,
    ExecutionCancelled,
    NodeNotConnected,
    NotFound,
    error_from_problem,
)
from agentfield.ids import new_id
from agentfield.plugins.hooks import ToolCall
from agentfield.plugins.middleware import Chain, Note, Passage
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import Record, RunTool
from agentfield_server.store.records import Execution, NewEvent, NewExecution, SessionRow

__all__ = ["Executions", "ToolRunner"]

_log = logging.getLogger("agentfield.sessions")


_RELINK_TRIES = 20
_RELINK_PAUSE = 0.5
_CLOSE = 5.0


class Executions(Protocol):
    """What the sessions need of the engine."""

    async def submit(self, new: NewExecution) -> Execution:
        """Create an execution and see that it is run."""

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109 - the engine's word
        """Wait until an execution is closed."""

    async def cancel(self, execution_id: str, reason: str) -> object:
        """Cancel an execution."""


class ToolRunner:
    """Executions on behalf of one session; each runs in a task of its own, outside every read loop.

    A call passes the tool middleware of plugins first. It has an execution from the moment in which the last of them
    lets it through; after a restart it passes them again, and the engine knows the execution by its `op_id`.

    Args:
        engine: Who runs them.
        row: The session.
        put: Takes results for the machine.
        chain: The tool middleware.
    """

    def __init__(
        self, engine: Executions, row: SessionRow, put: Callable[[i.Input], Awaitable[None]], chain: Chain
    ) -> None:
        self._engine = engine
        self._row = row
        self._put = put
        self._chain = chain
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._works: set[asyncio.Task[Any]] = set()
        """What goes on behind the middleware."""
        self._executions: dict[str, str] = {}
        self._unwanted: dict[str, str] = {}
        """Calls that were cancelled before their execution existed."""
        self._over = self._closing = False

    def run(self, effect: RunTool) -> None:
        """Start a call."""
        task = asyncio.create_task(self._run(effect), name=f"{effect.target} for {self._row.id}")
        self._tasks[effect.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(effect.call_id, None))

    async def cancel(self, call_id: str, reason: str) -> None:
        """Cancel a call."""
        execution_id = self._executions.get(call_id)
        if execution_id is not None:
            await self._cancel(execution_id, reason)
        elif call_id in self._tasks:
            self._unwanted[call_id] = reason

    def session_over(self) -> None:
        """Begin no call of the model's any more; those of the handler's go on for as long as it does."""
        self._over = True

    async def close(self) -> None:
        """Stop waiting for results; the executions themselves go on."""
        self._closing = True
        tasks = {*self._tasks.values(), *self._works}
        for task in tasks:
            task.cancel()
        if tasks and (stuck := (await asyncio.wait(tasks, timeout=_CLOSE))[1]):
            _log.error("%d calls of session %s did not stop: a plugin holds them", len(stuck), self._row.id)

    async def _run(self, effect: RunTool) -> None:
        passage = Passage(self._call(effect))
        value: Any = None
        problem: dict[str, Any] | None = None
        try:
            value = await self._chain.run(passage, partial(self._begin, effect, passage))
        except AgentFieldError as error:
            problem = error.to_problem()
        except Exception:  # noqa: BLE001 - whatever went wrong, the call has to be answered
            _log.exception("call %s of session %s failed", effect.call_id, self._row.id)
            problem = Conflict("the call could not be run", code="call_failed").to_problem()
        if not self._closing:
            notes = tuple(Record(note.type, note.body, passage.execution_id) for note in passage.take_notes())
            await self._put(
                i.ToolFinished(
                    call_id=effect.call_id,
                    value=value,
                    problem=problem,
                    execution_id=passage.execution_id,
                    notes=notes,
                )
            )

    async def _begin(self, effect: RunTool, passage: Passage, call: ToolCall) -> Any:
        """Run the target, now that all middleware let the call through."""
        if not self._chain:
            return _output(await self._execute(effect, passage, call))
        if self._closing:
            raise asyncio.CancelledError
        self._check_wanted(effect)
        work = self._own(self._execute(effect, passage, call))
        try:
            return _output(await asyncio.shield(work))
        except asyncio.CancelledError:
            if not self._closing and not work.done():
                self._give_up(effect.call_id)
            raise

    def _check_wanted(self, effect: RunTool) -> None:
        """Refuse what was given up while the middleware had it; an earlier control plane may have begun what is resumed."""
        reason = None if effect.resumed else self._unwanted.pop(effect.call_id, None)
        if self._over and effect.kind == "tool":
            reason = "the session ended"
        if reason is not None:
            raise ExecutionCancelled(f"The call of {effect.target} was cancelled: {reason}.", reason=reason)

    def _give_up(self, call_id: str) -> None:
        """A middleware waits no longer for the execution that it let through: nobody will have its result."""
        reason = "a plugin gave it up"
        execution_id = self._executions.get(call_id)
        if execution_id is not None:
            self._own(self._cancel(execution_id, reason))
        else:
            self._unwanted[call_id] = reason

    async def _cancel(self, execution_id: str, reason: str) -> None:
        try:
            await self._engine.cancel(execution_id, reason)
        except AgentFieldError as error:
            _log.warning("%s of session %s was not cancelled: %s", execution_id, self._row.id, error.message)

    def _own(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return task

    async def _execute(self, effect: RunTool, passage: Passage, call: ToolCall) -> Execution:
        execution = await self._submit(effect, passage, call)
        passage.execution_id = self._executions[effect.call_id] = execution.id
        try:
            if (reason := self._unwanted.pop(effect.call_id, None)) is not None:
                await self._cancel(execution.id, reason)
            await self._put(i.ToolStarted(effect.call_id, execution.id))
            return await self._engine.wait(execution.id, None)
        finally:
            del self._executions[effect.call_id]

    async def _submit(self, effect: RunTool, passage: Passage, call: ToolCall) -> Execution:
        """Submit a call; after a restart its node is given some time to link again."""
        # recorded with the execution, now or when an earlier control plane created it; else with the end of the call
        notes = passage.take_notes()
        try:
            return await self._submitted(effect, call, notes)
        except AgentFieldError:
            passage.notes[:0] = notes
            raise

    async def _submitted(self, effect: RunTool, call: ToolCall, notes: list[Note]) -> Execution:
        if not effect.resumed:
            return await self._engine.submit(self._execution(effect, call, notes))
        for _ in range(_RELINK_TRIES):
            try:
                return await self._engine.submit(self._execution(effect, call, notes))
            except (NotFound, NodeNotConnected):
                await asyncio.sleep(_RELINK_PAUSE)
        return await self._engine.submit(self._execution(effect, call, notes))

    def _execution(self, effect: RunTool, call: ToolCall, notes: list[Note]) -> NewExecution:
        row = self._row
        op_id = effect.call_id if effect.kind == "call" else f"{row.id}:{effect.call_id}"
        execution_id = new_id("exe")
        return NewExecution(
            id=execution_id,
            run_id=row.run_id,
            kind=effect.kind,
            target=effect.target,
            input=dict(call.input),
            parent_id=effect.turn_id or row.root_id,
            session_id=row.id,
            actor_id=row.caller,
            timeout=effect.timeout,
            op_id=op_id,
            events=tuple(NewEvent(type=note.type, body=note.body, execution_id=execution_id) for note in notes),
        )

    def _call(self, effect: RunTool) -> ToolCall:
        row = self._row
        return ToolCall(
            call_id=effect.call_id,
            kind=effect.kind,
            target=effect.target,
            input=MappingProxyType(dict(effect.args)),
            session_id=row.id,
            run_id=row.run_id,
            turn_id=effect.turn_id,
            session=row.target,
            caller=row.caller,
            metadata=MappingProxyType(dict(row.metadata)),
        )


def _output(done: Execution) -> Any:
    """Return what an execution gave.

    Raises:
        AgentFieldError: Why it did not succeed.
    """
    if done.status == "succeeded":
        return done.output
    unsaid = {"code": f"execution_{done.status}", "status": 502, "detail": f"{done.target} {done.status}"}
    raise error_from_problem(done.problem or unsaid)
