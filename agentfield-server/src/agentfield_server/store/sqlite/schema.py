"""Tables of the SQLite store, as numbered migrations that are applied under an exclusive lock."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import apsw

from agentfield.errors import Unavailable
from agentfield_server.store.sqlite.migrations.access import ACCESS
from agentfield_server.store.sqlite.migrations.engine import PAYLOADS, SHARES, WEBHOOKS
from agentfield_server.store.sqlite.migrations.history import LOG_FORMAT_2, NO_PLAIN_DIGESTS, PROOFS, RETENTION
from agentfield_server.store.sqlite.migrations.identity import IDENTITY
from agentfield_server.store.sqlite.migrations.initial import FIRST, NODES
from agentfield_server.store.sqlite.migrations.proofs import CREDENTIALS

__all__ = ["LARGE", "MIGRATIONS", "digest_key", "keyed_digest", "migrate"]

LARGE = 32 * 1024
"""Characters of JSON beyond which an input or output is stored separately from its execution."""

MIGRATIONS: tuple[str, ...] = (
    FIRST,
    NODES,
    SHARES,
    WEBHOOKS,
    PAYLOADS,
    RETENTION,
    PROOFS,
    LOG_FORMAT_2,
    ACCESS,
    IDENTITY,
    CREDENTIALS,
    NO_PLAIN_DIGESTS,
)
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
