"""Guard of all routes: checks host and origin of a request, and the credential that its route requires."""

from __future__ import annotations

import functools
import ipaddress
import time
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from aiohttp import web

from agentfield.errors import Forbidden, Unauthorized
from agentfield_server.access.attempts import Attempts, ClientAddresses, MemoryAdmission
from agentfield_server.access.browser_tokens import BrowserTokenService, TokenUse
from agentfield_server.access.open_requests import Use
from agentfield_server.access.ownership import OwnedStore, require_owned
from agentfield_server.access.principals import ALL_SCOPES, PRINCIPAL, PUBLIC, Access, Principal
from agentfield_server.access.service import AccessService
from agentfield_server.settings import Settings
from agentfield_server.store.records import TokenCount

__all__ = ["CALLER", "DETAILS", "MEDIA_PROTOCOL", "AuthGuard"]

CALLER = web.RequestKey("agentfield_caller", bool)
"""Whether the caller sends the request: a browser token that does not only watch."""


DETAILS = web.RequestKey("agentfield_details", bool)
"""Whether the browser token of the request was issued to an operator, who may see more than callers do."""

_PROXY_HEADERS = frozenset({"forwarded", "x-real-ip", "via"})

MEDIA_PROTOCOL = "agentfield.media.v1"
"""The subprotocol of the media socket."""


class AuthGuard:
    """Admits or rejects each request before its handler runs.

    Args:
        settings: The bound address and the allowed origins.
        tokens: Checks browser tokens.
        access: Checks keys and policies, and ends requests whose rights end.
        store: Knows who started what.
        attempts: Limits the rate of wrong credentials; by the addresses of the settings by default.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: BrowserTokenService,
        access: AccessService,
        store: OwnedStore,
        attempts: Attempts | None = None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._keys = access.keys
        self._control = access.control
        self._open = access.requests
        self._store = store
        self._attempts = attempts or Attempts(
            MemoryAdmission(time.monotonic), ClientAddresses(settings.trusted_proxies)
        )
        self._loopback = settings.loopback
        self._public = urlsplit(settings.public_url or "").hostname

    def check_host(self, request: web.Request) -> None:
        """Reject foreign Host headers on a control plane bound to loopback, against DNS rebinding.

        In development mode, reject what a proxy forwards as well: it may come from anybody. A proxy that adds no header
        cannot be told apart.

        Raises:
            Forbidden: The Host header names another machine (code `foreign_host`), or a proxy forwards the request in
                development mode (code `forwarded`).
        """
        if self._keys.development:
            _reject_forwarded(request)
        if not self._loopback:
            return
        name = _host_name(request.host)
        if name not in ("localhost", self._public) and not _is_loopback(name):
            own = _own_address(request)
            raise Forbidden(
                f"This control plane listens on {own} and does not answer for {request.host[:200]!r}.",
                code="foreign_host",
                hint=f"use {request.scheme}://{own}, or set AGENTFIELD_PUBLIC_URL to the address that callers use",
            )

    def check_origin(self, request: web.Request) -> None:
        """Reject pages of foreign origins; programs send no Origin header.

        Raises:
            Forbidden: The origin is neither the control plane's own nor allowed.
        """
        origin = request.headers.get("Origin")
        if origin is None or origin in self._settings.allowed_origins:
            return
        own = {f"{request.scheme}://{request.host}", (self._settings.public_url or "").rstrip("/")}
        if origin not in own:
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not use this control plane.",
                code="foreign_origin",
                hint=_origin_hint(origin),
            )

    def foreign_origin(self, request: web.Request) -> str | None:
        """Return the request's origin if it is an allowed foreign one; None for own pages and for programs."""
        origin = request.headers.get("Origin")
        return origin if origin in self._settings.allowed_origins else None

    @property
    def shares(self) -> bool:
        """Whether pages of foreign origins may use the control plane."""
        return bool(self._settings.allowed_origins)

    async def admit(
        self, request: web.Request, access: Access, *, watches: bool = False, counts: TokenCount | None = None
    ) -> None:
        """Authenticate the request and check that it may use the route.

        Args:
            request: The request.
            access: Grants of its route.
            watches: Whether a browser token that may only watch may use the route.
            counts: What a use of the route costs a browser token.

        Raises:
            Unauthorized: The credential is missing, unknown, revoked or expired.
            Forbidden: It lacks the scope (code `scope_missing`), or belongs to another session (code `token_scope`).
            NotFound: The path names something that another principal started.
        """
        if "public" in access or "verified" in access:
            # a verified route is checked by its own handler, such as agentfield_server.api.callers.plugin_transports
            request[PRINCIPAL] = PUBLIC
            return
        credential = _credential(request)
        if credential is not None and credential.startswith("ek_af_"):
            await self._admit_token(request, access, credential, watches=watches, counts=counts)
        else:
            await self._admit_key(request, access, credential)

    def _own_origin(self, request: web.Request) -> str:
        return (self._settings.public_url or f"{request.scheme}://{request.host}").rstrip("/")

    def _page(self, request: web.Request) -> str:
        """Return the origin of the page that sends a request, empty for a program.

        Browsers send no Origin with a GET of the same origin, but say that it is one.
        """
        origin = request.headers.get("Origin")
        if origin is None and request.headers.get("Sec-Fetch-Site") == "same-origin":
            return self._own_origin(request)
        return origin or ""

    def stream(self, request: web.Request, access: Access) -> AbstractContextManager[None]:
        """Return a context that holds a stream of an admitted request; links of nodes and transports have limits of their own.

        Raises:
            LimitExceeded: On entry: too many are open (code `too_many_at_once`).
        """
        principal = request[PRINCIPAL]
        if "node" in access or principal.kind in ("public", "transport"):
            return nullcontext()
        return self._attempts.stream(request, principal)

    async def _admit_token(
        self, request: web.Request, access: Access, token: str, *, watches: bool, counts: TokenCount | None
    ) -> None:
        session_id = request.match_info.get("session_id")
        if "token" not in access or session_id is None:
            raise Forbidden(
                "A browser token opens its own session only.",
                code="token_scope",
                hint="use a key here (AGENTFIELD_API_KEY)",
            )
        use = TokenUse(session_id, self._page(request), self._own_origin(request), watches=watches, counts=counts)
        try:
            row = await self._tokens.check(token, use)
        except Unauthorized as error:
            raise self._attempts.refusal(request, error) from None
        request[PRINCIPAL] = Principal(f"session:{session_id}", "token")
        request[DETAILS] = row.details
        await self._admit_session(request, f"session:{session_id}")
        request[CALLER] = row.rights == "caller"

    async def _admit_key(self, request: web.Request, access: Access, credential: str | None) -> None:
        try:
            principal = self._keys.check(credential)
        except Unauthorized as error:
            # none at all is no attempt
            raise (error if credential is None else self._attempts.refusal(request, error)) from None
        if not principal.has_any(access):
            raise _scope_missing(principal, access)
        if principal.sees_all(access):
            self._open.add(Use(principal.id))
        else:
            await require_owned(self._store, request.match_info, principal)
            await self._admit_session(request, principal.id)
        request[PRINCIPAL] = principal

    async def _admit_session(self, request: web.Request, principal_id: str) -> None:
        """Admit the use of the session that the path names, if it names one, by its caller or by who started it."""
        session_id = request.match_info.get("session_id")
        row = None if session_id is None else await self._store.get_session(session_id)
        if row is None:
            self._open.add(Use(principal_id))
            return
        self._control.admit_session(row.principal, row.target)
        self._open.add(Use(principal_id, row.principal, row.target))


