"""Identities: DIDs of node ids, owners of instance ids, instances that run session handlers, rights of browser tokens."""

from __future__ import annotations

__all__ = ["IDENTITY"]

# `seen` is the order of first sight, which decides which declaration is newer; a number is never used again
IDENTITY = """
CREATE TABLE node_dids (
    node_id TEXT NOT NULL,
    did TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('admitted', 'revoked')),
    admitted_by TEXT NOT NULL,
    admitted_at REAL NOT NULL,
    linked_at REAL,
    revoked_at REAL,
    PRIMARY KEY (node_id, did)
) WITHOUT ROWID;
CREATE TABLE node_instances (
    seen INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT NOT NULL UNIQUE,
    node_id TEXT NOT NULL,
    did TEXT NOT NULL,
    linked_at REAL NOT NULL
);
CREATE INDEX instances_of_node ON node_instances (node_id, seen);
CREATE TABLE session_handlers (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    instance_id TEXT NOT NULL,
    epoch INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX handlers_of_instance ON session_handlers (instance_id);
ALTER TABLE tokens ADD COLUMN rights TEXT NOT NULL DEFAULT 'caller' CHECK (rights IN ('caller', 'watch'));
ALTER TABLE tokens ADD COLUMN details INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN origin TEXT;
ALTER TABLE tokens ADD COLUMN offers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN inputs INTEGER NOT NULL DEFAULT 0;
"""
