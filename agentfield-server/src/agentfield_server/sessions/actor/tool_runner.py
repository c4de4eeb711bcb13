"""Runs the model's tools and the handler's calls as executions of the engine, behind the tool middleware."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
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
from agentfield.plugins.hooks.arguments import ToolCall
from agentfield.plugins.hooks.middleware import Invocation, MiddlewareChain, MiddlewareEvent
from agentfield.values import nearest, restore_integers
from agentfield_server.sessions.conversation.effects import RecordEvent, RunTool
from agentfield_server.sessions.conversation.inputs import Input, ToolFinished, ToolStarted
from agentfield_server.sessions.conversation.tools.redaction import Redacted
from agentfield_server.store.records import Execution, NewEvent, NewExecution, SessionRow

__all__ = ["ExecutionEngine", "ToolRunner", "redact_input"]

_log = logging.getLogger("agentfield.sessions")


_RELINK_TRIES = 20
_RELINK_PAUSE = 0.5
_CLOSE = 5.0


class ExecutionEngine(Protocol):
    """What sessions need from the engine."""

    async def submit(self, new: NewExecution) -> Execution:
        """Create an execution and schedule it."""

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109 - the engine's parameter
        """Wait until an execution is closed, for `timeout` seconds at most; None waits without a limit."""

    async def cancel(self, execution_id: str, reason: str) -> object:
        """Cancel an execution."""

    def output_schema_of(self, target: str) -> Mapping[str, Any] | None:
        """Return the declared JSON Schema of a target's result, None when it has none."""


