"""Migrations 1 and 2: executions, sessions, events, tokens, idempotency keys; declarations of nodes."""

__all__ = ["FIRST", "NODES"]

FIRST = """
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

NODES = """
CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    declared TEXT NOT NULL,
    linked_at REAL NOT NULL
) WITHOUT ROWID;
"""
