"""Idempotency keys and browser tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.store.identities import PresentToken
from agentfield_server.store.json_text import dump, load
from agentfield_server.store.operations import (
    DropTokens,
    FindSessionForKey,
    PurgeKeys,
    PutToken,
    ReleaseKey,
    SaveResponse,
    UseToken,
)
from agentfield_server.store.records import IdempotencyKey, TokenRow, TokenVerdict
from agentfield_server.store.sqlite.rows import TOKEN_COLUMNS, token_row
from agentfield_server.store.sqlite.schema import keyed_digest
from agentfield_server.store.sqlite.writer import Transaction

__all__ = [
    "KEY_LIFE",
    "claim",
    "claim_all",
    "drop_tokens",
    "present_token",
    "purge",
    "put_token",
    "release_key",
    "save_response",
    "session_for_key",
    "use_token",
]

KEY_LIFE = 24 * 3600.0
"""Seconds that an idempotency key is kept."""

_TOKEN_FIELDS = len(TOKEN_COLUMNS.split(", "))
_PRESENTED = (
    f"SELECT {', '.join('t.' + name for name in TOKEN_COLUMNS.split(', '))}, t.origin, t.offers, t.inputs, s.ended_at, "  # noqa: S608
    "json_extract(s.config, '$.declaration.limits.duration') "
    "FROM tokens t JOIN sessions s ON s.id = t.session_id WHERE t.digest = ? AND t.kind = 'token'"
)

_WHERE = "principal = ? AND route = ? AND target = ? AND key = ?"
_COLUMNS = "body_digest, execution_id, session_id, response, created_at"
_FIND_ALL = f"SELECT principal, route, target, key, {_COLUMNS} FROM idempotency WHERE {_WHERE}"  # noqa: S608
_BIND = (
    "INSERT INTO idempotency (principal, route, target, key, body_digest, execution_id, session_id, created_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def purge(transaction: Transaction, operation: PurgeKeys | None = None) -> None:
    """Delete expired keys and tokens; for the operation also keys whose first call can never finish."""
    transaction.run("DELETE FROM idempotency WHERE created_at < ?", transaction.now - KEY_LIFE)
    transaction.run("DELETE FROM tokens WHERE expires_at < ?", transaction.now - KEY_LIFE)
    if operation is not None:
        transaction.run(
            "DELETE FROM idempotency WHERE response IS NULL AND execution_id IS NULL AND session_id IS NULL"
        )


def _find(transaction: Transaction, key: IdempotencyKey) -> tuple[Any, ...] | None:
    row = transaction.one(
        f"SELECT {_COLUMNS} FROM idempotency WHERE {_WHERE}",  # noqa: S608
        *_values(key),
    )
    return _valid(transaction, key, row)


def _valid(transaction: Transaction, key: IdempotencyKey, row: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Return the row of a key, None when there is none; delete one that expired.

    Raises:
        InvalidInput: The key was used with another body.
    """
    if row is None:
        return None
    if row[4] < transaction.now - KEY_LIFE:
        _delete(transaction, key)
        return None
    if bytes(row[0]) != keyed_digest(transaction.digest_key, key.body_digest):
        raise InvalidInput(
            "This Idempotency-Key was used with another body.",
            code="idempotency_mismatch",
            hint="use a new key for a new request",
        )
    return row


def claim(
    transaction: Transaction, key: IdempotencyKey, *, execution_id: str | None = None, session_id: str | None = None
) -> str | None:
    """Bind a key to an execution or session about to be created; return the id that an earlier call bound, if any.

    Raises:
        InvalidInput: The key was used with another body.
    """
    row = _find(transaction, key)
    if row is not None:
        earlier: str | None = row[1] if execution_id is not None else row[2]
        return earlier
    transaction.run(
        _BIND,
        *_values(key),
        keyed_digest(transaction.digest_key, key.body_digest),
        execution_id,
        session_id,
        transaction.now,
    )
    return None


def claim_all(transaction: Transaction, asked: Mapping[str, IdempotencyKey]) -> dict[str, str]:
    """Bind keys, all different, to executions about to be created; return the executions that earlier calls bound.

    Args:
        transaction: The transaction of the creations.
        asked: The keys, by the id of the new execution.

    Raises:
        InvalidInput: A key was used with another body.
    """
    found = {row[:4]: row[4:] for row in transaction.many(_FIND_ALL, [_values(key) for key in asked.values()])}
    bound, unbound = dict[str, str](), dict[str, IdempotencyKey]()
    for new_id, key in asked.items():
        row = _valid(transaction, key, found.get(_values(key)))
        if row is None:
            unbound[new_id] = key
        elif row[1] is not None:
            bound[new_id] = row[1]
    transaction.many(
        _BIND,
        [
            (*_values(key), keyed_digest(transaction.digest_key, key.body_digest), new_id, None, transaction.now)
            for new_id, key in unbound.items()
        ],
    )
    return bound


