"""Keys: created, listed and revoked by operators; stored as digests; each has scopes, tags and perhaps an expiry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import SecretStr

from agentfield.errors import Conflict, NotFound, Unauthorized
from agentfield_server.access.principals import ALL_SCOPES, LOCAL, Principal, Scope
from agentfield_server.store.access import AccessStore, KeyRow

__all__ = ["KEY_PREFIX", "SETTINGS_KEY", "KeyService"]

KEY_PREFIX = "sk_af_"
"""Begin of a key; its id and its secret follow, divided by an underscore."""

_BEFORE = "operator"
"""Principal of what began before there were several keys: by the one key of that time, or without any."""

SETTINGS_KEY = Principal("key:settings", "key", ALL_SCOPES)
"""The key in the settings (``AGENTFIELD_API_KEY``): all scopes, no tags."""


class KeyService:
    """Creates, revokes and checks keys. Holds all keys in memory: a check reads nothing.

    Args:
        store: Keeps the digests.
        clock: Returns seconds since the epoch.
        settings_key: The key in the settings, if there is one.
        development: Whether the settings allow development mode: without a key, on loopback, for nobody else.
        on_revoked: Called with the id of a principal whose credential was revoked, or whose rights ended otherwise.
    """

    def __init__(
        self,
        store: AccessStore,
        *,
        clock: Callable[[], float],
        settings_key: SecretStr | None = None,
        development: bool = True,
        on_revoked: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings_key = None if settings_key is None else settings_key.get_secret_value().encode()
        self._development = development
        self._on_revoked = on_revoked
        self._keys: dict[str, KeyRow] = {}

    async def load(self) -> None:
        """Read the keys of the store."""
        self._keys = {key.id: key for key in await self._store.list_keys()}

    @property
    def development(self) -> bool:
        """Whether requests need no key: the settings allow it, and no key was ever made in this store."""
        return self._development and self._settings_key is None and not self._keys

    @property
    def usable(self) -> bool:
        """Whether a key with the scope `operator` is valid now, or the settings have one."""
        return self._settings_key is not None or any(
            "operator" in key.scopes and self._valid(key) for key in self._keys.values()
        )

    def list(self) -> list[KeyRow]:
        """Return all keys that were ever made, oldest first."""
        return sorted(self._keys.values(), key=lambda key: key.created_at)

    def check(self, credential: str | None) -> Principal:
        """Return the principal of a credential.

        Raises:
            Unauthorized: It is missing, unknown, revoked (code `key_revoked`) or expired (code `key_expired`).
        """
        if self.development:
            return LOCAL
        if credential is None:
            raise Unauthorized(
                "This control plane requires a key.",
                hint="set AGENTFIELD_API_KEY to a key of it; an operator makes one with: af keys create",
            )
        # header bytes beyond ASCII arrive as surrogates
        given = credential.encode(errors="surrogateescape")
        key = self._keys.get(credential.removeprefix(KEY_PREFIX).partition("_")[0])
        if key is not None and hmac.compare_digest(hashlib.sha256(given).digest(), key.digest):
            # also where the settings have the same key: what the store says of it holds
            return self._principal_of(key)
        if self._settings_key is not None and hmac.compare_digest(given, self._settings_key):
            return SETTINGS_KEY
        raise Unauthorized(
            "That is not a key of this control plane.",
            hint="set AGENTFIELD_API_KEY to a key of it; af keys list shows those that were made",
        )

    def principal(self, principal_id: str) -> Principal | None:
        """Return the present scopes and tags of ``local`` or of a key; None where it has no rights now."""
        if principal_id == _BEFORE:
            principal_id = LOCAL.id if self._settings_key is None else SETTINGS_KEY.id
        if principal_id == LOCAL.id:
            return LOCAL if self.development else None
        if principal_id == SETTINGS_KEY.id:
            return SETTINGS_KEY if self._settings_key is not None else None
        key = self._keys.get(principal_id.removeprefix("key:"))
        return self._principal_of(key) if key is not None and self._valid(key) else None

    async def create(
        self,
        scopes: Sequence[Scope],
        *,
        tags: Sequence[str] = (),
        note: str | None = None,
        expires_in: float | None = None,
        by: Principal,
    ) -> tuple[KeyRow, str]:
        """Create a key and return it with its text, which is kept nowhere.

        The first key ends development mode for good.

        Args:
            scopes: Its scopes.
            tags: Tags that rules of access may name.
            note: A note for people.
            expires_in: Seconds after which it expires; None for never.
            by: Who creates it.

        Raises:
            Conflict: It would be the first key of this store and lacks the scope `operator` (code `first_key`).
        """
        if self.development and "operator" not in scopes:
            raise Conflict(
                "The first key of a store ends development mode, so it needs the scope operator.",
                code="first_key",
                hint="make an operator's key first: af keys create --scope operator",
            )
        ended = self.development
        key_id = secrets.token_hex(6)
        text = f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
        now = self._clock()
        row = KeyRow(
            id=key_id,
            digest=hashlib.sha256(text.encode()).digest(),
            scopes=tuple(scope for scope in sorted(set(scopes))),
            tags=tuple(sorted(set(tags))),
            note=note,
            created_by=by.id,
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in,
        )
        await self._store.add_key(row)
        self._keys[key_id] = row
        if ended:
            self._on_revoked(LOCAL.id)
        return row, text

    async def revoke(self, key_id: str) -> KeyRow:
        """Revoke a key at once; repeating it changes nothing.

        Raises:
            NotFound: There is no such key (code `unknown_key`).
        """
        row = await self._store.revoke_key(key_id)
        if row is None:
            raise NotFound(f"There is no key {key_id!r}.", code="unknown_key", hint="af keys list")
        self._keys[key_id] = row
        self._on_revoked(f"key:{key_id}")
        return row

    def expired_ids(self) -> frozenset[str]:
        """Return the ids of the keys whose time is over."""
        return frozenset(key.id for key in self._keys.values() if self.expired(key))

    def expired(self, key: KeyRow) -> bool:
        """Return whether the time of a key is over."""
        return key.expires_at is not None and self._clock() >= key.expires_at

    def _valid(self, key: KeyRow) -> bool:
        return key.revoked_at is None and not self.expired(key)

    def _principal_of(self, key: KeyRow) -> Principal:
        if not self._valid(key):
            expired = key.revoked_at is None
            raise Unauthorized(
                f"The key {key.id} {'has expired' if expired else 'was revoked'}.",
                code="key_expired" if expired else "key_revoked",
                hint="an operator makes another one with: af keys create",
            )
        scopes: frozenset[Any] = frozenset(key.scopes)
        return Principal(f"key:{key.id}", "key", scopes & ALL_SCOPES, frozenset(key.tags))
