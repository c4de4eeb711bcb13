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
        others = tuple(others)
        hellos = [*(other.hello for other in others), link.hello]
        self._functions[link.node_id] = {spec.name: spec for hello in hellos for spec in hello.functions}
        # of several instances the one that linked last says what a session is
        told = {
            spec.name: (spec, each.refused.get(spec.name)) for each in (*others, link) for spec in each.hello.sessions
        }
        self._refused[link.node_id] = {name: why for name, (_, why) in told.items() if why is not None}
        self._sessions[link.node_id] = {name: spec for name, (spec, why) in told.items() if why is None}
        self._instances[link.instance_id] = (link.node_id, link.did)
        self._instances.move_to_end(link.instance_id)
        if len(self._instances) > _MAX_INSTANCES:
            self._instances.popitem(last=False)

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
        if not list(others):
            self._away[view.node_id] = (self._monotonic(), view.model_copy(update={"connected": False, "running": 0}))

    def left_within(self, node_id: str, seconds: float) -> bool:
        """Tell whether a node left no longer ago than that."""
        left = self._away.get(node_id)
        return left is not None and self._monotonic() - left[0] <= seconds

    def away(self, here: set[str]) -> list[NodeView]:
        """Return the nodes that were here and are not."""
        return [view for node_id, (_, view) in self._away.items() if node_id not in here]
