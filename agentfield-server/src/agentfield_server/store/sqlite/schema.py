"""Tables of the SQLite store, as numbered migrations that are applied under an exclusive lock."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import apsw

from agentfield.errors import Unavailable

__all__ = ["LARGE", "MIGRATIONS", "digest_key", "keyed_digest", "migrate"]

LARGE = 32 * 1024
"""Characters of JSON beyond which an input or output is stored separately from its execution."""

_FIRST = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL DEFAULT 0,
    session_id TEXT,
    created_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE executions (
    pos INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES runs (id),
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    node_id TEXT NOT NULL,
    status TEXT NOT NULL,
    input TEXT NOT NULL,
    output TEXT,
    problem TEXT,
    parent_id TEXT REFERENCES executions (id),
    session_id TEXT,
    actor_id TEXT,
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    lease_owner TEXT,
    lease_epoch INTEGER NOT NULL,
    lease_until REAL,
    accepted INTEGER NOT NULL DEFAULT 0,
    not_before REAL,
    deadline REAL,
    op_id TEXT UNIQUE,
    input_digest TEXT,
    output_digest TEXT,
    signature TEXT,
    signer TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL
);
CREATE INDEX executions_of_run ON executions (run_id, pos);
CREATE INDEX executions_open ON executions (pos) WHERE status IN ('queued', 'running', 'waiting');
CREATE INDEX executions_queued ON executions (node_id, priority DESC, pos) WHERE status = 'queued';
CREATE INDEX executions_leased ON executions (lease_owner) WHERE status IN ('running', 'waiting');

CREATE TABLE sessions (
    pos INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL UNIQUE REFERENCES runs (id),
    root_id TEXT NOT NULL REFERENCES executions (id),
    target TEXT NOT NULL,
    node_id TEXT NOT NULL,
    caller TEXT,
    metadata TEXT NOT NULL,
    config TEXT NOT NULL,
    declaration_hash TEXT NOT NULL,
    principal TEXT NOT NULL,
    state TEXT NOT NULL,
    end_reason TEXT,
    end_detail TEXT,
    call_ref TEXT,
    handler_state TEXT NOT NULL DEFAULT '{}',
    owner TEXT,
    epoch INTEGER NOT NULL,
    handler_epoch INTEGER NOT NULL DEFAULT 0,
    turns INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    live_at REAL,
    ended_at REAL
);
CREATE INDEX sessions_unfinished ON sessions (pos) WHERE state <> 'ended';

CREATE TABLE events (
    run_id TEXT NOT NULL REFERENCES runs (id),
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    at REAL NOT NULL,
    execution_id TEXT,
    session_id TEXT,
    canonical BLOB NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (run_id, seq)
) WITHOUT ROWID;
CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events never change'); END;
CREATE TRIGGER events_never_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events never go'); END;

CREATE TABLE tokens (
    digest BLOB PRIMARY KEY,
    session_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    expires_at REAL NOT NULL,
    used INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX tokens_of_session ON tokens (session_id);

CREATE TABLE idempotency (
    principal TEXT NOT NULL,
    route TEXT NOT NULL,
    target TEXT NOT NULL,
    key TEXT NOT NULL,
    body_digest BLOB NOT NULL,
    execution_id TEXT,
    session_id TEXT,
    response TEXT,
    created_at REAL NOT NULL,
    PRIMARY KEY (principal, route, target, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at);
"""

_NODES = """
CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    declared TEXT NOT NULL,
    linked_at REAL NOT NULL
) WITHOUT ROWID;
"""

