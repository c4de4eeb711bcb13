"""What is remembered of nodes: their functions and sessions, also over a restart, and when they left."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import FunctionSpec, Hello
from agentfield.wire.rest import NodeView
from agentfield_server.nodes.link import NodeLink

__all__ = ["KnownNodes"]

_MAX_INSTANCES = 10_000


class KnownNodes:
    """The memory of the hub.

    Args:
        monotonic: A clock that never jumps.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._functions: dict[str, dict[str, FunctionSpec]] = {}
        self._sessions: dict[str, dict[str, SessionDeclaration]] = {}
        self._refused: dict[str, dict[str, AgentFieldError]] = {}
        self._first: dict[str, dict[tuple[str, str], str]] = {}
        """By node, then by name and hash: the first instance that declared it so."""
        self._away: dict[str, tuple[float, NodeView]] = {}
        self._instances: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def functions(self) -> dict[str, FunctionSpec]:
        """Return all functions by target."""
        return {f"{node}.{name}": spec for node, specs in self._functions.items() for name, spec in specs.items()}

    def sessions(self) -> dict[str, SessionDeclaration]:
        """Return all sessions by target."""
        return {f"{node}.{name}": spec for node, specs in self._sessions.items() for name, spec in specs.items()}

    def refused(self, target: str) -> AgentFieldError | None:
        """Return why a session is not registered, None when it is or nobody declares it."""
        node_id, _, name = target.partition(".")
        return self._refused.get(node_id, {}).get(name)

    def function(self, node_id: str, name: str) -> FunctionSpec | None:
        """Return one function."""
        return self._functions.get(node_id, {}).get(name)

    def same_instance(self, hello: Hello) -> bool:
        """Tell whether an instance that was seen before still has its node id and key."""
        return self._instances.get(hello.instance_id, (hello.node_id, hello.did)) == (hello.node_id, hello.did)

    def linked(self, link: NodeLink, others: Iterable[NodeLink]) -> None:
        """A node linked: what neither it nor other instances of it declare any more is forgotten."""
        functions, sessions, refused = self._newest(link.node_id, [*others, link])
        self._functions[link.node_id], self._sessions[link.node_id] = functions, sessions
        self._refused[link.node_id] = refused
        self._instances[link.instance_id] = (link.node_id, link.did)
        self._instances.move_to_end(link.instance_id)
        if len(self._instances) > _MAX_INSTANCES:
            self._instances.popitem(last=False)

    def changed(self, node_id: str, links: Iterable[NodeLink]) -> None:
        """An instance drains or left: what is new goes by what the others declare; what only it had stays known."""
        functions, sessions, refused = self._newest(node_id, list(links))
        self._functions.setdefault(node_id, {}).update(functions)
        known, why = self._sessions.setdefault(node_id, {}), self._refused.setdefault(node_id, {})
        for name in (*sessions, *refused):
            known.pop(name, None)
            why.pop(name, None)
        known.update(sessions)
        why.update(refused)

    def _newest(
        self, node_id: str, links: list[NodeLink]
    ) -> tuple[dict[str, FunctionSpec], dict[str, SessionDeclaration], dict[str, AgentFieldError]]:
        """Return what counts of each name where instances differ: what came last, of those that take new work.

        Functions, sessions that are registered, and why others are not.

        A declaration is as old as the first instance that had it, so that an old instance that links again, or is
        started again, does not bring the past back. Ids of instances sort by the start of their processes.
        """
        before, first = self._first.get(node_id, {}), dict[tuple[str, str], str]()
        for link in links:
            for key in link.hashes.items():
                first[key] = min(first.get(key, link.instance_id), before.get(key, link.instance_id), link.instance_id)
        self._first[node_id] = first

        def newest(declared: Callable[[NodeLink], Mapping[str, object]]) -> dict[str, NodeLink]:
            names = {name for link in links for name in declared(link)}
            return {name: max(having(name, declared), key=age(name)) for name in names}

        def having(name: str, declared: Callable[[NodeLink], Mapping[str, object]]) -> list[NodeLink]:
            return [link for link in links if name in declared(link)]

        def age(name: str) -> Callable[[NodeLink], tuple[bool, str]]:
            return lambda link: (not link.draining, first[name, link.hashes[name]])

        functions = {name: link.functions[name] for name, link in newest(lambda link: link.functions).items()}
        sessions = newest(lambda link: link.declared)
        refused = {name: link.refused[name] for name, link in sessions.items() if name in link.refused}
        return functions, {n: link.declared[n] for n, link in sessions.items() if n not in refused}, refused

    def declared(self, view: NodeView) -> dict[str, Any]:
        """Return what is known of a node as JSON, for `recall`."""
        return {
            "view": view.model_dump(mode="json"),
            "functions": [spec.model_dump(mode="json") for spec in self._functions[view.node_id].values()],
            "sessions": [spec.model_dump(mode="json") for spec in self._sessions[view.node_id].values()],
        }

    def recall(self, declared: Mapping[str, Any]) -> None:
        """A node was here before the control plane was restarted: it counts as having left now.

        Raises:
            ValidationError: It was written by another version and cannot be read.
        """
        view = NodeView.model_validate(declared["view"])
        functions = [FunctionSpec.model_validate(spec) for spec in declared["functions"]]
        sessions = [SessionDeclaration.model_validate(spec) for spec in declared["sessions"]]
        self._functions[view.node_id] = {spec.name: spec for spec in functions}
        self._sessions[view.node_id] = {spec.name: spec for spec in sessions}
        self.left(view, ())

    def left(self, view: NodeView, others: Iterable[NodeLink]) -> None:
        """An instance is gone."""
        if rest := list(others):
            self.changed(view.node_id, rest)
        else:
            self._away[view.node_id] = (self._monotonic(), view.model_copy(update={"connected": False, "running": 0}))

    def left_within(self, node_id: str, seconds: float) -> bool:
        """Tell whether a node left no longer ago than that."""
        left = self._away.get(node_id)
        return left is not None and self._monotonic() - left[0] <= seconds

    def away(self, here: set[str]) -> list[NodeView]:
        """Return the nodes that were here and are not."""
        return [view for node_id, (_, view) in self._away.items() if node_id not in here]
