"""Writes of access control: keys, policies, tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentfield_server.store.access import (
    AddKey,
    ApproveTag,
    KeyRow,
    NoteLink,
    PolicyRow,
    ProposeTags,
    RemoveTag,
    RevokeKey,
    SetPolicy,
)
from agentfield_server.store.json_text import dump, load
from agentfield_server.store.operations import Operation
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["KEY_COLUMNS", "OPERATIONS", "POLICY_COLUMNS", "key_row", "policy_row"]

KEY_COLUMNS = "id, digest, scopes, tags, note, created_by, created_at, expires_at, revoked_at"
POLICY_COLUMNS = "version, source, document, set_by, created_at"


def key_row(row: tuple[Any, ...]) -> KeyRow:
    """Return the record of a row with `KEY_COLUMNS`."""
    return KeyRow(
        id=row[0],
        digest=bytes(row[1]),
        scopes=tuple(load(row[2])),
        tags=tuple(load(row[3])),
        note=row[4],
        created_by=row[5],
        created_at=row[6],
        expires_at=row[7],
        revoked_at=row[8],
    )


def policy_row(row: tuple[Any, ...]) -> PolicyRow:
    """Return the record of a row with `POLICY_COLUMNS`."""
    return PolicyRow(version=row[0], source=row[1], document=row[2], set_by=row[3], created_at=row[4])


def _add_key(transaction: Transaction, operation: AddKey) -> None:
    key = operation.key
    transaction.run(
        f"INSERT INTO access_keys ({KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        key.id,
        key.digest,
        dump(list(key.scopes)),
        dump(list(key.tags)),
        key.note,
        key.created_by,
        key.created_at,
        key.expires_at,
        key.revoked_at,
    )


def _revoke_key(transaction: Transaction, operation: RevokeKey) -> KeyRow | None:
    row = transaction.one(
        f"UPDATE access_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? RETURNING {KEY_COLUMNS}",  # noqa: S608
        transaction.now,
        operation.key_id,
    )
    return None if row is None else key_row(row)


def _set_policy(transaction: Transaction, operation: SetPolicy) -> PolicyRow:
    last = transaction.one(f"SELECT {POLICY_COLUMNS} FROM access_policies ORDER BY version DESC LIMIT 1")  # noqa: S608
    if last is not None and last[1:3] == (operation.source, operation.document):
        return policy_row(last)
    row = transaction.one(
        "INSERT INTO access_policies (version, source, document, set_by, created_at) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?) RETURNING {POLICY_COLUMNS}",
        1 if last is None else last[0] + 1,
        operation.source,
        operation.document,
        operation.set_by,
        transaction.now,
    )
    assert row is not None  # noqa: S101 - an INSERT that did not raise returns its row
    return policy_row(row)


def _propose_tags(transaction: Transaction, operation: ProposeTags) -> None:
    transaction.many(
        "INSERT INTO access_tags (name, tag, proposed_at) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (name, tag) DO UPDATE SET proposed_at = COALESCE(proposed_at, ?3)",
        [(name, tag, transaction.now) for name, tag in operation.tags],
    )


def _approve_tag(transaction: Transaction, operation: ApproveTag) -> None:
    transaction.run(
        "INSERT INTO access_tags (name, tag, approved_at, approved_by) VALUES (?1, ?2, ?3, ?4) "
        "ON CONFLICT (name, tag) DO UPDATE SET approved_at = ?3, approved_by = ?4",
        operation.name,
        operation.tag,
        transaction.now,
        operation.by,
    )


def _remove_tag(transaction: Transaction, operation: RemoveTag) -> bool:
    return transaction.run("DELETE FROM access_tags WHERE name = ? AND tag = ?", operation.name, operation.tag) == 1


def _note_link(transaction: Transaction, operation: NoteLink) -> None:
    transaction.run(
        "INSERT OR IGNORE INTO access_links (node_id, principal, linked_at) VALUES (?, ?, ?)",
        operation.node_id,
        operation.principal,
        transaction.now,
    )


OPERATIONS: dict[type[Operation[Any]], Callable[[Transaction, Any], Any]] = {
    AddKey: _add_key,
    RevokeKey: _revoke_key,
    SetPolicy: _set_policy,
    ProposeTags: _propose_tags,
    ApproveTag: _approve_tag,
    RemoveTag: _remove_tag,
    NoteLink: _note_link,
}
"""Each has a group of its own, see `groups`."""
