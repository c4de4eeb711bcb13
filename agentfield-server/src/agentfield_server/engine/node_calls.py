"""Calls made by nodes: committed once for each `op_id`, under a parent that is assigned to the node."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentfield.arguments import MAX_TIMEOUT
from agentfield.errors import (
    AgentFieldError,
    Forbidden,
    InvalidInput,
    LimitExceeded,
    NodeNotConnected,
    error_from_problem,
)
from agentfield.ids import new_id
from agentfield.values import restore_integers
from agentfield.wire.frames import Call, CallAccepted, CallResult
from agentfield_server.nodes import LinkedNode, LinkHub
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["ExecutionRunner", "NodeCalls", "problem_of"]

_log = logging.getLogger("agentfield.engine")
_MAX_CALLS = 10_000


class ExecutionRunner(Protocol):
    """The engine as this module sees it."""

    async def submit(self, new: NewExecution) -> Execution:
        """Commit an execution and dispatch it."""

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait until an execution is closed."""


@dataclass(frozen=True, slots=True)
class _CallParent:
    """The run and parent of a call, with what the call inherits from them."""

    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    deadline: float | None = None


class NodeCalls:
    """Serves the `Call` frames of nodes.

    Args:
        store: The store.
        hub: Knows which instance runs the handler of a session.
        runner: Runs the executions.
        capacity_freed: Called with a node whose attempt waits for its own call and so frees its slot.
    """

    def __init__(
        self, store: Store, hub: LinkHub, runner: ExecutionRunner, *, capacity_freed: Callable[[str], None]
    ) -> None:
        self._store = store
        self._hub = hub
        self._runner = runner
        self._capacity_freed = capacity_freed
        self._pending: Counter[LinkedNode] = Counter()

    async def serve(self, link: LinkedNode, frame: Call, *, now: float) -> None:
        """Commit a call, acknowledge it, and send its result once it is closed."""
        # before the commit: the call may take the slot that its waiting parent does not need
        self._begin(link, frame)
        try:
            self._check_pending_limit(link)
            execution = await self._commit(link, frame, now)
        except AgentFieldError as error:
            self._end(link, frame)
            await _answer(link, CallResult(op_id=frame.op_id, problem=error.to_problem()))
            return
        except BaseException:
            self._end(link, frame)
            raise
        await _answer(link, CallAccepted(op_id=frame.op_id, execution_id=execution.id))
        link.start_task(self._follow(link, frame, execution))

    def _check_pending_limit(self, link: LinkedNode) -> None:
        if self._pending[link] > _MAX_CALLS:
            raise LimitExceeded(
                f"{_MAX_CALLS} calls of this node wait for an answer.",
                code="too_many_calls",
                hint="await calls before making more of them",
            )

    def _begin(self, link: LinkedNode, frame: Call) -> None:
        self._pending[link] += 1
        if frame.parent_id is not None and frame.parent_id in link.assigned:
            link.block(frame.parent_id)
            self._capacity_freed(link.node_id)

    def _end(self, link: LinkedNode, frame: Call) -> None:
        if frame.parent_id is not None:
            link.unblock(frame.parent_id)
        self._pending[link] -= 1
        if not self._pending[link]:
            del self._pending[link]

    async def _commit(self, link: LinkedNode, frame: Call, now: float) -> Execution:
        timeout = frame.timeout
        if timeout is not None and timeout > MAX_TIMEOUT:
            raise InvalidInput(f"The timeout of a call may be {MAX_TIMEOUT} seconds, one day.", field="timeout")
        parent = await self._parent_of_call(link, frame)
        if parent.deadline is not None:
            remaining = max(parent.deadline - now, 0.001)
            timeout = remaining if timeout is None else min(timeout, remaining)
        return await self._runner.submit(
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
            )
        )

    async def _parent_of_call(self, link: LinkedNode, frame: Call) -> _CallParent:
        if frame.parent_id is None:
            if frame.session_id is not None:
                raise _foreign_parent(frame)
            return _CallParent(run_id=new_id("run"))
        assigned = link.assigned.get(frame.parent_id)
        if assigned is not None:
            parent = _CallParent(
                assigned.run_id, frame.parent_id, assigned.session_id, assigned.actor_id, assigned.deadline
            )
        else:
            parent = await self._parent_in_session(link, frame, frame.parent_id)
        if frame.session_id is not None and frame.session_id != parent.session_id:
            raise _foreign_parent(frame)
        return parent

    async def _parent_in_session(self, link: LinkedNode, frame: Call, parent_id: str) -> _CallParent:
        parent = await self._store.get_execution(parent_id)
        if parent is None or parent.kind not in ("session", "turn") or parent.session_id is None:
            raise _foreign_parent(frame)
        if not await self._hub.runs_handler(link, parent.session_id):
            raise _foreign_parent(frame)
        return _CallParent(parent.run_id, parent_id, parent.session_id, parent.actor_id, None)

    async def _follow(self, link: LinkedNode, frame: Call, execution: Execution) -> None:
        try:
            done = await self._runner.wait(execution.id, None)
            problem = None if done.status == "succeeded" else problem_of(done)
            spec = self._hub.function(done.target)
            output = restore_integers(done.output, None if spec is None else spec.output_schema)
            await _answer(
                link,
                CallResult(op_id=frame.op_id, execution_id=done.id, output=output, problem=problem),
            )
        except AgentFieldError as error:
            # the node repeats its call over its next link
            _log.warning("the outcome of %s could not be read: %s", execution.id, error.message)
            link.end(error.message)
        finally:
            self._end(link, frame)


def problem_of(execution: Execution) -> dict[str, object]:
    """Return the problem document of an execution that did not succeed, with its id and target."""
    default: dict[str, object] = {"code": "execution_failed", "detail": f"{execution.target} {execution.status}."}
    problem = {**default, **(execution.problem or {}), "execution_id": execution.id, "target": execution.target}
    return error_from_problem(problem).to_problem()


async def _answer(link: LinkedNode, frame: CallAccepted | CallResult) -> None:
    try:
        await link.send(frame)
    except NodeNotConnected:
        _log.debug("node %s left before its call was answered; it will ask again", link.node_id)


def _foreign_parent(frame: Call) -> Forbidden:
    return Forbidden(
        f"The call of {frame.target!r} names a parent or session that this node does not hold now.",
        code="foreign_parent",
        hint="call from inside the reasoner or handler, with app.call or session.call",
    )
