"""What the handlers on the nodes ask and tell, each passed to its session; and the nodes that come and go."""

from __future__ import annotations

import logging
from functools import partial

from agentfield.errors import AgentFieldError, LimitExceeded
from agentfield.wire.frames import SessionCommand, SessionDone, SessionStop
from agentfield_server.nodes import NodeLink
from agentfield_server.sessions.actors import Actors
from agentfield_server.sessions.handlerline import answer_on
from agentfield_server.store.protocol import Store

__all__ = ["HandlerDesk"]

_log = logging.getLogger("agentfield.sessions")


class HandlerDesk:
    """The hub's way to the sessions (`agentfield_server.nodes.ports.SessionPort`): enqueues and returns at once.

    Args:
        store: Knows the sessions that are none of this process.
        actors: The sessions of this process.
    """

    def __init__(self, store: Store, actors: Actors) -> None:
        self._store = store
        self._actors = actors

    async def session_command(self, link: NodeLink, frame: SessionCommand) -> None:
        """A handler asks something of its session."""
        actor = self._actors.get(frame.session_id)
        if actor is None:
            self._actors.task(self._refuse(link, frame))
        elif actor.full:
            error = LimitExceeded("the session has too much to do already", hint="await what you asked for")
            self._actors.task(answer_on(link, frame, error))
        else:
            actor.tell(partial(actor.command, link, frame))

    async def session_done(self, link: NodeLink, frame: SessionDone) -> None:
        """A handler returned or raised."""
        actor = self._actors.get(frame.session_id)
        if actor is None:
            self._actors.task(answer_on(link, frame))
        else:
            actor.tell(partial(actor.done, link, frame))

    async def node_linked(self, link: NodeLink) -> None:
        """A node is there: handlers that wait are opened on it, handlers that are over are stopped."""
        for session_id, epoch in link.hello.open_sessions:
            actor = self._actors.get(session_id)
            if actor is None or actor.machine.handler.epoch != epoch:
                self._actors.task(self._stop_stray(link, session_id, epoch))
        for actor in self._actors:
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_linked, link))

    async def node_lost(self, link: NodeLink) -> None:
        """A node is gone."""
        for actor in self._actors:
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_lost, link))

    async def _refuse(self, link: NodeLink, frame: SessionCommand) -> None:
        await answer_on(link, frame, await self._actors.gone(frame.session_id))

    async def _stop_stray(self, link: NodeLink, session_id: str, epoch: int) -> None:
        """Tell a node that a handler it still runs is not wanted any more."""
        row = await self._store.get_session(session_id)
        over = row is None or row.state == "ended"
        reason = (row.end_reason if row is not None else None) or "ended" if over else "superseded"
        try:
            await link.send(SessionStop(session_id=session_id, epoch=epoch, reason=reason))
        except AgentFieldError:
            _log.debug("the node that runs a stray handler of %s is gone", session_id)
