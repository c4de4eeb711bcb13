"""Runs the handlers of sessions: one task for each `SessionOpen`, stopped when the session ends, outcome reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentfield import context
from agentfield.declarations.session_declaration import DeclaredSession, Handler
from agentfield.errors import NotFound, SessionEnded
from agentfield.ids import new_id
from agentfield.link.effects import Effect
from agentfield.link.failures import handler_problem, is_cancelled, log_failure
from agentfield.link.state import LinkState
from agentfield.session import CommandSender, Session
from agentfield.values import nearest
from agentfield.wire.frames import SessionDone, SessionOpen

__all__ = ["DeclaredSession", "Handler", "HandlerRunner"]

AFTER_CALL = 60.0
"""Seconds that a handler may run after its session ended, for post-call work."""


@dataclass(slots=True)
class _Open:
    session: Session
    task: asyncio.Task[dict[str, Any] | None] | None = None
    grace: asyncio.TimerHandle | None = None


class HandlerRunner:
    """The session handlers that run on one node.

    Args:
        node_id: The node.
        sessions: Its declared sessions by name.
        state: Receives the outcome of each handler.
        apply: Carries out the effects that `state` returns.
        sender: Sends the commands of the sessions.
    """

    def __init__(
        self,
        *,
        node_id: str,
        sessions: Mapping[str, DeclaredSession],
        state: LinkState,
        apply: Callable[[Sequence[Effect]], None],
        sender: CommandSender,
    ) -> None:
        self._node_id = node_id
        self._sessions = sessions
        self._state = state
        self._apply = apply
        self._sender = sender
        self._open: dict[tuple[str, int], _Open] = {}

    def open(self, opened: SessionOpen, group: asyncio.TaskGroup) -> None:
        """Run the handler of a session as a task of `group`."""
        key = (opened.session_id, opened.epoch)
        entry = self._open[key] = _Open(Session(opened, self._sender))
        name = f"{self._node_id}.{opened.name} {opened.session_id}"
        entry.task = group.create_task(self._run(opened, entry.session), name=name)
        entry.task.add_done_callback(lambda task: self._ended(opened, entry, task))

    def stop(self, session_id: str, epoch: int, reason: str, *, at_once: bool) -> None:
        """Tell a handler that its session ended, and cancel it: now, or `AFTER_CALL` seconds later."""
        entry = self._open.get((session_id, epoch))
        if entry is None or entry.task is None:
            return
        entry.session.mark_ended(reason)
        if at_once:
            entry.task.cancel()
        elif entry.grace is None:
            entry.grace = asyncio.get_running_loop().call_later(AFTER_CALL, entry.task.cancel)

    def deliver_event(self, session_id: str, event: dict[str, Any]) -> None:
        """Give an event to the handler of its session."""
        for (open_id, _), entry in self._open.items():
            if open_id == session_id:
                entry.session.deliver_event(event)

    @property
    def count(self) -> int:
        """Number of running handlers."""
        return len(self._open)

    def close(self) -> None:
        """Cancel all handlers; the control plane starts them again on another instance."""
        for entry in self._open.values():
            if entry.task is not None:
                entry.task.cancel()

    async def _run(self, opened: SessionOpen, session: Session) -> dict[str, Any] | None:
        try:
            with context.use(opened.context):
                await self._handler(opened.name)(session)
            session.flush()
        except SessionEnded as error:
            return None if session.ended is not None else self._problem(opened, session, error)
        except BaseException as error:  # whatever user code raises, also SystemExit, is reported to the session
            if is_cancelled(error):
                raise
            return self._problem(opened, session, error)
        return None

    def _handler(self, name: str) -> Handler:
        try:
            return self._sessions[name].handler
        except KeyError:
            raise NotFound(f"This instance of {self._node_id} has no session {name!r}.") from None

    def _problem(self, opened: SessionOpen, session: Session, error: BaseException) -> dict[str, Any]:
        target = f"{self._node_id}.{opened.name}"
        log_failure(f"the handler of {target}", error, opened.context)
        problem: dict[str, Any] = nearest({**handler_problem(target, error), "turn_taken": session.turns_taken > 0})
        return problem

    def _ended(self, opened: SessionOpen, entry: _Open, task: asyncio.Task[dict[str, Any] | None]) -> None:
        self._open.pop((opened.session_id, opened.epoch), None)
        if entry.grace is not None:
            entry.grace.cancel()
        if task.cancelled() and entry.session.ended is None:
            return  # cancelled by `close`: the control plane must find the handler lost and start it elsewhere
        problem = None if task.cancelled() else task.result()
        entry.session.mark_ended("handler_ended")
        done = SessionDone(op_id=new_id("op"), session_id=opened.session_id, epoch=opened.epoch, problem=problem)
        self._apply(self._state.handler_finished(done))
