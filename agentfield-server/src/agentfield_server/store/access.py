"""Rows, writes and reads of access control: keys, policies, tags of targets and nodes, the chain of an execution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentfield_server.store.operations import Operation

__all__ = [
    "AccessStore",
    "AddKey",
    "ApproveTag",
    "ChainRow",
    "KeyRow",
    "NoteLink",
    "PolicyRow",
    "ProposeTags",
    "RemoveTag",
    "RevokeKey",
    "SetPolicy",
    "TagRow",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key; only its SHA-256 digest is stored."""

    id: str
    digest: bytes
    scopes: tuple[str, ...]
    tags: tuple[str, ...]
    note: str | None
    created_by: str
    """Principal that created it."""
    created_at: float
    expires_at: float | None
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A version of the policies; the highest version is in force."""

    version: int
    source: Literal["file", "store"]
    document: str
    """Its TOML text."""
    set_by: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRow:
    """A tag of a target (``node.name``) or of a principal of a node or transport (``node:ID``)."""

    name: str
    tag: str
    proposed_at: float | None
    """When a node first declared it; None for a tag that an operator gave."""
    approved_at: float | None
    approved_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """The callers of an execution."""

    principal: str | None
    """Who began its run; None for a run of an earlier version."""
    targets: tuple[str, ...]
    """Targets from the root of its run to the execution itself; those of turns are omitted."""


class AddKey(Operation[None], frozen=True):
    """See `AccessStore.add_key`."""

    key: KeyRow


class RevokeKey(Operation[KeyRow | None], frozen=True):
    """See `AccessStore.revoke_key`."""

    key_id: str


class SetPolicy(Operation[PolicyRow], frozen=True):
    """See `AccessStore.set_policy`."""

    source: Literal["file", "store"]
    document: str
    set_by: str


class ProposeTags(Operation[None], frozen=True):
    """See `AccessStore.propose_tags`."""

    tags: Sequence[tuple[str, str]]


class ApproveTag(Operation[None], frozen=True):
    """See `AccessStore.approve_tag`."""

    name: str
    tag: str
    by: str


class RemoveTag(Operation[bool], frozen=True):
    """See `AccessStore.remove_tag`."""

    name: str
    tag: str


class NoteLink(Operation[None], frozen=True):
    """See `AccessStore.note_link`."""

    node_id: str
    principal: str


class AccessStore(Protocol):
    """The part of a store that access control uses; its methods are those of `SqliteStore`."""

    async def add_key(self, key: KeyRow) -> None:
        """Add a key."""

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """Revoke a key and return it; None when it does not exist. A revoked key keeps the time of its revocation."""

    async def list_keys(self) -> list[KeyRow]:
        """Return all keys that were ever made, oldest first."""

    async def set_policy(self, source: Literal["file", "store"], document: str, *, by: str) -> PolicyRow:
        """Put policies in force as the next version; return the version in force where it has the same text and source."""

    async def policy_in_force(self) -> PolicyRow | None:
        """Return the policies in force, None if there never were any."""

    async def propose_tags(self, tags: Iterable[tuple[str, str]]) -> None:
        """Record tags that a node declared, as pairs of target and tag; known ones stay as they are."""

    async def approve_tag(self, name: str, tag: str, *, by: str) -> None:
        """Approve a tag, or give one that was not declared."""

    async def remove_tag(self, name: str, tag: str) -> bool:
        """Remove a tag; return whether it was there."""

    async def list_tags(self) -> list[TagRow]:
        """Return all tags, by name."""

    async def note_link(self, node_id: str, principal: str) -> None:
        """Record that a principal opened a link of a node."""

    async def list_links(self) -> list[tuple[str, str]]:
        """Return nodes with the principals that ever opened links of them."""

    async def chain_of(self, execution_id: str) -> ChainRow | None:
        """Return the callers of an execution, which never change; None when it does not exist."""

    async def owner_of_run(self, run_id: str) -> str | None:
        """Return the principal that began a run; None when it does not exist or is of an earlier version."""
