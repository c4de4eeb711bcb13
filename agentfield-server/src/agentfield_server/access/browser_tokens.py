"""Browser tokens and one-time codes of callers' pages: opaque, one session each, short-lived; stored as digests only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from agentfield.errors import Forbidden, Unauthorized
from agentfield.ids import new_token
from agentfield_server.store.protocol import Store

__all__ = ["BrowserTokenService"]

_CODE_PREFIX = "code_af_"
_TOKEN_PREFIX = "ek_af_"  # noqa: S105 - a prefix, and one that stock browser clients accept

TOKEN_LIFETIME = 24 * 3600.0
"""Maximum lifetime of a token in seconds; it expires with its session before that."""

READ_AFTER_END = 60.0
"""Seconds after the end of its session in which a token may still read the session."""


class BrowserTokenService:
    """Issues, exchanges and checks the credentials of callers' pages.

    Args:
        store: Keeps the digests.
        clock: Returns seconds since the epoch.
        code_ttl: Lifetime of a one-time code, in seconds.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float], code_ttl: float) -> None:
        self._store = store
        self._clock = clock
        self._code_ttl = code_ttl

    async def issue_token(self, session_id: str) -> str:
        """Return a new browser token of a session; it expires with the session."""
        token = new_token(_TOKEN_PREFIX)
        await self._store.put_token(
            _digest(token), session_id=session_id, kind="token", expires_at=self._clock() + TOKEN_LIFETIME
        )
        return token

    async def issue_code(self, session_id: str) -> str:
        """Return a code that can be exchanged once for a browser token."""
        code = new_token(_CODE_PREFIX)
        await self._store.put_token(
            _digest(code), session_id=session_id, kind="code", expires_at=self._clock() + self._code_ttl
        )
        return code

    async def exchange(self, code: str) -> tuple[str, str]:
        """Exchange a one-time code for a session id and a browser token.

        Raises:
            Unauthorized: The code is unknown, expired or was used before.
        """
        row = await self._store.use_token(_digest(code), kind="code", now=self._clock(), once=True)
        if row is None:
            raise Unauthorized(
                "This page address was used before, or has expired.",
                code="code_used",
                hint="start a new session: af session start TARGET",
            )
        return row.session_id, await self.issue_token(row.session_id)

    async def check(self, token: str, session_id: str) -> None:
        """Check that a browser token belongs to a session.

        Raises:
            Unauthorized: The token is unknown or expired, or its session has ended.
            Forbidden: The token belongs to another session.
        """
        row = await self._store.use_token(_digest(token), kind="token", now=self._clock())
        if row is None:
            raise Unauthorized(
                "The browser token is unknown or has expired.",
                code="token_expired",
                hint="start a new session: af session start TARGET",
            )
        if row.session_id != session_id:
            raise Forbidden(
                "The browser token belongs to another session.",
                code="token_scope",
                hint="use the token that came with this session's start",
            )
        session = await self._store.get_session(session_id)
        if session is None or (session.ended_at is not None and self._clock() > session.ended_at + READ_AFTER_END):
            raise Unauthorized(
                "The browser token expired with its session.",
                code="token_expired",
                hint="start a new session: af session start TARGET",
            )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