_SHARES = """
ALTER TABLE executions ADD COLUMN share TEXT NOT NULL DEFAULT '';
ALTER TABLE executions ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN backoff REAL NOT NULL DEFAULT 0.5;
ALTER TABLE executions ADD COLUMN progress TEXT;
ALTER TABLE executions ADD COLUMN lineage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN pauses INTEGER NOT NULL DEFAULT 0;
CREATE TABLE approvals (
    pos INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    execution_id TEXT NOT NULL REFERENCES executions (id),
    key TEXT NOT NULL,
    run_id TEXT NOT NULL,
    session_id TEXT,
    target TEXT NOT NULL,
    title TEXT NOT NULL,
    details TEXT NOT NULL,
    status TEXT NOT NULL,
    decided_by TEXT,
    via TEXT,
    note TEXT,
    data TEXT,
    time_left REAL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    decided_at REAL,
    UNIQUE (execution_id, key)
);
CREATE INDEX approvals_pending ON approvals (pos) WHERE status = 'pending';
DROP INDEX executions_queued;
CREATE INDEX executions_queued ON executions (node_id, priority DESC, place, pos) WHERE status = 'queued';
CREATE INDEX executions_shares ON executions (node_id, priority, share, place) WHERE status = 'queued';
CREATE INDEX executions_delayed ON executions (node_id, not_before) WHERE status = 'queued' AND not_before IS NOT NULL;
"""

_WEBHOOKS = """
CREATE TABLE webhooks (
    pos INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE deliveries (
    pos INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL,
    answer TEXT,
    created_at REAL NOT NULL,
    ended_at REAL
);
CREATE INDEX deliveries_due ON deliveries (not_before) WHERE status = 'pending';
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id, status, pos);
CREATE INDEX deliveries_old ON deliveries (ended_at) WHERE status = 'delivered';
"""

# 32768 is `LARGE` at the time of this migration, which must not change with it
_PAYLOADS = """
CREATE TABLE payloads (
    digest BLOB PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
ALTER TABLE executions ADD COLUMN input_payload BLOB;
ALTER TABLE executions ADD COLUMN input_size INTEGER;
ALTER TABLE executions ADD COLUMN output_payload BLOB;
ALTER TABLE executions ADD COLUMN output_size INTEGER;
CREATE INDEX executions_with_input ON executions (input_payload) WHERE input_payload IS NOT NULL;
CREATE INDEX executions_with_output ON executions (output_payload) WHERE output_payload IS NOT NULL;
INSERT OR IGNORE INTO payloads SELECT sha256(input), input FROM executions WHERE length(input) > 32768;
INSERT OR IGNORE INTO payloads SELECT sha256(output), output FROM executions WHERE length(output) > 32768;
UPDATE executions SET input_payload = sha256(input), input_size = length(input), input = 'null'
    WHERE length(input) > 32768;
UPDATE executions SET output_payload = sha256(output), output_size = length(output), output = NULL
    WHERE length(output) > 32768;
"""

_RETENTION = """
ALTER TABLE runs ADD COLUMN pruned_at REAL;
ALTER TABLE runs ADD COLUMN last_leaf BLOB;
ALTER TABLE runs ADD COLUMN root BLOB;
CREATE INDEX executions_of_parent ON executions (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX sessions_of_root ON sessions (root_id);
CREATE INDEX deliveries_of_run ON deliveries (run_id);
DROP TRIGGER events_never_go;
CREATE TRIGGER events_never_go BEFORE DELETE ON events
    WHEN (SELECT pruned_at FROM runs WHERE id = OLD.run_id) IS NULL
    BEGIN SELECT RAISE(ABORT, 'events never go'); END;
CREATE TRIGGER runs_never_go BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'runs never go'); END;
CREATE TRIGGER runs_pruned_for_good BEFORE UPDATE OF pruned_at, last_leaf, root ON runs WHEN OLD.pruned_at IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a pruned run never changes'); END;
CREATE TRIGGER runs_pruned_when_over BEFORE UPDATE OF pruned_at ON runs
    WHEN EXISTS (SELECT 1 FROM executions WHERE run_id = NEW.id AND status IN ('queued', 'running', 'waiting'))
    BEGIN SELECT RAISE(ABORT, 'a run with something open stays'); END;
"""

