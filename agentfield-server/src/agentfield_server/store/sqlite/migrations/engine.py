"""Migrations 3 to 5: fair queues, approvals, webhooks, large inputs and outputs."""

__all__ = ["PAYLOADS", "SHARES", "WEBHOOKS"]

SHARES = """
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

WEBHOOKS = """
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
PAYLOADS = """
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
