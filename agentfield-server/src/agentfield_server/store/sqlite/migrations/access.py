"""Migration of access control: keys, policies, tags, who began a run, who decided an approval."""

__all__ = ["ACCESS"]

# keys are revoked, never deleted: a store that ever had one never returns to development mode.
# Runs from before have the principal `operator`, or none: by the one key of that time, or without any.
ACCESS = """
CREATE TABLE access_keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    scopes TEXT NOT NULL,
    tags TEXT NOT NULL,
    note TEXT,
    created_by TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL
) WITHOUT ROWID;
CREATE TRIGGER access_keys_never_go BEFORE DELETE ON access_keys
    BEGIN SELECT RAISE(ABORT, 'keys are revoked, never deleted'); END;
CREATE TABLE access_policies (
    version INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    document TEXT NOT NULL,
    set_by TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE access_tags (
    name TEXT NOT NULL,
    tag TEXT NOT NULL,
    proposed_at REAL,
    approved_at REAL,
    approved_by TEXT,
    PRIMARY KEY (name, tag)
) WITHOUT ROWID;
CREATE TABLE access_links (
    node_id TEXT NOT NULL,
    principal TEXT NOT NULL,
    linked_at REAL NOT NULL,
    PRIMARY KEY (node_id, principal)
) WITHOUT ROWID;
ALTER TABLE runs ADD COLUMN principal TEXT;
UPDATE runs SET principal = (SELECT principal FROM sessions WHERE sessions.run_id = runs.id) WHERE session_id IS NOT NULL;
ALTER TABLE approvals ADD COLUMN principal TEXT;
"""
