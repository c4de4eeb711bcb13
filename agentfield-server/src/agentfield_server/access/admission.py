"""Admission: the one decision that every start, offer, turn, call, tool call, approval and session route passes."""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agentfield.errors import Forbidden, NotFound, Unavailable
from agentfield_server.access.keys import KeyService
from agentfield_server.access.policies import Decision, PolicySet
from agentfield_server.access.principals import Principal, Scope, transport_principal
from agentfield_server.access.tags import TagRegister
from agentfield_server.store.access import AccessStore, ChainRow

__all__ = ["AccessControl"]

_log = logging.getLogger("agentfield.access")

_CHAINS = 10_000
"""Chains that are remembered: those of the executions that called last."""

UNREADABLE = 10.0
"""Seconds without readable policies after which nothing new is started."""


class AccessControl:
    """Decides who may call what, by the policies in force.

    In development mode without policies everything is allowed, and nothing is recorded of it.

    Args:
        store: Knows the chains of executions.
        keys: The keys, and whether this is development mode.
        tags: The tags of targets and principals.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(self, store: AccessStore, keys: KeyService, tags: TagRegister, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self.tags = tags
        """The tags of targets and principals."""
        self.policies = PolicySet()
        """The policies in force."""
        self._read_at = clock()
        self._links_of: Callable[[str], Iterable[str]] = lambda _: ()
        self._linked_with: defaultdict[str, set[str]] = defaultdict(set)
        self._chains: OrderedDict[str, ChainRow] = OrderedDict()

    def bind_links(self, links_of: Callable[[str], Iterable[str]]) -> None:
        """Set the function that returns the principals that opened the links of a node."""
        self._links_of = links_of

    async def load(self) -> None:
        """Read from the store who ever opened links of which node."""
        for node_id, principal_id in await self._store.list_links():
            self._linked_with[node_id].add(principal_id)

    async def note_link(self, node_id: str, principal_id: str) -> None:
        """Remember for good that a principal opened a link of a node: it decides no approvals of that node."""
        if principal_id not in self._linked_with[node_id]:
            self._linked_with[node_id].add(principal_id)
            await self._store.note_link(node_id, principal_id)

    def put_in_force(self, policies: PolicySet) -> None:
        """Decide by these policies from now on."""
        self.policies = policies

    def policies_were_read(self) -> None:
        """Note that the source of the policies could be read just now."""
        self._read_at = self._clock()

    @property
    def open(self) -> bool:
        """Whether everything is allowed: development mode without policies."""
        return self._keys.development and self.policies.version == 0

    def principal(self, principal_id: str | None) -> Principal | None:
        """Return the principal of an id with its present rights; None where it has none now.

        Runs from before there were principals, whose id is None, were begun by operators.
        """
        kind, _, name = (principal_id or "operator").partition(":")
        if kind == "node":
            return Principal(f"node:{name}", "node")
        if kind == "transport":
            return transport_principal(name)
        return self._keys.principal(principal_id or "operator")

    def admit(
        self, principal: Principal, chain: Sequence[str], target: str, given: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Admit a call of a target, and return the record of the decision; None where everything is allowed.

        Args:
            principal: Who began it.
            chain: The targets that it is called through, in order.
            target: The target.
            given: Its input.

        Raises:
            Forbidden: No rule allows an edge of the chain, or a rule denies it (code `access_denied`).
            Unavailable: The policies could not be read for 10 s (code `policies_unreadable`).
        """
        self._check_readable()
        if self.open:
            return None
        decision = self.decide(principal, chain, target, given)
        if not decision.allowed:
            _log.warning("refused by version %d: %s", decision.version, _way(decision))
            raise _denied(decision)
        return decision.record()

    def knows_chain(self, parent_id: str | None) -> bool:
        """Return whether `admit_call` can decide about a call within an execution without reading the store."""
        return parent_id is None or self.open or parent_id in self._chains

    async def learn_chain(self, parent_id: str | None) -> None:
        """Read the chain of an execution from the store, unless it is known or not needed.

        Raises:
            NotFound: It does not exist (code `unknown_execution`).
        """
        if parent_id is not None and not self.knows_chain(parent_id):
            await self._chain(parent_id)

    def admit_call(
        self, principal_id: str | None, parent_id: str | None, target: str, given: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Admit a call within an execution, or, without a parent, one by the principal that begins a run; see `admit`.

        The chain of the parent must be known (`learn_chain`). A parent that the principal itself names over REST gives it no
        right: the principal makes such a call directly, and the edge from it to the target is decided as well.

        Raises:
            Forbidden: Also where a node calls an untagged target on its own, and its key lacks the scope `caller`
                (code `scope_missing`).
        """
        self._check_readable()
        if self.open:
            return None
        if parent_id is not None and principal_id is not None and not principal_id.startswith("node:"):
            self.admit(self._beginner(principal_id), (), target, given)
        if parent_id is not None:
            above = self._chains[parent_id]
            self._chains.move_to_end(parent_id)
            return self.admit(self._beginner(above.principal), above.targets, target, given)
        if principal_id is not None and principal_id.startswith("node:") and not self.tags.target(target).seen:
            self._require_caller(principal_id.removeprefix("node:"))
        return self.admit(self._beginner(principal_id), (), target, given)

    def admit_session(self, principal_id: str, target: str) -> dict[str, Any] | None:
        """Admit the use of a session by its callers: whoever started it must still be allowed to; see `admit`."""
        self._check_readable()
        if self.open:
            return None
        return self.admit(self._beginner(principal_id), (), target, {})

    async def admit_execution(self, execution_id: str, given: Mapping[str, Any]) -> None:
        """Admit an execution that waited, before it continues; see `admit`."""
        if self.open:
            return
        above = await self._chain(execution_id)
        self.admit(self._beginner(above.principal), above.targets[:-1], above.targets[-1], given)

    def allows(self, principal_id: str, target: str) -> bool:
        """Return whether a principal may call a target, without a log line."""
        principal = self.principal(principal_id)
        return principal is not None and (self.open or self.decide(principal, (), target, {}).allowed)

    def decide(self, principal: Principal, chain: Sequence[str], target: str, given: Mapping[str, Any]) -> Decision:
        """Return the decision about a call, allowed or not."""
        members = [self.tags.principal(principal), *map(self.tags.target, chain)]
        return self.policies.decide(members, self.tags.target(target), given)

    async def require_other(self, principal: Principal, execution_id: str) -> bool:
        """Reject a decision about an execution by a principal of its chain; return whether one decides in development mode.

        To the chain belong who began the run, the nodes of its targets, the node that began it, and the keys with which
        these were ever linked: a node that leaves would otherwise decide with its key.

        Raises:
            Forbidden: The principal is of the chain (code `own_approval`).
        """
        above = await self._chain(execution_id)
        nodes = {target.partition(".")[0] for target in above.targets}
        if above.principal is not None and above.principal.startswith("node:"):
            nodes.add(above.principal.removeprefix("node:"))
        beginner = self.principal(above.principal)
        names = {f"node:{node_id}" for node_id in nodes}
        names.update(*(self._linked_with[node_id] for node_id in nodes))
        names.add(beginner.id if beginner is not None else above.principal or "")
        if principal.id not in names:
            return False
        if self._keys.development:
            return True
        raise Forbidden(
            f"{principal.id} belongs to what asks for this decision: it began the run, or a node of it was linked with it.",
            code="own_approval",
            hint="another key decides; an operator makes one with: af keys create --scope approver",
        )

    def scopes_of_node(self, principal_id: str) -> frozenset[Scope]:
        """Return the scopes that all keys have with which a node is linked now."""
        linked = [self.principal(each) for each in self._links_of(principal_id.removeprefix("node:"))]
        scopes = [each.scopes if each is not None else frozenset[Scope]() for each in linked]
        return frozenset.intersection(*scopes) if scopes else frozenset()

    def _require_caller(self, node_id: str) -> None:
        """Reject a node whose links were not all opened with the scope `caller`."""
        if "caller" not in self.scopes_of_node(f"node:{node_id}"):
            raise Forbidden(
                f"The key of node {node_id!r} has no scope caller, which a call outside of a reasoner or handler needs.",
                code="scope_missing",
                hint="call from inside, or give the node a key with both: af keys create --scope node --scope caller",
                scopes=["caller"],
            )

    def _beginner(self, principal_id: str | None) -> Principal:
        principal = self.principal(principal_id)
        if principal is None:
            raise Forbidden(
                f"{principal_id or 'The principal'}, who began this run, has no rights any more.",
                code="access_denied",
                hint="begin a new run with a valid key",
            )
        return principal

    async def _chain(self, execution_id: str) -> ChainRow:
        known = self._chains.get(execution_id)
        if known is not None:
            self._chains.move_to_end(execution_id)
            return known
        found = await self._store.chain_of(execution_id)
        if found is None:
            raise NotFound(f"There is no execution {execution_id!r}.", code="unknown_execution")
        self._chains[execution_id] = found
        if len(self._chains) > _CHAINS:
            self._chains.popitem(last=False)
        return found

    def _check_readable(self) -> None:
        if self._clock() - self._read_at > UNREADABLE:
            raise Unavailable(
                "The policies of this control plane cannot be read, so nothing new is started.",
                code="policies_unreadable",
                hint="see the control plane's log: AGENTFIELD_POLICIES must be readable, and so must the store",
                retry_after=5,
            )


def _way(decision: Decision) -> str:
    edge = decision.edges[-1]
    return f"{edge.caller} may not call {edge.target} ({edge.rule or 'no rule allows it'})"


def _denied(decision: Decision) -> Forbidden:
    edge = decision.edges[-1]
    why = f"the rule {edge.rule!r} denies it" if edge.rule else f"{edge.target} is tagged, and no rule allows it"
    return Forbidden(
        f"{edge.caller} may not call {edge.target}: {why}.",
        code="access_denied",
        hint=f"an operator sees why with: af access explain {edge.caller} {edge.target}",
        caller=edge.caller,
        target=edge.target,
        rule=edge.rule,
        policy_version=decision.version,
    )
