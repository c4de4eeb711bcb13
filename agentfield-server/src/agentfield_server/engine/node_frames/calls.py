"""Calls made by nodes: committed once for each `op_id`, under a parent that is assigned to the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agentfield.arguments import MAX_TIMEOUT
from agentfield.errors import (
    AgentFieldError,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    error_from_problem,
)
from agentfield.ids import new_id
from agentfield.values import restore_integers
from agentfield.wire.frames import Call, CallAccepted, CallResult
from agentfield_server.engine.tasks import BackgroundTasks
from agentfield_server.nodes import Handled, LinkedNode, LinkHub
from agentfield_server.store.operations import Then, settling
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["ExecutionRunner", "NodeCalls", "problem_of"]

_log = logging.getLogger("agentfield.engine")
_MAX_CALLS = 10_000


class ExecutionRunner(Protocol):
    """The engine as this module sees it."""

    def start(self, new: NewExecution, then: Then[Execution]) -> None:
        """Commit an execution and dispatch it."""

    def when_closed(self, execution_id: str, then: Then[Execution]) -> Callable[[], None]:
        """Call `then` with the closed execution; return what cancels that."""


@dataclass(frozen=True, slots=True)
class _CallParent:
    """The run and parent of a call, with what the call inherits from them."""

    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    deadline: float | None = None


@dataclass(slots=True, eq=False)
class _Pending:
    """A call that is not answered yet."""

    parent_id: str | None
    stop: Callable[[], None] = lambda: None
    """Stops waiting for its end."""


class NodeCalls:
    """Serves the `Call` frames of nodes.

    Args:
        store: The store.
        hub: Knows which instance runs the handler of a session.
        runner: Runs the executions.
        tasks: Runs what has to wait.
        capacity_freed: Called with a node whose attempt waits for its own call and so frees its slot.
    """

    def __init__(
        self,
        store: Store,
        hub: LinkHub,
        runner: ExecutionRunner,
        tasks: BackgroundTasks,
        *,
        capacity_freed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._runner = runner
        self._tasks = tasks
        self._capacity_freed = capacity_freed
        self._pending: dict[LinkedNode, dict[object, _Pending]] = {}

    def serve(self, link: LinkedNode, frame: Call, done: Handled, *, now: float) -> None:
        """Commit a call, acknowledge it, and send its result once it is closed."""
        # before the commit: the call may take the slot that its waiting parent does not need
        pending = self._begin(link, frame)
        committed = partial(self._committed, link, frame, pending, done)
        try:
            self._check_pending_limit(link)
            parent = self._parent_here(link, frame)
            if parent is None:
                parent_id = frame.parent_id or ""
                self._tasks.start_then(self._commit_in_session(link, frame, now, parent_id), committed)
            else:
                self._commit(link, frame, now, parent, committed)
        except AgentFieldError as error:
            committed(None, error)
        except BaseException:
            self._end(link, pending)
            raise

    def _committed(
        self,
        link: LinkedNode,
        frame: Call,
        pending: _Pending,
        done: Handled,
        execution: Execution | None,
        error: BaseException | None,
    ) -> None:
        if isinstance(error, AgentFieldError):
            self._end(link, pending)
            link.post(CallResult(op_id=frame.op_id, problem=error.to_problem()))
            done()
        elif error is not None or execution is None:
            self._end(link, pending)
            done(error)
        else:
            link.post(CallAccepted(op_id=frame.op_id, execution_id=execution.id))
            done()
            if pending in self._pending.get(link, ()):  # else the link was closed meanwhile
                pending.stop = self._runner.when_closed(execution.id, partial(self._answer, link, frame, pending))

    def _check_pending_limit(self, link: LinkedNode) -> None:
        if len(self._pending[link]) > _MAX_CALLS:
            raise LimitExceeded(
                f"{_MAX_CALLS} calls of this node wait for an answer.",
                code="too_many_calls",
                hint="await calls before making more of them",
            )

    def _begin(self, link: LinkedNode, frame: Call) -> _Pending:
        if link not in self._pending:
            self._pending[link] = {}
            link.at_close(partial(self._forget, link))
        pending = _Pending(frame.parent_id)
        self._pending[link][pending] = pending
        if frame.parent_id is not None and frame.parent_id in link.assigned:
            link.block(frame.parent_id)
            self._capacity_freed(link.node_id)
        return pending

    def _end(self, link: LinkedNode, pending: _Pending) -> None:
        calls = self._pending.get(link, {})
        if calls.pop(pending, None) is not None and pending.parent_id is not None:
            link.unblock(pending.parent_id)

    def _forget(self, link: LinkedNode) -> None:
        """Forget the calls of a closed link; the node repeats them over its next link."""
        for pending in self._pending.pop(link, {}).values():
            pending.stop()
            if pending.parent_id is not None:
                link.unblock(pending.parent_id)

    async def _commit_in_session(self, link: LinkedNode, frame: Call, now: float, parent_id: str) -> Execution:
        parent = await self._parent_in_session(link, frame, parent_id)
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self._commit(link, frame, now, parent, settling(future))
        return await future

    def _commit(self, link: LinkedNode, frame: Call, now: float, parent: _CallParent, then: Then[Execution]) -> None:
        timeout = frame.timeout
        if timeout is not None and timeout > MAX_TIMEOUT:
            raise InvalidInput(f"The timeout of a call may be {MAX_TIMEOUT} seconds, one day.", field="timeout")
        if parent.deadline is not None:
            remaining = max(parent.deadline - now, 0.001)
            timeout = remaining if timeout is None else min(timeout, remaining)
        self._runner.start(
            NewExecution(
                id=new_id("exe"),
                run_id=parent.run_id,
                kind="call",
                target=frame.target,
                input=frame.input,
                parent_id=parent.parent_id,
                session_id=parent.session_id,
                actor_id=parent.actor_id,
                timeout=timeout,
                share=None if parent.parent_id is not None else f"node:{link.node_id}",
                # scoped to the node: a node cannot read the calls of another by guessing their ids
                op_id=f"{link.node_id}:{frame.op_id}",
                principal=f"node:{link.node_id}",
            ),
            then,
        )

    def _parent_here(self, link: LinkedNode, frame: Call) -> _CallParent | None:
        """Return the parent of a call: none, or an attempt of the link; None when the store has to be asked."""
        if frame.parent_id is None:
            if frame.session_id is not None:
                raise _foreign_parent(frame)
            return _CallParent(run_id=new_id("run"))
        assigned = link.assigned.get(frame.parent_id)
        if assigned is None:
            return None
        _check_session(frame, assigned.session_id)
        return _CallParent(assigned.run_id, frame.parent_id, assigned.session_id, assigned.actor_id, assigned.deadline)

    async def _parent_in_session(self, link: LinkedNode, frame: Call, parent_id: str) -> _CallParent:
        parent = await self._store.get_execution(parent_id)
        if parent is None or parent.kind not in ("session", "turn") or parent.session_id is None:
            raise _foreign_parent(frame)
        if not await self._hub.runs_handler(link, parent.session_id):
            raise _foreign_parent(frame)
        _check_session(frame, parent.session_id)
        return _CallParent(parent.run_id, parent_id, parent.session_id, parent.actor_id, None)

    def _answer(
        self,
        link: LinkedNode,
        frame: Call,
        pending: _Pending,
        closed: Execution | None,
        error: BaseException | None,
    ) -> None:
        self._end(link, pending)
        if closed is None:
            # the node repeats its call over its next link
            _log.warning("the outcome of a call of node %s could not be read: %s", link.node_id, error)
            link.end(str(error))
            return
        problem = None if closed.status == "succeeded" else problem_of(closed)
        spec = self._hub.function(closed.target)
        output = restore_integers(closed.output, None if spec is None else spec.output_schema)
        link.post(CallResult(op_id=frame.op_id, execution_id=closed.id, output=output, problem=problem))


def problem_of(execution: Execution) -> dict[str, object]:
    """Return the problem document of an execution that did not succeed, with its id and target."""
    default: dict[str, object] = {"code": "execution_failed", "detail": f"{execution.target} {execution.status}."}
    problem = {**default, **(execution.problem or {}), "execution_id": execution.id, "target": execution.target}
    return error_from_problem(problem).to_problem()


def _check_session(frame: Call, session_id: str | None) -> None:
    if frame.session_id is not None and frame.session_id != session_id:
        raise _foreign_parent(frame)


def _foreign_parent(frame: Call) -> Forbidden:
    return Forbidden(
        f"The call of {frame.target!r} names a parent or session that this node does not hold now.",
        code="foreign_parent",
        hint="call from inside the reasoner or handler, with app.call or session.call",
    )
