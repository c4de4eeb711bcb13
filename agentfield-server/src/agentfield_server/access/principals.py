"""Principals: the authenticated identity of a request, its scopes and tags, and the grants that a route may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from aiohttp import web

__all__ = [
    "ALL_SCOPES",
    "LOCAL",
    "PRINCIPAL",
    "PUBLIC",
    "WEBHOOK",
    "Access",
    "Grant",
    "Principal",
    "PrincipalKind",
    "Scope",
    "transport_principal",
]

Scope = Literal["operator", "starter", "caller", "approver", "node", "reader"]
"""What a key may do: administer; start sessions; call targets; decide approvals; link nodes; read everything."""

Grant = Literal["operator", "starter", "caller", "approver", "node", "reader", "token", "verified", "public"]
"""What may use a route: a principal with the scope; the browser token of the session that the path names; a request that the
route's own transport verified, or that carries a proof of its own (a one-time code, a signature); everyone."""

Access = tuple[Grant, ...]
"""Grants of a route, any of which suffices. `starter` and `caller` open what their principal started itself."""

_OWN: frozenset[Scope] = frozenset({"starter", "caller"})

PrincipalKind = Literal["local", "key", "token", "node", "transport", "webhook", "public"]

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
"""The scopes of the key in the settings, and of `LOCAL`."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated identity."""

    id: str
    """``local``, ``key:<key id>``, ``session:<session id>``, ``node:<node id>``, ``transport:<name>``, ``webhook:settings`` or ``public``."""
    kind: PrincipalKind
    scopes: frozenset[Scope] = frozenset()
    tags: frozenset[str] = frozenset()
    """Tags that rules of access may name as the caller's; given by an operator."""

    def has_any(self, access: Access) -> bool:
        """Return whether one of its scopes is among the grants of a route."""
        return not self.scopes.isdisjoint(access)

    def sees_all(self, access: Access) -> bool:
        """Return whether a route shows it everything: `starter` and `caller` open only what it started itself."""
        return any(scope in access for scope in self.scopes - _OWN)


LOCAL = Principal("local", "local", ALL_SCOPES)
"""Everybody in development mode."""

PUBLIC = Principal("public", "public")
"""A request without a credential, on a route that needs none."""

WEBHOOK = Principal("webhook:settings", "webhook", frozenset({"approver"}))
"""Another system that decides approvals with requests signed by the secret of the settings."""

PRINCIPAL = web.RequestKey("agentfield_principal", Principal)
"""The authenticated principal of a request."""


def transport_principal(name: str, tags: frozenset[str] = frozenset()) -> Principal:
    """Return the principal of a transport, which starts the sessions of callers that it has verified."""
    return Principal(f"transport:{name}", "transport", frozenset({"starter"}), tags)
