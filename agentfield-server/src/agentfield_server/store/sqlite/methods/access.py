"""Keys, policies, tags and chains: the methods of the `AccessStore` protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from agentfield_server.store.access import (
    AddKey,
    ApproveTag,
    ChainRow,
    KeyRow,
    NoteLink,
    PolicyRow,
    ProposeTags,
    RemoveTag,
    RevokeKey,
    SetPolicy,
    TagRow,
)
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.operations.access import KEY_COLUMNS, POLICY_COLUMNS, key_row, policy_row

__all__ = ["AccessMethods"]

_CHAIN = """
WITH RECURSIVE above (id, parent_id, kind, target, run_id, depth) AS (
    SELECT id, parent_id, kind, target, run_id, 0 FROM executions WHERE id = ?
    UNION ALL
    SELECT e.id, e.parent_id, e.kind, e.target, e.run_id, above.depth + 1
    FROM executions e JOIN above ON e.id = above.parent_id
)
SELECT above.kind, above.target, runs.principal FROM above JOIN runs ON runs.id = above.run_id ORDER BY above.depth DESC
"""


class AccessMethods(SqliteDatabase):
    """Reads and writes of access control."""

    async def add_key(self, key: KeyRow) -> None:
        """Add a key."""
        await self._write(AddKey(key))

    async def revoke_key(self, key_id: str) -> KeyRow | None:
        """Revoke a key, see `AccessStore.revoke_key`."""
        return await self._write(RevokeKey(key_id))

    async def list_keys(self) -> list[KeyRow]:
        """Return all keys, oldest first."""
        return [key_row(row) for row in await self._read(f"SELECT {KEY_COLUMNS} FROM access_keys ORDER BY created_at")]  # noqa: S608

    async def set_policy(self, source: Literal["file", "store"], document: str, *, by: str) -> PolicyRow:
        """Put policies in force, see `AccessStore.set_policy`."""
        return await self._write(SetPolicy(source, document, by))

    async def policy_in_force(self) -> PolicyRow | None:
        """Return the policies in force."""
        rows = await self._read(f"SELECT {POLICY_COLUMNS} FROM access_policies ORDER BY version DESC LIMIT 1")  # noqa: S608
        return policy_row(rows[0]) if rows else None

    async def propose_tags(self, tags: Iterable[tuple[str, str]]) -> None:
        """Record tags that a node declared, see `AccessStore.propose_tags`."""
        await self._write(ProposeTags(tuple(tags)))

    async def approve_tag(self, name: str, tag: str, *, by: str) -> None:
        """Approve or give a tag."""
        await self._write(ApproveTag(name, tag, by))

    async def remove_tag(self, name: str, tag: str) -> bool:
        """Remove a tag; return whether it was there."""
        return await self._write(RemoveTag(name, tag))

    async def list_tags(self) -> list[TagRow]:
        """Return all tags, by name."""
        rows = await self._read(
            "SELECT name, tag, proposed_at, approved_at, approved_by FROM access_tags ORDER BY name, tag"
        )
        return [
            TagRow(name=row[0], tag=row[1], proposed_at=row[2], approved_at=row[3], approved_by=row[4]) for row in rows
        ]

    async def note_link(self, node_id: str, principal: str) -> None:
        """Record that a principal opened a link of a node."""
        await self._write(NoteLink(node_id, principal))

    async def list_links(self) -> list[tuple[str, str]]:
        """Return nodes with the principals that ever opened links of them."""
        return [(row[0], row[1]) for row in await self._read("SELECT node_id, principal FROM access_links")]

    async def chain_of(self, execution_id: str) -> ChainRow | None:
        """Return the callers of an execution, see `AccessStore.chain_of`."""
        rows = await self._read(_CHAIN, execution_id)
        if not rows:
            return None
        # a turn runs in its session, under the same name
        return ChainRow(principal=rows[0][2], targets=tuple(target for kind, target, _ in rows if kind != "turn"))

    async def owner_of_run(self, run_id: str) -> str | None:
        """Return the principal that began a run."""
        rows = await self._read("SELECT principal FROM runs WHERE id = ?", run_id)
        found: str | None = rows[0][0] if rows else None
        return found