# open executions get their salts here, since they may still be invoked over a link of protocol 2
_PROOFS = """
ALTER TABLE executions ADD COLUMN statement TEXT;
ALTER TABLE executions ADD COLUMN proof TEXT;
ALTER TABLE executions ADD COLUMN input_salt BLOB;
ALTER TABLE executions ADD COLUMN output_salt BLOB;
UPDATE executions SET input_salt = randomblob(32), output_salt = randomblob(32)
    WHERE status IN ('queued', 'running', 'waiting');
"""

# runs that began before stay in format 1: their entries hold the bodies, and are never rewritten
_LOG_FORMAT_2 = """
ALTER TABLE runs ADD COLUMN format INTEGER NOT NULL DEFAULT 1;
CREATE TRIGGER runs_keep_their_format BEFORE UPDATE OF format ON runs
    BEGIN SELECT RAISE(ABORT, 'the format of a log never changes'); END;
DROP TRIGGER events_never_change;
ALTER TABLE events RENAME COLUMN canonical TO entry;
ALTER TABLE events ADD COLUMN body BLOB;
ALTER TABLE events ADD COLUMN salt BLOB;
CREATE TRIGGER events_never_change
    BEFORE UPDATE OF run_id, seq, id, type, at, execution_id, session_id, entry, leaf ON events
    BEGIN SELECT RAISE(ABORT, 'events never change'); END;
CREATE TRIGGER bodies_are_only_erased BEFORE UPDATE OF body, salt ON events
    WHEN NEW.body IS NOT NULL OR NEW.salt IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'bodies of events never change'); END;
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
INSERT INTO secrets (name, value) VALUES ('digests', randomblob(32));
UPDATE executions SET input_payload = keyed((SELECT value FROM secrets WHERE name = 'digests'), input_payload)
    WHERE input_payload IS NOT NULL;
UPDATE executions SET output_payload = keyed((SELECT value FROM secrets WHERE name = 'digests'), output_payload)
    WHERE output_payload IS NOT NULL;
UPDATE payloads SET digest = keyed((SELECT value FROM secrets WHERE name = 'digests'), digest);
UPDATE idempotency SET body_digest = keyed((SELECT value FROM secrets WHERE name = 'digests'), body_digest);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, _NODES, _SHARES, _WEBHOOKS, _PAYLOADS, _RETENTION, _PROOFS, _LOG_FORMAT_2)
"""Each is applied once, in this order, and never edited after a release; `PRAGMA user_version` is their number."""


def migrate(connection: apsw.Connection, version: int = len(MIGRATIONS)) -> None:
    """Migrate a database in one exclusive transaction.

    Args:
        connection: The database.
        version: Schema version to migrate to.

    Raises:
        Unavailable: A newer version of this program wrote the database (code `store_newer`).
    """
    connection.create_scalar_function("sha256", _sha256, 1, deterministic=True)
    connection.create_scalar_function("keyed", _keyed, 2, deterministic=True)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for script in MIGRATIONS[_known_version(connection) : version]:
            connection.execute(script)
        connection.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _sha256(*values: Any) -> bytes:
    return hashlib.sha256(values[0].encode()).digest()


def keyed_digest(key: bytes, digest: bytes) -> bytes:
    """Return the keyed form of a digest of a body (HMAC-SHA-256).

    A plain digest of a body would still confirm a guess of the body after its erasure.
    """
    return hmac.digest(key, digest, "sha256")


def digest_key(connection: apsw.Connection) -> bytes:
    """Return the key of `keyed_digest` in this database; random, made by the migration."""
    [(key,)] = connection.execute("SELECT value FROM secrets WHERE name = 'digests'").fetchall()
    assert isinstance(key, bytes)  # noqa: S101 - a BLOB
    return key


def _keyed(*values: Any) -> bytes:
    return keyed_digest(values[0], values[1])


def _known_version(connection: apsw.Connection) -> int:
    version = int(connection.pragma("user_version"))
    if version > len(MIGRATIONS):
        raise Unavailable(
            f"The store {connection.filename} has schema {version}, this program knows up to {len(MIGRATIONS)}.",
            code="store_newer",
            hint="run the newer version of agentfield-server that wrote it, or use another AGENTFIELD_HOME",
        )
    return version
