"""Runs what a session calls, the model's tools and the handler's own calls, through the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from agentfield.errors import AgentFieldError, Conflict, NodeNotConnected, NotFound
from agentfield.ids import new_id
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import RunTool
from agentfield_server.store.records import Execution, NewExecution, SessionRow

__all__ = ["Executions", "ToolRunner"]

_log = logging.getLogger("agentfield.sessions")


_RELINK_TRIES = 20
_RELINK_PAUSE = 0.5


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

    Args:
        engine: Who runs them.
        row: The session.
        put: Takes results for the machine.
    """

    def __init__(self, engine: Executions, row: SessionRow, put: Callable[[i.Input], Awaitable[None]]) -> None:
        self._engine = engine
        self._row = row
        self._put = put
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._executions: dict[str, str] = {}
        self._unwanted: dict[str, str] = {}
        """Calls that were cancelled before their execution existed."""

    def run(self, effect: RunTool) -> None:
        """Start a call."""
        task = asyncio.create_task(self._run(effect), name=f"{effect.target} for {self._row.id}")
        self._tasks[effect.call_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(effect.call_id, None))

    async def cancel(self, call_id: str, reason: str) -> None:
        """Cancel a call."""
        execution_id = self._executions.get(call_id)
        if execution_id is None:
            if call_id in self._tasks:
                self._unwanted[call_id] = reason
            return
        try:
            await self._engine.cancel(execution_id, reason)
        except AgentFieldError as error:
            _log.warning("call %s of session %s was not cancelled: %s", call_id, self._row.id, error.message)

    async def close(self) -> None:
        """Stop waiting for results; the executions themselves go on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, effect: RunTool) -> None:
        try:
            done = await self._execute(effect)
        except AgentFieldError as error:
            await self._put(i.ToolFinished(call_id=effect.call_id, problem=error.to_problem()))
        except Exception:  # noqa: BLE001 - whatever went wrong, the call has to be answered
            _log.exception("call %s of session %s failed", effect.call_id, self._row.id)
            problem = Conflict("the call could not be run", code="call_failed").to_problem()
            await self._put(i.ToolFinished(call_id=effect.call_id, problem=problem))
        else:
            await self._put(_finished(effect.call_id, done))
        finally:
            self._executions.pop(effect.call_id, None)

    async def _execute(self, effect: RunTool) -> Execution:
        execution = await self._submit(effect)
        self._executions[effect.call_id] = execution.id
        if (reason := self._unwanted.pop(effect.call_id, None)) is not None:
            await self.cancel(effect.call_id, reason)
        await self._put(i.ToolStarted(effect.call_id, execution.id))
        return await self._engine.wait(execution.id, None)

    async def _submit(self, effect: RunTool) -> Execution:
        """Submit a call; after a restart its node is given some time to link again."""
        if not effect.resumed:
            return await self._engine.submit(self._execution(effect))
        for _ in range(_RELINK_TRIES):
            try:
                return await self._engine.submit(self._execution(effect))
            except (NotFound, NodeNotConnected):
                await asyncio.sleep(_RELINK_PAUSE)
        return await self._engine.submit(self._execution(effect))

    def _execution(self, effect: RunTool) -> NewExecution:
        row = self._row
        op_id = effect.call_id if effect.kind == "call" else f"{row.id}:{effect.call_id}"
        return NewExecution(
            id=new_id("exe"),
            run_id=row.run_id,
            kind=effect.kind,
            target=effect.target,
            input=dict(effect.args),
            parent_id=effect.turn_id or row.root_id,
            session_id=row.id,
            actor_id=row.caller,
            timeout=effect.timeout,
            op_id=op_id,
        )


def _finished(call_id: str, done: Execution) -> i.ToolFinished:
    if done.status == "succeeded":
        return i.ToolFinished(call_id=call_id, value=done.output, execution_id=done.id)
    unsaid = {"code": f"execution_{done.status}", "status": 502, "detail": f"{done.target} {done.status}"}
    return i.ToolFinished(call_id=call_id, problem=done.problem or unsaid, execution_id=done.id)
