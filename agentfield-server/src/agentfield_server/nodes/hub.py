"""All node links: liveness, who exposes what, and which instance gets the next piece of work."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping

from aiohttp import web
from pydantic import ValidationError

from agentfield.errors import AgentFieldError, NodeRefused, NotFound, Unavailable
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import Drain, FunctionSpec, Hello, encode_frame
from agentfield.wire.rest import NodeView
from agentfield_server.logs import log_context
from agentfield_server.nodes.greeting import greet, refuse
from agentfield_server.nodes.known import KnownNodes
from agentfield_server.nodes.link import NodeLink
from agentfield_server.nodes.ports import EnginePort, SessionPort
from agentfield_server.nodes.traffic import CLOSE_DEADLINE, Traffic, close
from agentfield_server.store.protocol import Store

__all__ = ["LinkHub"]

_log = logging.getLogger("agentfield.nodes")

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one frame: well above the limits of inputs and outputs, so that those are refused with a reason."""


class LinkHub:
    """Accepts node links and hands their frames on.

    Args:
        store: What is kept; asked whose handler a session is.
        clock: Seconds since the epoch.
        ping: Seconds between pings.
        dead: Seconds of silence after which a node is given up.
        monotonic: A clock that never jumps, for silence.
        refused: Tells which sessions of a node cannot be registered, and why.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        ping: float = 2.0,
        dead: float = 6.0,
        monotonic: Callable[[], float] = time.monotonic,
        refused: Callable[[Hello], Mapping[str, AgentFieldError]] = lambda _hello: {},
    ) -> None:
        self._store = store
        self._clock = clock
        self._ping = ping
        self._dead = dead
        self._monotonic = monotonic
        self._refused = refused
        self._links: dict[str, NodeLink] = {}
        self._coming: dict[str, NodeLink] = {}
        self._known = KnownNodes(monotonic)
        self._engine: EnginePort | None = None
        self._sessions: SessionPort | None = None
        self._uses = itertools.count(1)
        self._closing = False
        self._serving: dict[NodeLink, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def bind_engine(self, port: EnginePort) -> None:
        """Say who runs executions."""
        self._engine = port

    def bind_sessions(self, port: SessionPort) -> None:
        """Say who runs sessions."""
        self._sessions = port

    async def recall(self) -> None:
        """Remember the nodes of an earlier control plane: they are about to link again."""
        for node_id, declared in (await self._store.known_nodes()).items():
            try:
                self._known.recall(declared)
            except (KeyError, ValidationError) as error:
                _log.warning("what the node %s had declared cannot be read: %s", node_id, type(error).__name__)

    # --- who is there

    def links(self, node_id: str | None = None) -> list[NodeLink]:
        """Return the linked instances, of one node or of all."""
        return [link for link in self._links.values() if node_id is None or link.node_id == node_id]

    def instance(self, instance_id: str | None) -> NodeLink | None:
        """Return the link of an instance, None while it is away."""
        return None if instance_id is None else self._links.get(instance_id)

    def coming(self, instance_id: str) -> NodeLink | None:
        """Return the link of an instance that is being welcomed, or else the one that stands."""
        return self._coming.get(instance_id) or self._links.get(instance_id)

    def functions(self) -> dict[str, FunctionSpec]:
        """Return every known function by target, also of nodes that are away."""
        return self._known.functions()

    def function(self, target: str) -> FunctionSpec | None:
        """Return a known function."""
        node_id, _, name = target.partition(".")
        return self._known.function(node_id, name)

    def sessions(self) -> dict[str, SessionDeclaration]:
        """Return every known session by target, also of nodes that are away."""
        return self._known.sessions()

    def refused_session(self, target: str) -> AgentFieldError | None:
        """Return why a session that a node declares is not registered."""
        return self._known.refused(target)

    def recently_linked(self, node_id: str, *, within: float = 10.0) -> bool:
        """Tell whether a node is linked or was within the last seconds."""
        return bool(self.links(node_id)) or self._known.left_within(node_id, within)

    def pick(self, node_id: str, function: str) -> NodeLink | None:
        """Return the least loaded instance that exposes a function, has room and does not drain; equals take turns.

        None as well while as many runs of the function are under way as it allows, on all instances together.
        """
        spec = self._known.function(node_id, function)
        if spec is not None and spec.concurrency is not None:
            running = sum(held.function == function for link in self.links(node_id) for held in link.held.values())
            if running >= spec.concurrency:
                return None
        fit = [
            link for link in self.links(node_id) if function in link.functions and link.load < 1 and not link.draining
        ]
        return self._choose(fit, lambda link: link.load)

    def session_link(self, node_id: str, name: str, declared: str | None = None) -> NodeLink | None:
        """Return the instance with the fewest sessions among those that may run the handler of a session.

        Args:
            node_id: Its node.
            name: The session's name there.
            declared: Hash of the declaration that it began with; None takes any.
        """
        fit = [link for link in self.links(node_id) if name in link.declared and not link.draining]
        same = [link for link in fit if declared in (None, link.hashes[name])]
        return self._choose(same, lambda link: len(link.sessions))

    async def drain(self, name: str) -> list[NodeView]:
        """Let an instance, or all linked instances of a node, end when what they have is done.

        Raises:
            NotFound: None of that name is linked (code `unknown_node`).
            NodeNotConnected: It went away meanwhile.
        """
        links = [link for link in self._links.values() if name in (link.instance_id, link.node_id)]
        if not links:
            raise NotFound(
                f"No node and no instance {name!r} is linked.",
                code="unknown_node",
                hint="af nodes shows who is connected",
            )
        for link in links:
            self._drains(link)
            await link.send(Drain())
        return [_view(link) for link in links]

    def _drains(self, link: NodeLink) -> None:
        link.drain()
        self._known.changed(link.node_id, self.links(link.node_id))

    def _choose(self, links: list[NodeLink], load: Callable[[NodeLink], float]) -> NodeLink | None:
        if not links:
            return None
        link = min(links, key=lambda candidate: (load(candidate), candidate.last_used))
        link.last_used = next(self._uses)
        return link

    async def runs_handler(self, link: NodeLink, session_id: str) -> bool:
        """Tell whether an instance runs the handler of a session of its node."""
        if session_id not in link.sessions:
            return False
        row = await self._store.get_session(session_id)
        return row is not None and row.node_id == link.node_id

    def views(self) -> list[NodeView]:
        """Return what may be seen of the nodes: linked instances, and one row for each node that is away."""
        here = [_view(link) for link in self._links.values()]
        return here + self._known.away({view.node_id for view in here})

    # --- the life of a link

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve ``GET /api/v1/nodes/link`` for as long as the link stands."""
        socket = web.WebSocketResponse(max_msg_size=MAX_FRAME, compress=False, timeout=CLOSE_DEADLINE)
        await socket.prepare(request)
        try:
            hello = await greet(socket, stopping=lambda: self._closing or self._engine is None)
            self._check(hello)
        except AgentFieldError as error:
            await refuse(socket, error)
            return socket
        except ConnectionError:
            return socket
        refused = self._refused(hello)
        link = NodeLink(socket, hello, linked_at=self._clock(), patience=self._dead, refused=refused)
        for name, why in refused.items():
            _log.warning("%s.%s is not registered: %s", link.node_id, name, why.message)
        self._idle.clear()
        # a lost connection cancels its handler; what the node had sent before is worked off all the same
        self._serving[link] = asyncio.create_task(self._serve_whole(link, socket, request))
        await asyncio.shield(self._serving[link])
        return socket

    async def _serve_whole(self, link: NodeLink, socket: web.WebSocketResponse, request: web.Request) -> None:
        try:
            with log_context(node_id=link.node_id):
                await self._serve(link, socket)
        finally:
            self._serving.pop(link, None)
            if not self._serving:
                self._idle.set()
            await close(socket, request, link.ended or "the link ended")

    async def close(self) -> None:
        """End all links, keeping what their nodes hold: they come back to the next control plane. Idempotent."""
        self._closing = True
        for link in list(self._serving):
            link.end("the control plane stops")
        await self._idle.wait()

    def _check(self, hello: Hello) -> None:
        if not self._known.same_instance(hello):
            raise NodeRefused("That instance belongs to another node or key.", code="foreign_instance")

    async def _serve(self, link: NodeLink, socket: web.WebSocketResponse) -> None:
        engine = self._port()
        if (old := self._links.pop(link.instance_id, None)) is not None:
            old.end("the instance linked anew")
        self._coming[link.instance_id] = link
        self._known.linked(link, self.links(link.node_id))
        try:
            await self._store.remember_node(link.node_id, self._known.declared(_view(link)))
            welcome = await engine.reconcile(link)
            problems = {name: error.to_problem() for name, error in link.refused.items()}
            await socket.send_str(encode_frame(welcome.model_copy(update={"refused": problems})))
            if (newer := self._links.get(link.instance_id)) is not None:
                newer.end("the instance linked anew")
            self._links[link.instance_id] = link
            self._came(link)
            await engine.node_linked(link)
            if self._sessions is not None:
                await self._sessions.node_linked(link)
            if link.draining:
                self._drains(link)
            _log.info("node %s linked (%s)", link.node_id, link.instance_id)
            traffic = Traffic(
                link,
                socket,
                engine=engine,
                sessions=self._sessions,
                drains=self._drains,
                ping=self._ping,
                dead=self._dead,
                monotonic=self._monotonic,
            )
            await traffic.carry()
        except (AgentFieldError, ConnectionError) as error:
            link.end(str(error))
        finally:
            await self._leave(link)

    async def _leave(self, link: NodeLink) -> None:
        link.end("the link ended")
        self._came(link)
        if (newer := self.coming(link.instance_id)) is not None and newer is not link:
            return
        self._links.pop(link.instance_id, None)
        self._known.left(_view(link), self.links(link.node_id))
        _log.info("node %s is gone: %s", link.node_id, link.ended)
        if self._closing:
            return
        await self._port().node_lost(link)
        if self._sessions is not None:
            await self._sessions.node_lost(link)

    def _came(self, link: NodeLink) -> None:
        if self._coming.get(link.instance_id) is link:
            del self._coming[link.instance_id]

    def _port(self) -> EnginePort:
        if self._engine is None:
            raise Unavailable("No engine runs here.", code="stopping")
        return self._engine


def _view(link: NodeLink) -> NodeView:
    return NodeView(
        node_id=link.node_id,
        instance_id=link.instance_id,
        did=link.did,
        connected=link.ended is None,
        draining=link.draining,
        functions=tuple(link.functions),
        sessions=tuple(session.name for session in link.hello.sessions if session.name not in link.refused),
        refused={name: error.code for name, error in link.refused.items()},
        running=link.running,
        concurrency=link.hello.concurrency,
        linked_at=link.linked_at,
    )