def _scope_missing(principal: Principal, access: Access) -> Forbidden:
    needed = [grant for grant in access if grant in ALL_SCOPES]
    has = ", ".join(sorted(principal.scopes)) or "none"
    least = next((scope for scope in needed if scope != "operator"), needed[0])
    return Forbidden(
        f"This needs a key with the scope {' or '.join(needed)}; the key {principal.id.removeprefix('key:')} has {has}.",
        code="scope_missing",
        hint=f"an operator makes such a key with: af keys create --scope {least}",
        scopes=needed,
    )


def _reject_forwarded(request: web.Request) -> None:
    for name in request.headers:
        lowered = name.lower()
        if lowered in _PROXY_HEADERS or lowered.startswith("x-forwarded-"):
            raise Forbidden(
                f"This request comes through a proxy ({name[:40]}), and this control plane needs no key: it serves this "
                "machine only.",
                code="forwarded",
                hint="make a key before others can reach it: af keys create --scope operator",
            )


def _own_address(request: web.Request) -> str:
    """Return the address and port that the request arrived at."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if not isinstance(name, tuple):
        return "127.0.0.1"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _host_name(host: str) -> str:
    """Return the name in a Host header, empty if it has none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _origin_hint(origin: str) -> str:
    serve = "serve the page from the control plane (af dev DIR)"
    if origin == "null":
        return f"{serve}: the page was opened from a file or a sandboxed frame, which has no origin"
    return f"{serve}, or list its origin: AGENTFIELD_ALLOWED_ORIGINS={origin[:200]}"


def _credential(request: web.Request) -> str | None:
    header = request.headers.get("Authorization")
    if header is not None:
        scheme, _, value = header.partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("X-API-Key") or _offered_token(request)


def _offered_token(request: web.Request) -> str | None:
    """Return the token in the offered subprotocols of a media socket: browsers cannot set headers on a WebSocket."""
    if not request.path.endswith("/media") or request.headers.get("Upgrade", "").lower() != "websocket":
        return None
    offered = (name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","))
    return next((name for name in offered if name.startswith("ek_af_")), None)


@functools.lru_cache(256)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