def session_for_key(transaction: Transaction, operation: FindSessionForKey) -> str | None:
    """Return the session that an earlier call with this key created, see `Store.session_for_key`."""
    row = _find(transaction, operation.key)
    session_id: str | None = None if row is None else row[2]
    return session_id


def save_response(transaction: Transaction, operation: SaveResponse) -> Mapping[str, Any] | None:
    """Claim a key or store its response, see `Store.save_response`."""
    key, response = operation.key, operation.response
    row = _find(transaction, key)
    if row is None:
        claim(transaction, key)
    elif row[3] is not None:
        stored: Mapping[str, Any] = load(row[3])
        return stored
    elif response is None:
        raise Conflict(
            "The first request with this Idempotency-Key is still under way.",
            code="in_flight",
            hint="wait a moment and send it again",
            retry_after=1,
        )
    if response is not None:
        transaction.run(f"UPDATE idempotency SET response = ? WHERE {_WHERE}", dump(response), *_values(key))  # noqa: S608
    return response


def release_key(transaction: Transaction, operation: ReleaseKey) -> None:
    """Delete a key."""
    _delete(transaction, operation.key)


def _delete(transaction: Transaction, key: IdempotencyKey) -> None:
    transaction.run(f"DELETE FROM idempotency WHERE {_WHERE}", *_values(key))  # noqa: S608


def _values(key: IdempotencyKey) -> tuple[str, str, str, str]:
    return key.principal, key.route, key.target, key.key


def put_token(transaction: Transaction, operation: PutToken) -> None:
    """Store a token."""
    transaction.run(
        "INSERT INTO tokens (digest, session_id, kind, expires_at, rights, details) VALUES (?, ?, ?, ?, ?, ?)",
        operation.digest,
        operation.session_id,
        operation.kind,
        operation.expires_at,
        operation.rights,
        operation.details,
    )


def use_token(transaction: Transaction, operation: UseToken) -> TokenRow | None:
    """Count a use, see `Store.use_token`."""
    row = transaction.one(
        "UPDATE tokens SET used = used + 1 WHERE digest = ? AND kind = ? AND expires_at > ? AND (used = 0 OR NOT ?) "  # noqa: S608
        f"RETURNING {TOKEN_COLUMNS}",
        operation.digest,
        operation.kind,
        operation.now,
        operation.once,
    )
    if row is None:
        return None
    return token_row(row)


def present_token(transaction: Transaction, operation: PresentToken) -> tuple[TokenVerdict, TokenRow | None]:
    """Decide about a request with a token, see `Store.present_token`."""
    row = transaction.one(_PRESENTED, operation.digest)
    if row is None:
        return "unknown", None
    token = token_row(row)
    origin, offers, inputs, ended_at, duration = row[_TOKEN_FIELDS:]
    if transaction.now > token.expires_at or (ended_at is not None and transaction.now > ended_at + operation.grace):
        return "unknown", token
    if token.session_id != operation.session_id:
        return "foreign_session", token
    if token.rights == "watch" and not operation.watches:
        return "not_allowed", token
    # a page whose browser names no origin in some requests begins without one, and goes on with its own
    if origin is not None and operation.origin != origin and (origin or operation.origin != operation.own_origin):
        return "foreign_origin", token
    if operation.counts is not None:
        if (offers if operation.counts == "offers" else inputs) >= operation.limit:
            return "used_up", token
        transaction.run(
            f"UPDATE tokens SET {operation.counts} = {operation.counts} + 1 WHERE digest = ?",  # noqa: S608
            operation.digest,
        )
    if not token.used:
        until = transaction.now + (duration or KEY_LIFE) + operation.grace
        transaction.run(
            "UPDATE tokens SET used = 1, origin = ?, expires_at = ? WHERE digest = ?",
            operation.origin,
            until,
            operation.digest,
        )
    return "ok", token


def drop_tokens(transaction: Transaction, operation: DropTokens) -> None:
    """Delete all tokens of a session."""
    transaction.run("DELETE FROM tokens WHERE session_id = ?", operation.session_id)
