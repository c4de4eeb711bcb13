"""Browser tokens and one-time codes of callers' pages: opaque, one session each, short-lived; stored as digests only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from agentfield.errors import AgentFieldError, Forbidden, LimitExceeded, Unauthorized
from agentfield.ids import new_token
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import TokenCount, TokenRights, TokenRow

__all__ = ["BrowserTokenService", "ExchangedCode", "TokenUse"]

_CODE_PREFIX = "code_af_"
_TOKEN_PREFIX = "ek_af_"  # noqa: S105 - a prefix, and one that stock browser clients accept

FIRST_USE = 60.0
"""Seconds after its issue in which a token must be used first."""

READ_AFTER_END = 60.0
"""Seconds after the end of its session in which a token may still read the session."""

_LIMITS: dict[TokenCount, int] = {"offers": 10, "inputs": 1000}
"""How often a token may send an offer, and a typed text or a recorded turn."""


@dataclass(frozen=True, slots=True)
class TokenUse:
    """A request that a browser token comes with."""

    session_id: str
    """The session that it names."""
    origin: str = ""
    """Origin of the page that sends it, empty if a program does."""
    own_origin: str = ""
    """The control plane's own origin."""
    watches: bool = False
    """Whether it only reads the session's events."""
    counts: TokenCount | None = None
    """What it uses up."""


class ExchangedCode(NamedTuple):
    """The result of the exchange of a one-time code."""

    session_id: str
    token: str
    details: bool
    """Whether the token shows the session as an operator sees it."""


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

    async def issue_token(self, session_id: str, *, rights: TokenRights = "caller", details: bool = False) -> str:
        """Return a new browser token of a session, to be used within a minute.

        Args:
            session_id: The session.
            rights: `caller` makes the call, `watch` reads its events only.
            details: Whether it shows the session as an operator sees it.
        """
        return await self._issue(_TOKEN_PREFIX, session_id, "token", within=FIRST_USE, rights=rights, details=details)

    async def issue_code(self, session_id: str, *, details: bool = False) -> str:
        """Return a code that can be exchanged once for a browser token."""
        return await self._issue(
            _CODE_PREFIX, session_id, "code", within=self._code_ttl, rights="caller", details=details
        )

    async def _issue(
        self, prefix: str, session_id: str, kind: str, *, within: float, rights: TokenRights, details: bool
    ) -> str:
        secret = new_token(prefix)
        await self._store.put_token(
            _digest(secret),
            session_id=session_id,
            kind=kind,
            expires_at=self._clock() + within,
            rights=rights,
            details=details,
        )
        return secret

    async def exchange(self, code: str) -> ExchangedCode:
        """Exchange a one-time code for a browser token.

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
        token = await self.issue_token(row.session_id, rights=row.rights, details=row.details)
        return ExchangedCode(row.session_id, token, row.details)

    async def check(self, token: str, use: TokenUse) -> TokenRow:
        """Check that a browser token allows a request, and count it.

        Raises:
            Unauthorized: The token is unknown or expired, or its session ended more than a minute ago.
            Forbidden: The token belongs to another session or another page, or allows less than this.
            LimitExceeded: The token did this as often as it may.
        """
        verdict, row = await self._store.present_token(
            _digest(token),
            session_id=use.session_id,
            origin=use.origin,
            own_origin=use.own_origin,
            watches=use.watches,
            counts=use.counts,
            limit=0 if use.counts is None else _LIMITS[use.counts],
            grace=READ_AFTER_END,
        )
        if verdict == "ok" and row is not None:
            return row
        raise _refusal(verdict, use, known=row is not None)


def _refusal(verdict: str, use: TokenUse, *, known: bool) -> AgentFieldError:
    start = "start a new session: af session start TARGET"
    match verdict:
        case "foreign_session":
            return Forbidden(
                "The browser token belongs to another session.",
                code="token_scope",
                hint="use the token that came with this session's start",
            )
        case "foreign_origin":
            return Forbidden(
                f"The browser token is used by another page than {use.origin[:200] or 'a program'}.",
                code="token_origin",
                hint="use a token of its own for each page",
            )
        case "not_allowed":
            return Forbidden(
                "The browser token may watch its session only.",
                code="token_rights",
                hint="use a token with the rights of a caller",
            )
        case "used_up":
            counts = use.counts or "offers"
            return LimitExceeded(
                f"The browser token sent {_LIMITS[counts]} {counts}, which is as many as it may.",
                code="token_used_up",
                hint=start,
            )
    why = "has expired, or expired with its session" if known else "is unknown or has expired"
    return Unauthorized(f"The browser token {why}.", code="token_expired", hint=start)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
