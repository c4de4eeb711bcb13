"""Routes frames and link changes of nodes to the actors of their sessions."""

from __future__ import annotations

import logging
from functools import partial

from agentfield.errors import AgentFieldError, LimitExceeded
from agentfield.wire.frames import SessionCommand, SessionDone, SessionStop
from agentfield_server.nodes import LinkedNode
from agentfield_server.sessions.actor.handler_channel import reply_on_link
from agentfield_server.sessions.live import LiveSessions
from agentfield_server.store.protocol import Store

__all__ = ["HandlerRouter"]

_log = logging.getLogger("agentfield.sessions")


class HandlerRouter:
    """The link hub's port to the sessions (`agentfield_server.nodes.protocols.SessionPort`): enqueues and returns at once.

    Args:
        store: Tells about sessions that have no actor in this process.
        live: The sessions of this process.
    """

    def __init__(self, store: Store, live: LiveSessions) -> None:
        self._store = store
        self._live = live

    async def session_command(self, link: LinkedNode, frame: SessionCommand) -> None:
        """Enqueue a handler's command for its session; refuse it if the session is not live here or its inbox is full."""
        actor = self._live.get(frame.session_id)
        if actor is None:
            self._live.spawn_task(self._refuse(link, frame))
        elif actor.full:
            error = LimitExceeded("the session has too much to do already", hint="await what you asked for")
            self._live.spawn_task(reply_on_link(link, frame, error))
        else:
            actor.tell(partial(actor.handler_command, link, frame))

    async def session_done(self, link: LinkedNode, frame: SessionDone) -> None:
        """Enqueue the end of a handler run for its session."""
        actor = self._live.get(frame.session_id)
        if actor is None:
            self._live.spawn_task(reply_on_link(link, frame))
        else:
            actor.tell(partial(actor.handler_done, link, frame))

    async def node_linked(self, link: LinkedNode) -> None:
        """Offer a newly linked instance to its sessions, and stop the handlers that it still runs for no current run."""
        for session_id, epoch in link.hello.open_sessions:
            actor = self._live.get(session_id)
            if actor is None or actor.machine.handler.epoch != epoch:
                self._live.spawn_task(self._stop_stray(link, session_id, epoch))
        for actor in self._live:
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_linked, link))

    async def node_recovered(self, link: LinkedNode) -> None:
        """Offer an instance whose event loop turns again to the sessions of its node."""
        for actor in self._live:
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_linked, link))

    async def node_lost(self, link: LinkedNode) -> None:
        """Tell the sessions of a node that one of its instances is not linked any more, or runs no handlers."""
        for actor in self._live:
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_lost, link))

    async def _refuse(self, link: LinkedNode, frame: SessionCommand) -> None:
        await reply_on_link(link, frame, await self._live.missing_session_error(frame.session_id))

    async def _stop_stray(self, link: LinkedNode, session_id: str, epoch: int) -> None:
        """Stop a handler that an instance still runs although its session ended or moved elsewhere."""
        row = await self._store.get_session(session_id)
        over = row is None or row.state == "ended"
        reason = (row.end_reason if row is not None else None) or "ended" if over else "superseded"
        try:
            await link.send(SessionStop(session_id=session_id, epoch=epoch, reason=reason))
        except AgentFieldError:
            _log.debug("a stray handler of %s was not stopped: its node is not linked any more", session_id)