class ToolRunner:
    """Runs the calls of one session, each in its own task.

    A call passes the tool middleware of plugins first; its execution is created when the last middleware lets it
    through. After a restart the call passes the middleware again, and the engine finds the execution by its `op_id`.

    Args:
        engine: Runs the executions.
        row: The session.
        put: Enqueues the results for the machine.
        chain: The tool middleware.
    """

    def __init__(
        self, engine: ExecutionEngine, row: SessionRow, put: Callable[[Input], Awaitable[None]], chain: MiddlewareChain
    ) -> None:
        self._engine = engine
        self._row = row
        self._put = put
        self._chain = chain
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        """Tasks that may outlive the middleware call that started them: executions and cancellations."""
        self._executions: dict[str, str] = {}
        self._cancelled_early: dict[str, str] = {}
        """Reasons of calls that were cancelled before their execution existed."""
        self._session_over = self._closing = False

    def run(self, effect: RunTool) -> None:
        """Start a call."""
        task = asyncio.create_task(self._run(effect), name=f"{effect.target} for {self._row.id}")
        self._tasks[effect.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(effect.call_id, None))

    async def cancel(self, call_id: str, reason: str) -> None:
        """Cancel a call; before its execution exists, the cancellation is kept until it is created."""
        execution_id = self._executions.get(call_id)
        if execution_id is not None:
            await self._cancel(execution_id, reason)
        elif call_id in self._tasks:
            self._cancelled_early[call_id] = reason

    def session_over(self) -> None:
        """Start no further tool of the model; the handler's calls may start as long as the handler runs."""
        self._session_over = True

    async def close(self) -> None:
        """Stop waiting for results; the executions themselves continue."""
        self._closing = True
        tasks = {*self._tasks.values(), *self._background}
        for task in tasks:
            task.cancel()
        if tasks and (stuck := (await asyncio.wait(tasks, timeout=_CLOSE))[1]):
            _log.error(
                "%d calls of session %s did not stop: a plugin ignores their cancellation", len(stuck), self._row.id
            )

    async def _run(self, effect: RunTool) -> None:
        invocation = Invocation(_tool_call(self._row, effect))
        value: Any = None
        problem: dict[str, Any] | None = None
        try:
            value = await self._chain.run(invocation, partial(self._run_target, effect, invocation))
            if effect.kind == "call":  # the handler gets integers; the model reads their decimal text
                value = restore_integers(value, self._engine.output_schema_of(effect.target))
        except AgentFieldError as error:
            problem = nearest(error.to_problem())
        except Exception:  # noqa: BLE001 - the call must be answered, whatever failed
            _log.exception("call %s of session %s failed", effect.call_id, self._row.id)
            problem = Conflict("the call could not be run", code="call_failed").to_problem()
        if not self._closing:
            notes = tuple(
                RecordEvent(note.type, note.body, invocation.execution_id) for note in invocation.take_events()
            )
            await self._put(
                ToolFinished(
                    call_id=effect.call_id,
                    value=value,
                    problem=problem,
                    execution_id=invocation.execution_id,
                    notes=notes,
                )
            )

    async def _run_target(self, effect: RunTool, invocation: Invocation, call: ToolCall) -> Any:
        """Run the target of a call that all middleware let through."""
        if not self._chain:
            return _output(await self._execute(effect, invocation, call))
        if self._closing:
            raise asyncio.CancelledError
        self._check_not_cancelled(effect)
        work = self._spawn(self._execute(effect, invocation, call))
        try:
            return _output(await asyncio.shield(work))
        except asyncio.CancelledError:
            if not self._closing and not work.done():
                self._abandon(effect.call_id)
            raise

    def _check_not_cancelled(self, effect: RunTool) -> None:
        """Reject a call that was cancelled while the middleware held it; a resumed one may have an execution already."""
        reason = None if effect.resumed else self._cancelled_early.pop(effect.call_id, None)
        if self._session_over and effect.kind == "tool":
            reason = "the session ended"
        if reason is not None:
            raise ExecutionCancelled(f"The call of {effect.target} was cancelled: {reason}.", reason=reason)

    def _abandon(self, call_id: str) -> None:
        """Cancel the execution of a call whose middleware stopped waiting: its result has no receiver."""
        reason = "a plugin cancelled it"
        execution_id = self._executions.get(call_id)
        if execution_id is not None:
            self._spawn(self._cancel(execution_id, reason))
        else:
            self._cancelled_early[call_id] = reason

    async def _cancel(self, execution_id: str, reason: str) -> None:
        try:
            await self._engine.cancel(execution_id, reason)
        except AgentFieldError as error:
            _log.warning("%s of session %s was not cancelled: %s", execution_id, self._row.id, error.message)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _execute(self, effect: RunTool, invocation: Invocation, call: ToolCall) -> Execution:
        execution = await self._submit(effect, invocation, call)
        invocation.execution_id = self._executions[effect.call_id] = execution.id
        try:
            if (reason := self._cancelled_early.pop(effect.call_id, None)) is not None:
                await self._cancel(execution.id, reason)
            await self._put(ToolStarted(effect.call_id, execution.id))
            return await self._engine.wait(execution.id, None)
        finally:
            del self._executions[effect.call_id]

    async def _submit(self, effect: RunTool, invocation: Invocation, call: ToolCall) -> Execution:
        """Submit a call; after a restart, wait for its node to link again."""
        # the notes are recorded with the new execution; if it is not created, with the end of the call
        notes = invocation.take_events()
        try:
            return await self._submitted(effect, call, notes)
        except AgentFieldError:
            invocation.events[:0] = notes
            raise

    async def _submitted(self, effect: RunTool, call: ToolCall, notes: list[MiddlewareEvent]) -> Execution:
        if not effect.resumed:
            return await self._engine.submit(self._execution(effect, call, notes))
        for _ in range(_RELINK_TRIES):
            try:
                return await self._engine.submit(self._execution(effect, call, notes))
            except (NotFound, NodeNotConnected):
                await asyncio.sleep(_RELINK_PAUSE)
        return await self._engine.submit(self._execution(effect, call, notes))

    def _execution(self, effect: RunTool, call: ToolCall, notes: list[MiddlewareEvent]) -> NewExecution:
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


def redact_input(chain: MiddlewareChain, row: SessionRow, effect: RunTool) -> Redacted:
    """Return the input of a call as the tool middleware lets it be recorded.

    Args:
        chain: The tool middleware.
        row: The session.
        effect: The call.
    """
    if not chain:
        return Redacted(effect.args)
    invocation = Invocation(_tool_call(row, effect))
    problem = None
    try:
        args = dict(chain.redact(invocation).input)
    except AgentFieldError as error:
        args, problem = {}, nearest(error.to_problem())
    notes = tuple(RecordEvent(note.type, note.body) for note in invocation.take_events())
    return Redacted(args, notes, problem)


def _tool_call(row: SessionRow, effect: RunTool) -> ToolCall:
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
    """Return the output of an execution.

    Raises:
        AgentFieldError: The execution did not succeed.
    """
    if done.status == "succeeded":
        return done.output
    unknown = {"code": f"execution_{done.status}", "status": 502, "detail": f"{done.target} {done.status}"}
    raise error_from_problem(done.problem or unknown)
