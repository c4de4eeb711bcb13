"""All node links: accepts them, knows what each instance exposes, and picks the instance for a piece of work."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import web
from pydantic import ValidationError

from agentfield.errors import AgentFieldError, NotFound, Unavailable
from agentfield.identity import NodeKey
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import Drain, Hello, WatchHello, encode_frame
from agentfield.wire.node_declarations import FunctionSpec
from agentfield.wire.node_views import NodeView
from agentfield_server.logs import log_context
from agentfield_server.nodes.connection import CLOSE_DEADLINE, LinkConnection, close_socket
from agentfield_server.nodes.handshake import node_id_in_use, perform_handshake, refuse_link, signed_welcome
from agentfield_server.nodes.identities import LinkCredential, NodeIdentities
from agentfield_server.nodes.linked_node import BLOCKED_LIMIT, LinkedNode, declared_tags
from agentfield_server.nodes.liveness import NodeLiveness
from agentfield_server.nodes.protocols import EnginePort, SessionPort
from agentfield_server.nodes.registry import NodeRegistry
from agentfield_server.store.protocol import Store

__all__ = ["LinkHub"]

_log = logging.getLogger("agentfield.nodes")

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one frame; well above the limits of inputs and outputs, so that a too large one is refused with a reason."""


class LinkHub:
    """Accepts node links and dispatches their frames to the engine and the sessions.

    Args:
        store: Keeps declarations of nodes; knows the node of a session.
        key: The key of this control plane.
        clock: Seconds since the epoch.
        ping_interval: Seconds between pings.
        ping_timeout: Seconds of silence after which a link is ended.
        monotonic: Monotonic clock, seconds.
        refused: Returns the sessions of a node that cannot be registered, with the reason.
        declared: Called with a node id, the principal that opens its link, and the tags that it declares as pairs of
            target and tag, before its targets are known.
    """

    def __init__(
        self,
        store: Store,
        *,
        key: NodeKey,
        clock: Callable[[], float],
        ping_interval: float = 2.0,
        ping_timeout: float = 6.0,
        monotonic: Callable[[], float] = time.monotonic,
        refused: Callable[[Hello], Mapping[str, AgentFieldError]] = lambda _hello: {},
        declared: Callable[[str, str, Iterable[tuple[str, str]]], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._key = key
        self.did = key.did
        """DID of this control plane: nodes state their results for it only."""
        self._clock = clock
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._monotonic = monotonic
        self._refused = refused
        self._declared = declared
        self._links: dict[str, LinkedNode] = {}
        self._connecting: dict[str, LinkedNode] = {}
        self._registry = NodeRegistry(monotonic)
        self._liveness = NodeLiveness(
            link=self.instance,
            engine=self._bound_engine,
            sessions=lambda: self._sessions,
            silence=ping_timeout,
            monotonic=monotonic,
        )
        self.identities = NodeIdentities(
            store,
            links=lambda: {*self._serving, *self._links.values()},
            close_watch=self._liveness.drop,
        )
        """The DIDs of node ids."""
        self._engine: EnginePort | None = None
        self._sessions: SessionPort | None = None
        self._uses = itertools.count(1)
        self._replaceable: set[str] = set()
        self._closing = False
        self._serving: dict[LinkedNode, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def bind_engine(self, port: EnginePort) -> None:
        """Set the engine."""
        self._engine = port

    def bind_sessions(self, port: SessionPort) -> None:
        """Set the sessions."""
        self._sessions = port

    async def restore(self) -> None:
        """Load the nodes of an earlier control plane: they are about to link again."""
        for node_id, declared in (await self._store.known_nodes()).items():
            try:
                self._registry.restore(declared)
            except (KeyError, ValidationError) as error:
                _log.warning("what the node %s had declared cannot be read: %s", node_id, type(error).__name__)

    # --- queries

    def links(self, node_id: str | None = None) -> list[LinkedNode]:
        """Return the linked instances, of one node or of all."""
        return [link for link in self._links.values() if node_id is None or link.node_id == node_id]

    def instance(self, instance_id: str | None) -> LinkedNode | None:
        """Return the link of an instance, None while it is away."""
        return None if instance_id is None else self._links.get(instance_id)

    def is_assigned(self, execution_id: str) -> bool:
        """Return whether an attempt of an execution is assigned to a linked instance; then the execution is open."""
        return any(execution_id in link.assigned for link in self._links.values())

    def lives(self, instance_id: str) -> bool:
        """Return whether an instance is known to live: it is linked, links now, or its watchdog reports."""
        return self.connecting_or_linked(instance_id) is not None or self._liveness.watched(instance_id)

    def connecting_or_linked(self, instance_id: str) -> LinkedNode | None:
        """Return the link of an instance that is being established, else the one that stands."""
        return self._connecting.get(instance_id) or self._links.get(instance_id)

    def functions(self) -> dict[str, FunctionSpec]:
        """Return every known function by target, including those of nodes that are away."""
        return self._registry.functions()

    def function(self, target: str) -> FunctionSpec | None:
        """Return a known function."""
        node_id, _, name = target.partition(".")
        return self._registry.function(node_id, name)

    def sessions(self) -> dict[str, SessionDeclaration]:
        """Return every known session by target, including those of nodes that are away."""
        return self._registry.sessions()

    def tags(self) -> list[tuple[str, str]]:
        """Return the tags of every known function and session, as pairs of target and tag."""
        tags = {target: spec.tags for target, spec in self.functions().items()}
        tags |= {target: spec.tags for target, spec in self.sessions().items()}
        return [(target, tag) for target in tags for tag in tags[target]]

    def refused_session(self, target: str) -> AgentFieldError | None:
        """Return why a declared session is not registered, None when it is."""
        return self._registry.refused(target)

    def recently_linked(self, node_id: str, *, within: float = 10.0) -> bool:
        """Return whether a node is linked or was within the last `within` seconds."""
        return bool(self.links(node_id)) or self._registry.left_within(node_id, within)

    def pick(self, node_id: str, function: str) -> LinkedNode | None:
        """Return the least loaded instance that exposes a function, has capacity and takes work; round robin among equals.

        None as well while the function runs as often as its concurrency allows, over all instances.
        """
        spec = self._registry.function(node_id, function)
        if spec is not None and spec.concurrency is not None:
            running = sum(
                assigned.function == function for link in self.links(node_id) for assigned in link.assigned.values()
            )
            if running >= spec.concurrency:
                return None
        fit = [link for link in self.links(node_id) if function in link.functions and link.load < 1 and link.takes_work]
        return self._choose(fit, lambda link: link.load)

    def session_link(self, node_id: str, name: str, declared: str | None = None) -> LinkedNode | None:
        """Return the instance with the fewest sessions among those that can run the handler of a session.

        Args:
            node_id: Its node.
            name: Name of the session on the node.
            declared: Digest of the declaration that the session began with; None accepts any.
        """
        fit = [link for link in self.links(node_id) if name in link.declared and link.takes_work]
        same = [link for link in fit if declared in (None, link.hashes[name])]
        return self._choose(same, lambda link: len(link.sessions))

    async def drain(self, name: str) -> list[NodeView]:
        """Drain an instance, or all linked instances of a node: no new work, and an exit when the current work is done.

        Raises:
            NotFound: No such node or instance is linked (code `unknown_node`).
            NodeNotConnected: Its link ended meanwhile.
        """
        links = [link for link in self._links.values() if name in (link.instance_id, link.node_id)]
        if not links:
            raise NotFound(
                f"No node and no instance {name!r} is linked.",
                code="unknown_node",
                hint="af nodes shows who is connected",
            )
        for link in links:
            self._mark_draining(link)
            await link.send(Drain())
        return [_view(link) for link in links]

    def _mark_draining(self, link: LinkedNode) -> None:
        link.drain()
        self._registry.changed(link.node_id, self.links(link.node_id))

    def _choose(self, links: list[LinkedNode], load: Callable[[LinkedNode], float]) -> LinkedNode | None:
        if not links:
            return None
        link = min(links, key=lambda candidate: (load(candidate), candidate.last_used))
        link.last_used = next(self._uses)
        return link

    async def runs_handler(self, link: LinkedNode, session_id: str) -> bool:
        """Return whether an instance runs the handler of a session of its node, by its link and by the store."""
        if session_id not in link.sessions or not await self._store.handlers_of(link.instance_id, [session_id]):
            return False
        row = await self._store.get_session(session_id)
        return row is not None and row.node_id == link.node_id

    def views(self) -> list[NodeView]:
        """Return one view for each linked instance, and one for each node that is away."""
        here = [_view(link) for link in self._links.values()]
        return here + self._registry.away({view.node_id for view in here})

    # --- lifecycle of a link

    async def handle(self, request: web.Request, credential: LinkCredential) -> web.WebSocketResponse:
        """Serve ``GET /api/v1/nodes/link`` until the link ends; the credential opened the request."""
        socket = web.WebSocketResponse(max_msg_size=MAX_FRAME, compress=False, timeout=CLOSE_DEADLINE)
        await socket.prepare(request)
        try:
            hello, of_hello = await perform_handshake(
                socket, did=self.did, stopping=lambda: self._closing or self._engine is None
            )
            if isinstance(hello, WatchHello):  # the second connection of an instance: it declares nothing
                with log_context(node_id=hello.node_id):
                    await self.identities.identify(hello, credential)
                await self._liveness.serve(socket, hello)
                return socket
            self._check_names(hello)
            sessions = await self._store.handlers_of(hello.instance_id, [name for name, _ in hello.open_sessions])
            with log_context(node_id=hello.node_id):
                seen = await self.identities.identify(hello, credential)
            if self._declared is not None:  # before anything that it declares can be called
                await self._declared(hello.node_id, credential.principal, declared_tags(hello))
        except AgentFieldError as error:
            await refuse_link(socket, error)
            return socket
        except ConnectionError:
            return socket
        refused = self._refused(hello)
        link = LinkedNode(
            socket,
            hello,
            linked_at=self._clock(),
            send_timeout=self._ping_timeout,
            refused=refused,
            seen=seen,
            sessions=sessions,
            principal=credential.principal,
        )
        for name, why in refused.items():
            _log.warning("%s.%s is not registered: %s", link.node_id, name, why.message)
        self._idle.clear()
        # aiohttp cancels the request handler when the connection is lost; the task lives on, so that frames that were
        # received before are still handled
        self._serving[link] = asyncio.create_task(self._serve_whole(link, socket, request, of_hello))
        await asyncio.shield(self._serving[link])
        return socket

    async def _serve_whole(
        self, link: LinkedNode, socket: web.WebSocketResponse, request: web.Request, of_hello: str
    ) -> None:
        try:
            with log_context(node_id=link.node_id):
                await self._serve(link, socket, of_hello)
        finally:
            self._serving.pop(link, None)
            if not self._serving:
                self._idle.set()
            await close_socket(socket, request, link.ended or "the link ended")

    async def close(self) -> None:
        """End all links without giving up their attempts: the nodes link to the next control plane with them. Idempotent."""
        self._closing = True
        await self._liveness.close()
        for link in list(self._serving):
            link.end("the control plane stops")
        await self._idle.wait()

    def _check_names(self, hello: Hello) -> None:
        others = [link for link in self._links_of(hello.node_id) if link.instance_id != hello.instance_id]
        if (in_use := node_id_in_use(hello, [link for link in others if not self._gives_way(link)])) is not None:
            raise in_use

    def _links_of(self, node_id: str) -> list[LinkedNode]:
        """Return the instances of a node that are linked or about to be."""
        links = {**self._links, **self._connecting}
        return [link for link in links.values() if link.node_id == node_id]

    def _gives_way(self, link: LinkedNode) -> bool:
        return link.draining or link.instance_id in self._replaceable

    @contextmanager
    def replacing(self, instances: Iterable[str]) -> Iterator[None]:
        """Inside the block, an instance that declares other names may link beside these, which it is to replace."""
        replaced = set(instances)
        self._replaceable |= replaced
        try:
            yield
        finally:
            self._replaceable -= replaced

    async def _serve(self, link: LinkedNode, socket: web.WebSocketResponse, of_hello: str) -> None:
        engine = self._bound_engine()
        if (old := self._links.pop(link.instance_id, None)) is not None:
            old.end("the instance linked anew")
        # before the reconciliation: a dispatcher that returns a lease meanwhile must see that the instance is coming back
        self._connecting[link.instance_id] = link
        self._registry.linked(link, self.links(link.node_id))
        try:
            await self._store.remember_node(link.node_id, self._registry.declared(_view(link)))
            welcome = await engine.reconcile(link)
            problems = {name: error.to_problem() for name, error in link.refused.items()}
            welcome = signed_welcome(welcome.model_copy(update={"refused": problems}), self._key, link.hello, of_hello)
            await socket.send_str(encode_frame(welcome))
            # only after the welcome is sent: a node expects it before any work
            if (newer := self._links.get(link.instance_id)) is not None:
                newer.end("the instance linked anew")
            self._links[link.instance_id] = link
            self._discard_connecting(link)
            await engine.node_linked(link)
            if self._sessions is not None:
                await self._sessions.node_linked(link)
            if link.draining:
                self._mark_draining(link)
            _log.info("node %s linked (%s)", link.node_id, link.instance_id)
            connection = LinkConnection(
                link,
                socket,
                engine=engine,
                sessions=self._sessions,
                liveness=self._liveness,
                on_drain=self._mark_draining,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                monotonic=self._monotonic,
            )
            await connection.run()
        except (AgentFieldError, ConnectionError) as error:
            link.end(str(error))
        finally:
            await self._leave(link)

    async def _leave(self, link: LinkedNode) -> None:
        link.end("the link ended")
        self._discard_connecting(link)
        if (newer := self.connecting_or_linked(link.instance_id)) is not None and newer is not link:
            return  # the instance has linked again: it is not lost
        self._links.pop(link.instance_id, None)
        self._registry.left(_view(link), self.links(link.node_id))
        _log.info("node %s is gone: %s", link.node_id, link.ended)
        if self._closing:
            return
        await self._bound_engine().node_lost(link)
        if self._sessions is not None:
            await self._sessions.node_lost(link)

    def _discard_connecting(self, link: LinkedNode) -> None:
        if self._connecting.get(link.instance_id) is link:
            del self._connecting[link.instance_id]

    def _bound_engine(self) -> EnginePort:
        if self._engine is None:
            raise Unavailable("No engine runs here.", code="stopping")
        return self._engine


def _view(link: LinkedNode) -> NodeView:
    blocked = link.loop_blocked >= BLOCKED_LIMIT
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
        blocked=link.loop_blocked if blocked else 0.0,
        blocked_by=link.blocked_by if blocked else None,
        linked_at=link.linked_at,
    )
