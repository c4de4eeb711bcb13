"""Calls that nodes make: committed once for each `op_id`, under a parent that the node really holds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentfield.errors import AgentFieldError, Forbidden, LimitExceeded, NodeNotConnected, error_from_problem
from agentfield.ids import new_id
from agentfield.wire.frames import Call, CallAccepted, CallResult
from agentfield_server.nodes import LinkHub, NodeLink
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["Calls", "Runner", "problem_of"]

_log = logging.getLogger("agentfield.engine")
_MAX_CALLS = 10_000


class Runner(Protocol):
    """What runs executions."""

    async def submit(self, new: NewExecution) -> Execution:
        """Commit and dispatch."""

    async def wait(self, execution_id: str, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait until it is closed."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a call belongs."""

    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    deadline: float | None = None


class Calls:
    """Serves the `Call` frames of nodes.

    Args:
        store: What is kept.
        hub: Who runs which session's handler.
        runner: Runs them.
        room: Told when a node may have room, since what waits for its own call takes none.
    """

    def __init__(self, store: Store, hub: LinkHub, runner: Runner, *, room: Callable[[str], None]) -> None:
        self._store = store
        self._hub = hub
        self._runner = runner
        self._room = room
        self._pending: Counter[NodeLink] = Counter()

    async def serve(self, link: NodeLink, frame: Call, *, now: float) -> None:
        """Commit a call, say so, and see to it that its outcome follows."""
        # before the commit, so that the call finds the room that its caller does not need meanwhile
        self._begin(link, frame)
        try:
            self._check_room(link)
            execution = await self._commit(link, frame, now)
        except AgentFieldError as error:
            self._end(link, frame)
            await _answer(link, CallResult(op_id=frame.op_id, problem=error.to_problem()))
            return
        except BaseException:
            self._end(link, frame)
            raise
        await _answer(link, CallAccepted(op_id=frame.op_id, execution_id=execution.id))
        link.follow(self._follow(link, frame, execution))

    def _check_room(self, link: NodeLink) -> None:
        if self._pending[link] > _MAX_CALLS:
            raise LimitExceeded(
                f"{_MAX_CALLS} calls of this node wait for an answer.",
                code="too_many_calls",
                hint="await calls before making more of them",
            )

    def _begin(self, link: NodeLink, frame: Call) -> None:
        self._pending[link] += 1
        if frame.parent_id is not None and frame.parent_id in link.held:
            link.block(frame.parent_id)
            self._room(link.node_id)

    def _end(self, link: NodeLink, frame: Call) -> None:
        if frame.parent_id is not None:
            link.unblock(frame.parent_id)
        self._pending[link] -= 1
        if not self._pending[link]:
            del self._pending[link]

    async def _commit(self, link: NodeLink, frame: Call, now: float) -> Execution:
        place = await self._place(link, frame)
        timeout = frame.timeout
        if place.deadline is not None:
            remaining = max(place.deadline - now, 0.001)
            timeout = remaining if timeout is None else min(timeout, remaining)
        return await self._runner.submit(
            NewExecution(
                id=new_id("exe"),
                run_id=place.run_id,
                kind="call",
                target=frame.target,
                input=frame.input,
                parent_id=place.parent_id,
                session_id=place.session_id,
                actor_id=place.actor_id,
                timeout=timeout,
                share=None if place.parent_id is not None else f"node:{link.node_id}",
                # of this node: nobody gets at another node's calls by guessing
                op_id=f"{link.node_id}:{frame.op_id}",
            )
        )

    async def _place(self, link: NodeLink, frame: Call) -> _Place:
        if frame.parent_id is None:
            if frame.session_id is not None:
                raise _foreign(frame)
            return _Place(run_id=new_id("run"))
        held = link.held.get(frame.parent_id)
        if held is not None:
            place = _Place(held.run_id, frame.parent_id, held.session_id, held.actor_id, held.deadline)
        else:
            place = await self._place_in_session(link, frame, frame.parent_id)
        if frame.session_id is not None and frame.session_id != place.session_id:
            raise _foreign(frame)
        return place

    async def _place_in_session(self, link: NodeLink, frame: Call, parent_id: str) -> _Place:
        parent = await self._store.get_execution(parent_id)
        if parent is None or parent.kind not in ("session", "turn") or parent.session_id is None:
            raise _foreign(frame)
        if not await self._hub.runs_handler(link, parent.session_id):
            raise _foreign(frame)
        return _Place(parent.run_id, parent_id, parent.session_id, parent.actor_id, None)

    async def _follow(self, link: NodeLink, frame: Call, execution: Execution) -> None:
        try:
            done = await self._runner.wait(execution.id, None)
            problem = None if done.status == "succeeded" else problem_of(done)
            await _answer(
                link,
                CallResult(op_id=frame.op_id, execution_id=done.id, output=done.output, problem=problem),
            )
        except AgentFieldError as error:
            # the node asks again over its next link
            _log.warning("the outcome of %s could not be read: %s", execution.id, error.message)
            link.end(error.message)
        finally:
            self._end(link, frame)


def problem_of(execution: Execution) -> dict[str, object]:
    """Return why an execution did not succeed, with its id and target."""
    default: dict[str, object] = {"code": "execution_failed", "detail": f"{execution.target} {execution.status}."}
    problem = {**default, **(execution.problem or {}), "execution_id": execution.id, "target": execution.target}
    return error_from_problem(problem).to_problem()


async def _answer(link: NodeLink, frame: CallAccepted | CallResult) -> None:
    try:
        await link.send(frame)
    except NodeNotConnected:
        _log.debug("node %s left before its call was answered; it will ask again", link.node_id)


def _foreign(frame: Call) -> Forbidden:
    return Forbidden(
        f"The call of {frame.target!r} names a parent or session that this node does not hold now.",
        code="foreign_parent",
        hint="call from inside the reasoner or handler, with app.call or session.call",
    )
