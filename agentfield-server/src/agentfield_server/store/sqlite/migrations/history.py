"""Migrations 6 to 8: pruned runs, proofs of results, log format 2."""

__all__ = ["LOG_FORMAT_2", "NO_PLAIN_DIGESTS", "PROOFS", "RETENTION"]

RETENTION = """
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
PROOFS = """
ALTER TABLE executions ADD COLUMN statement TEXT;
ALTER TABLE executions ADD COLUMN proof TEXT;
ALTER TABLE executions ADD COLUMN input_salt BLOB;
ALTER TABLE executions ADD COLUMN output_salt BLOB;
UPDATE executions SET input_salt = randomblob(32), output_salt = randomblob(32)
    WHERE status IN ('queued', 'running', 'waiting');
"""

# runs that began before stay in format 1: their entries hold the bodies, and are never rewritten
LOG_FORMAT_2 = """
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

# a plain digest would confirm a guess of an input after its erasure; those that a node of protocol 1 signed are part of its signature
NO_PLAIN_DIGESTS = "UPDATE executions SET input_digest = NULL WHERE signature IS NULL;"
