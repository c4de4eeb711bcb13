"""Tags of targets, nodes and transports: what nodes declared, and what operators gave or approved."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentfield.errors import NodeRefused, NotFound
from agentfield.wire.node_declarations import MAX_TAG, MAX_TAGS
from agentfield_server.access.policies import Member
from agentfield_server.access.principals import Principal
from agentfield_server.store.access import AccessStore, TagRow

__all__ = ["TagRegister"]


@dataclass(slots=True)
class _Tags:
    seen: frozenset[str] = frozenset()
    approved: frozenset[str] = frozenset()


class TagRegister:
    """All tags, in memory; changes are stored before they are answered.

    A tag that a node declares restricts its target at once, and stays when the node declares it no longer. It gives the
    target no right as a caller until an operator approves it.

    Args:
        store: Keeps the tags.
        given: Tags of transports from the settings, by ``transport:NAME``.
    """

    def __init__(self, store: AccessStore, *, given: Mapping[str, frozenset[str]]) -> None:
        self._store = store
        self._given = given
        self._tags: defaultdict[str, _Tags] = defaultdict(_Tags)

    async def load(self) -> None:
        """Read the tags of the store."""
        self._tags.clear()
        for row in await self._store.list_tags():
            self._enter(row.name, row.tag, approved=row.approved_at is not None)

    async def propose(self, declared: Iterable[tuple[str, str]]) -> None:
        """Enter tags that a node declares, as pairs of target and tag; they restrict at once.

        Raises:
            NodeRefused: A target has too many tags, or a tag is too long (code `bad_tags`).
        """
        declared = list(declared)
        _check_limits(declared)
        new = [(name, tag) for name, tag in declared if tag not in self._known(name).seen]
        for name, tag in new:
            self._enter(name, tag, approved=False)
        if new:
            await self._store.propose_tags(new)

    async def approve(self, name: str, tag: str, *, by: Principal) -> None:
        """Approve a declared tag of a target, or give a tag to a target, node or transport."""
        await self._store.approve_tag(name, tag, by=by.id)
        self._enter(name, tag, approved=True)

    async def remove(self, name: str, tag: str) -> None:
        """Remove a tag; a node that still declares it brings it back at its next link.

        Raises:
            NotFound: There is no such tag (code `unknown_tag`).
        """
        if not await self._store.remove_tag(name, tag):
            raise NotFound(f"{name} has no tag {tag!r}.", code="unknown_tag", hint="af access tags")
        tags = self._tags[name]
        tags.seen -= {tag}
        tags.approved -= {tag}

    async def list(self) -> list[TagRow]:
        """Return all stored tags."""
        return await self._store.list_tags()

    def target(self, name: str) -> Member:
        """Return a target as a member of a chain. As a caller it also has the approved tags of its node."""
        own, node = self._known(name), self._known(f"node:{name.partition('.')[0]}")
        return Member(name, own.approved | node.approved, own.seen)

    def principal(self, principal: Principal) -> Member:
        """Return a principal as a member of a chain."""
        approved = self._known(principal.id).approved | self._given.get(principal.id, frozenset())
        return Member(principal.id, principal.tags | approved)

    def _known(self, name: str) -> _Tags:
        return self._tags.get(name) or _NONE

    def _enter(self, name: str, tag: str, *, approved: bool) -> None:
        tags = self._tags[name]
        tags.seen |= {tag}
        if approved:
            tags.approved |= {tag}


_NONE = _Tags()


def _check_limits(declared: Sequence[tuple[str, str]]) -> None:
    count = Counter(name for name, _ in declared)
    name = next((name for name in count if count[name] > MAX_TAGS), None)
    name = name or next((name for name, tag in declared if not 1 <= len(tag) <= MAX_TAG), None)
    if name is not None:
        raise NodeRefused(
            f"The tags of {name[:200]!r} are too many or too long.",
            code="bad_tags",
            hint=f"a target has at most {MAX_TAGS} tags, each of 1 to {MAX_TAG} characters",
        )
