"""Migration of proofs: credentials and their queue, heads, anchors, and the control plane's own log."""

__all__ = ["CREDENTIALS"]

# executions that ended before get their credentials as well
CREDENTIALS = """
CREATE TABLE credential_queue (
    pos INTEGER PRIMARY KEY,
    execution_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    at REAL NOT NULL
);
INSERT INTO credential_queue (execution_id, run_id, at)
    SELECT executions.id, run_id, COALESCE(ended_at, executions.created_at) FROM executions JOIN runs ON runs.id = run_id
    WHERE status NOT IN ('queued', 'running', 'waiting') AND pruned_at IS NULL ORDER BY COALESCE(ended_at, executions.created_at), pos;
CREATE INDEX credential_queue_of_run ON credential_queue (run_id, pos);
CREATE TABLE credentials (
    pos INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    execution_id TEXT NOT NULL,
    document BLOB NOT NULL,
    leaf BLOB NOT NULL
);
CREATE UNIQUE INDEX credentials_of_run ON credentials (run_id, number);
CREATE TRIGGER credentials_never_change BEFORE UPDATE ON credentials
    BEGIN SELECT RAISE(ABORT, 'credentials never change'); END;
CREATE TABLE heads (
    run_id TEXT NOT NULL REFERENCES runs (id),
    size INTEGER NOT NULL,
    final INTEGER NOT NULL,
    document BLOB NOT NULL,
    leaf BLOB NOT NULL,
    PRIMARY KEY (run_id, size, final)
) WITHOUT ROWID;
CREATE TRIGGER heads_never_change BEFORE UPDATE ON heads BEGIN SELECT RAISE(ABORT, 'heads never change'); END;
CREATE TABLE anchors (
    run_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    entry INTEGER,
    place INTEGER,
    PRIMARY KEY (run_id, size)
) WITHOUT ROWID;
CREATE INDEX anchors_of_entry ON anchors (entry, place);
CREATE TABLE control_plane_log (
    seq INTEGER PRIMARY KEY,
    entry BLOB NOT NULL,
    leaf BLOB NOT NULL
);
CREATE TRIGGER own_entries_never_change BEFORE UPDATE ON control_plane_log
    BEGIN SELECT RAISE(ABORT, 'entries of the log never change'); END;
CREATE TRIGGER own_entries_never_go BEFORE DELETE ON control_plane_log
    BEGIN SELECT RAISE(ABORT, 'entries of the log never go'); END;
"""
