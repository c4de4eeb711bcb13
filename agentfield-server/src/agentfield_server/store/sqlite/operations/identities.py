"""Identities of nodes: which DIDs a node id has, which DID an instance id belongs to, which instance runs a handler."""

from __future__ import annotations

from agentfield.errors import Conflict
from agentfield_server.store.identities import AdmitDid, ForgetDids, IdentifyLink, PlaceHandler, RevokeDid
from agentfield_server.store.records import LinkedInstance, LinkVerdict, NodeDid
from agentfield_server.store.sqlite.rows import NODE_DID_COLUMNS, node_did_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["admit", "forget", "identify", "place_handler", "revoke"]

_INSTANCES = 10_000
"""Instance ids that are kept for one node; the oldest ones are dropped."""

# All SQL below is built from constants; values are always bound.
_INSERT = f"""
INSERT INTO node_dids (node_id, did, state, admitted_by, admitted_at) VALUES (?1, ?2, 'admitted', ?3, ?4)
ON CONFLICT (node_id, did) DO UPDATE SET did = did RETURNING {NODE_DID_COLUMNS}
"""  # noqa: S608


def identify(transaction: Transaction, operation: IdentifyLink) -> LinkedInstance:
    """Decide about a link, see `Store.identify_link`."""
    node_id, did = operation.node_id, operation.did
    owner = transaction.one(
        "SELECT node_id, did, seen FROM node_instances WHERE instance_id = ?", operation.instance_id
    )
    verdict = _verdict(transaction, operation)
    if verdict not in ("known", "pinned", "admitted"):
        return LinkedInstance(verdict)
    if owner is not None and (owner[0], owner[1]) != (node_id, did):
        return LinkedInstance("foreign_instance")
    if operation.watch:
        return LinkedInstance(verdict, seen=0 if owner is None else owner[2])
    if verdict != "known":
        transaction.run(_INSERT, node_id, did, operation.principal, transaction.now)
    transaction.run("UPDATE node_dids SET linked_at = ? WHERE node_id = ? AND did = ?", transaction.now, node_id, did)
    return LinkedInstance(verdict, seen=_see(transaction, operation))


def _verdict(transaction: Transaction, operation: IdentifyLink) -> LinkVerdict:
    row = transaction.one("SELECT state FROM node_dids WHERE node_id = ? AND did = ?", operation.node_id, operation.did)
    if row is not None:
        return "known" if row[0] == "admitted" else "did_revoked"
    first = transaction.one("SELECT 1 FROM node_dids WHERE node_id = ? LIMIT 1", operation.node_id) is None
    if operation.watch:  # it declares nothing, so it pins nothing
        return "known" if first else "unknown_did"
    if first:
        return "pinned"
    return "admitted" if operation.admits else "unknown_did"


def _see(transaction: Transaction, operation: IdentifyLink) -> int:
    """Record an instance and return its place in the order of first sight."""
    row = transaction.one(
        "INSERT INTO node_instances (instance_id, node_id, did, linked_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (instance_id) DO UPDATE SET linked_at = excluded.linked_at RETURNING seen",
        operation.instance_id,
        operation.node_id,
        operation.did,
        transaction.now,
    )
    assert row is not None  # noqa: S101 - an upsert returns its row
    transaction.run(
        "DELETE FROM node_instances WHERE seen IN "
        "(SELECT seen FROM node_instances WHERE node_id = ? ORDER BY seen DESC LIMIT -1 OFFSET ?)",
        operation.node_id,
        _INSTANCES,
    )
    seen: int = row[0]
    return seen


def admit(transaction: Transaction, operation: AdmitDid) -> NodeDid:
    """Add a DID, see `Store.admit_did`."""
    row = transaction.one(_INSERT, operation.node_id, operation.did, operation.principal, transaction.now)
    assert row is not None  # noqa: S101 - an upsert returns its row
    found = node_did_row(row)
    if found.state == "revoked":
        raise Conflict(
            f"The DID {found.did} of the node {found.node_id!r} was revoked.",
            code="did_revoked",
            hint=f"af nodes forget {found.node_id} {found.did}, then admit it",
        )
    return found


def revoke(transaction: Transaction, operation: RevokeDid) -> NodeDid | None:
    """Revoke a DID, see `Store.revoke_did`."""
    row = transaction.one(
        "UPDATE node_dids SET state = 'revoked', revoked_at = COALESCE(revoked_at, ?) "  # noqa: S608
        f"WHERE node_id = ? AND did = ? RETURNING {NODE_DID_COLUMNS}",
        transaction.now,
        operation.node_id,
        operation.did,
    )
    return None if row is None else node_did_row(row)


def forget(transaction: Transaction, operation: ForgetDids) -> list[NodeDid]:
    """Delete DIDs and their instances, see `Store.forget_dids`."""
    where = "node_id = ?1 AND (?2 IS NULL OR did = ?2)"
    values = (operation.node_id, operation.did)
    transaction.run(f"DELETE FROM node_instances WHERE {where}", *values)  # noqa: S608
    rows = transaction.many(f"DELETE FROM node_dids WHERE {where} RETURNING {NODE_DID_COLUMNS}", [values])  # noqa: S608
    return [node_did_row(row) for row in rows]


def place_handler(transaction: Transaction, operation: PlaceHandler) -> None:
    """Record where a handler runs, see `Store.place_handler`."""
    transaction.run(
        "INSERT INTO session_handlers (session_id, instance_id, epoch) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (session_id) DO UPDATE SET instance_id = ?2, epoch = ?3",
        operation.session_id,
        operation.instance_id,
        operation.epoch,
    )
