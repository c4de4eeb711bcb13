"""The declarations of all nodes, linked or away: functions, sessions, refusals, and when a node left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.node_declarations import FunctionSpec
from agentfield.wire.node_views import NodeView
from agentfield_server.nodes.linked_node import LinkedNode

__all__ = ["NodeRegistry"]


class NodeRegistry:
    """Functions and sessions by node; declarations outlive the link of a node and a restart of the control plane.

    Args:
        monotonic: Monotonic clock, seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._functions: dict[str, dict[str, FunctionSpec]] = {}
        self._sessions: dict[str, dict[str, SessionDeclaration]] = {}
        self._refused: dict[str, dict[str, AgentFieldError]] = {}
        self._first: dict[str, dict[tuple[str, str], int]] = {}
        """By node, then by name and hash: when an instance with it was first seen, in the store's order."""
        self._away: dict[str, tuple[float, NodeView]] = {}

    def functions(self) -> dict[str, FunctionSpec]:
        """Return all functions by target."""
        return {f"{node}.{name}": spec for node, specs in self._functions.items() for name, spec in specs.items()}

    def sessions(self) -> dict[str, SessionDeclaration]:
        """Return all sessions by target."""
        return {f"{node}.{name}": spec for node, specs in self._sessions.items() for name, spec in specs.items()}

    def refused(self, target: str) -> AgentFieldError | None:
        """Return why a session is not registered, None when it is registered or not declared."""
        node_id, _, name = target.partition(".")
        return self._refused.get(node_id, {}).get(name)

    def function(self, node_id: str, name: str) -> FunctionSpec | None:
        """Return a function of a node, None when it is unknown."""
        return self._functions.get(node_id, {}).get(name)

    def linked(self, link: LinkedNode, others: Iterable[LinkedNode]) -> None:
        """Register an instance; forget what no linked instance of its node declares any more."""
        functions, sessions, refused = self._newest(link.node_id, [*others, link])
        self._functions[link.node_id], self._sessions[link.node_id] = functions, sessions
        self._refused[link.node_id] = refused

    def changed(self, node_id: str, links: Iterable[LinkedNode]) -> None:
        """Update a node after an instance drained or left: the others' declarations apply; what only it declared stays known."""
        functions, sessions, refused = self._newest(node_id, list(links))
        self._functions.setdefault(node_id, {}).update(functions)
        known, why = self._sessions.setdefault(node_id, {}), self._refused.setdefault(node_id, {})
        for name in (*sessions, *refused):
            known.pop(name, None)
            why.pop(name, None)
        known.update(sessions)
        why.update(refused)

    def _newest(
        self, node_id: str, links: list[LinkedNode]
    ) -> tuple[dict[str, FunctionSpec], dict[str, SessionDeclaration], dict[str, AgentFieldError]]:
        """Return functions, registered sessions and refusals: for each name, the newest declaration of the instances.

        Instances that take new work take precedence over draining ones.

        A declaration is as old as the first instance that had it, in the order in which the store saw instances first. So
        an old instance that links again does not replace a newer declaration, whatever its id is.
        """
        before, first = self._first.get(node_id, {}), dict[tuple[str, str], int]()
        for link in links:
            for key in link.hashes.items():
                first[key] = min(first.get(key, link.seen), before.get(key, link.seen), link.seen)
        self._first[node_id] = first

        def newest(declared: Callable[[LinkedNode], Mapping[str, object]]) -> dict[str, LinkedNode]:
            names = {name for link in links for name in declared(link)}
            return {name: max(having(name, declared), key=age(name)) for name in names}

        def having(name: str, declared: Callable[[LinkedNode], Mapping[str, object]]) -> list[LinkedNode]:
            return [link for link in links if name in declared(link)]

        def age(name: str) -> Callable[[LinkedNode], tuple[bool, int]]:
            return lambda link: (not link.draining, first[name, link.hashes[name]])

        functions = {name: link.functions[name] for name, link in newest(lambda link: link.functions).items()}
        sessions = newest(lambda link: link.declared)
        refused = {name: link.refused[name] for name, link in sessions.items() if name in link.refused}
        return functions, {n: link.declared[n] for n, link in sessions.items() if n not in refused}, refused

    def declared(self, view: NodeView) -> dict[str, Any]:
        """Return the declarations of a node as JSON, for `restore`."""
        return {
            "view": view.model_dump(mode="json"),
            "functions": [spec.model_dump(mode="json") for spec in self._functions[view.node_id].values()],
            "sessions": [spec.model_dump(mode="json") for spec in self._sessions[view.node_id].values()],
        }

    def restore(self, declared: Mapping[str, Any]) -> None:
        """Register a node from before a restart of the control plane, as if it had left now.

        Raises:
            ValidationError: Another version wrote it in another form.
        """
        view = NodeView.model_validate(declared["view"])
        functions = [FunctionSpec.model_validate(spec) for spec in declared["functions"]]
        sessions = [SessionDeclaration.model_validate(spec) for spec in declared["sessions"]]
        self._functions[view.node_id] = {spec.name: spec for spec in functions}
        self._sessions[view.node_id] = {spec.name: spec for spec in sessions}
        self.left(view, ())

    def left(self, view: NodeView, others: Iterable[LinkedNode]) -> None:
        """Unregister an instance; its declarations stay known."""
        if rest := list(others):
            self.changed(view.node_id, rest)
        else:
            self._away[view.node_id] = (self._monotonic(), view.model_copy(update={"connected": False, "running": 0}))

    def left_within(self, node_id: str, seconds: float) -> bool:
        """Return whether a node left within the last `seconds`."""
        left = self._away.get(node_id)
        return left is not None and self._monotonic() - left[0] <= seconds

    def away(self, linked: set[str]) -> list[NodeView]:
        """Return the views of known nodes that have no linked instance."""
        return [view for node_id, (_, view) in self._away.items() if node_id not in linked]
