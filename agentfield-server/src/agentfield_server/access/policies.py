"""Rules of access, compiled: sets of rules as bits of an integer, so that a decision costs the same for one rule and for 1,000.

A chain is decided edge by edge. Each edge into a tagged target needs a rule that allows it; a rule that denies the way from any
member of the chain to the target wins over all that allow. An edge into an untagged target is allowed unless a rule denies it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from agentfield_server.access.policy_file import PolicyDocument, Rule

__all__ = ["Decision", "Edge", "Member", "PolicySet", "PolicyTestResult", "run_tests"]


class Member(NamedTuple):
    """A member of a chain: a principal or a target."""

    name: str
    """``node.name`` of a target, or the id of a principal."""
    tags: frozenset[str] = frozenset()
    """Tags that an operator gave or approved: rules that allow a caller go by these."""
    seen: frozenset[str] = frozenset()
    """All tags that were ever seen on it: as a target it is restricted by these."""


class Edge(NamedTuple):
    """The decision about one edge."""

    caller: str
    target: str
    allowed: bool
    rule: str | None
    """The rule that decided; None where the target is untagged, or where no rule allows a tagged one."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a chain."""

    allowed: bool
    version: int
    """Version of the policies; 0 where there are none."""
    edges: tuple[Edge, ...]
    """The edges in order, up to the first that is refused."""

    @property
    def refused(self) -> Edge | None:
        """The edge that was refused."""
        return None if self.allowed else self.edges[-1]

    def record(self) -> dict[str, Any]:
        """Return what the log records of it."""
        return {"version": self.version, "rules": [edge.rule for edge in self.edges]}


class PolicySet:
    """Compiled rules.

    Args:
        version: The version in force; 0 for no policies.
        document: The rules.
    """

    def __init__(self, version: int = 0, document: PolicyDocument | None = None) -> None:
        rules = document.rule if document is not None else ()
        self.version = version
        self.rules = rules
        self._names = tuple(rule.id or f"rule {number}" for number, rule in enumerate(rules, 1))
        self._from = _index(rules, "callers")
        self._to = _index(rules, "targets")
        self._deny = sum(1 << at for at, rule in enumerate(rules) if rule.effect == "deny")
        self._allow = sum(1 << at for at, rule in enumerate(rules) if rule.effect == "allow")
        self._conditional = sum(1 << at for at, rule in enumerate(rules) if rule.when)

    def decide(self, chain: Sequence[Member], target: Member, given: Mapping[str, Any]) -> Decision:
        """Decide about a call.

        Args:
            chain: The principal, then the targets that it calls through, in order; not empty.
            target: The target, with all tags that were ever seen on it.
            given: The input of the call, for conditions. Conditions of earlier edges were decided with their own input.
        """
        edges: list[Edge] = []
        for caller, called in itertools.pairwise(chain):
            edges.append(self._edge((caller,), called, None))
            if not edges[-1].allowed:
                return Decision(allowed=False, version=self.version, edges=tuple(edges))
        edges.append(self._edge(chain, target, given))
        return Decision(allowed=edges[-1].allowed, version=self.version, edges=tuple(edges))

    def _edge(self, chain: Sequence[Member], target: Member, given: Mapping[str, Any] | None) -> Edge:
        """Decide about the edge from the last member of a chain, and whether a rule denies the way from an earlier one."""
        to, caller = _rules_of(self._to, target, target.seen), chain[-1]
        for member in reversed(chain):
            denied = _rules_of(self._from, member, member.tags | member.seen) & to & self._deny
            at = self._first(denied, given, unclear=True) if denied else None
            if at is not None:
                return Edge(member.name, target.name, allowed=False, rule=self._names[at])
        at = self._first(_rules_of(self._from, caller, caller.tags) & to & self._allow, given, unclear=False)
        if at is not None:
            return Edge(caller.name, target.name, allowed=True, rule=self._names[at])
        return Edge(caller.name, target.name, allowed=not target.seen, rule=None)

    def _first(self, found: int, given: Mapping[str, Any] | None, *, unclear: bool) -> int | None:
        """Return the first rule of a set that applies.

        Args:
            found: The rules.
            given: The input; None on an earlier edge: an allowing rule applied to its own input then, a denying one did not.
            unclear: Whether a condition that cannot be decided counts as met.
        """
        plain = found & ~self._conditional
        if plain:
            return _lowest(plain)
        conditional = found & self._conditional
        if given is None:
            return _lowest(conditional) if conditional and not unclear else None
        while conditional:
            at = _lowest(conditional)
            if _applies(self.rules[at], given, unclear=unclear):
                return at
            conditional &= conditional - 1
        return None


def _index(rules: Sequence[Rule], side: Literal["callers", "targets"]) -> dict[str, int]:
    index: dict[str, int] = {}
    for at, rule in enumerate(rules):
        selectors = rule.callers if side == "callers" else rule.targets
        for selector in selectors:
            index[selector] = index.get(selector, 0) | (1 << at)
    return index


def _rules_of(index: Mapping[str, int], member: Member, tags: frozenset[str]) -> int:
    """Return the rules that select a member: by name, by its node, by a tag, or all."""
    name = member.name
    bits = index.get("*", 0) | index.get(name, 0)
    if ":" not in name and "." in name:
        node_id = name.partition(".")[0]
        # a function acts for its node as well: a rule about the node holds for what runs on it
        bits |= index.get(f"{node_id}.*", 0) | index.get(f"node:{node_id}", 0)
    for tag in tags:
        bits |= index.get(f"tag:{tag}", 0)
    return bits


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _applies(rule: Rule, given: Mapping[str, Any], *, unclear: bool) -> bool:
    for name, constraint in rule.when.items():
        holds = constraint.holds(given[name]) if name in given else None
        if holds is None:
            if not unclear:
                return False
        elif not holds:
            return False
    return True


class PolicyTestResult(NamedTuple):
    """The result of a test of a document of rules."""

    what: str
    passed: bool
    expected: str
    why: str


def run_tests(document: PolicyDocument) -> list[PolicyTestResult]:
    """Run the tests of a document against its rules. The tags of a test are those of its callers and of its target."""
    policies = PolicySet(1, document)
    results = []
    for number, test in enumerate(document.test, 1):
        names = [test.caller, *test.through, test.target]
        members = [
            Member(name, frozenset(test.tags.get(name, ())), frozenset(test.tags.get(name, ()))) for name in names
        ]
        decision = policies.decide(members[:-1], members[-1], test.input)
        edge = decision.edges[-1]
        said = "allowed" if decision.allowed else "refused"
        results.append(
            PolicyTestResult(
                f"test {number}, {' -> '.join(names)}",
                decision.allowed == (test.expect == "allow"),
                test.expect,
                f"{edge.caller} -> {edge.target} is {said} ({edge.rule or 'no rule'})",
            )
        )
    return results
