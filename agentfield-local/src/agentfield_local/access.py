"""Who may talk to the server: keys, short-lived client secrets, Host and Origin."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from agentfield_local.clock import Clock
from agentfield_local.refusals import Refusal
from agentfield_local.webrtc.loopback import is_loopback

__all__ = ["Access", "ClientSecret"]

_SUBPROTOCOL_KEY = "openai-insecure-api-key."
_MAX_SECRETS = 10_000


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A short-lived key with the session that it opens."""

    value: str
    expires_at: int
    session: Mapping[str, Any]


class Access:
    """Checks of every request.

    Args:
        key: The key that is required; None requires none.
        loopback: Whether only this machine can connect; then Host must name it.
        origins: Web origins that may use the server, beside those on this machine.
        clock: For the end of client secrets.
    """

    def __init__(self, key: str | None, *, loopback: bool, origins: frozenset[str], clock: Clock) -> None:
        self._key = key
        self._loopback = loopback
        self._origins = origins
        self._clock = clock
        self._secrets: dict[str, ClientSecret] = {}

    def check_source(self, request: web.Request) -> None:
        """Refuse a page of another site and a name that was rebound to this machine.

        Raises:
            Refusal: `forbidden`.
        """
        if self._loopback and not is_loopback(_host(f"//{request.headers.get('Host', '')}")):
            raise Refusal("The Host header does not name this machine.", code="forbidden")
        origin = request.headers.get("Origin")
        if origin is not None and not self.allows_origin(origin):
            raise Refusal("This web origin may not use the server.", code="forbidden")

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of this origin may use the server."""
        return origin in self._origins or is_loopback(_host(origin))

    def mint(self, session: Mapping[str, Any], seconds: int) -> ClientSecret:
        """Make a client secret that lives so many seconds."""
        now = int(self._clock.now())
        self._secrets = {value: kept for value, kept in self._secrets.items() if kept.expires_at > now}
        if len(self._secrets) >= _MAX_SECRETS:
            raise Refusal("Too many client secrets.", code="rate_limit_exceeded", kind="rate_limit_error")
        secret = ClientSecret(f"ek_{secrets.token_urlsafe(32)}", now + seconds, dict(session))
        self._secrets[secret.value] = secret
        return secret

    def identify(self, request: web.Request, *, client_secret: bool) -> ClientSecret | None:
        """Return the client secret that a request came with, None for the standard key.

        Args:
            request: The request.
            client_secret: Whether a client secret is enough here.

        Raises:
            Refusal: `invalid_api_key`.
        """
        given = _given_key(request)
        found = self._secrets.get(given or "")
        if found is not None and client_secret and found.expires_at > self._clock.now():
            return found
        if self._key is None and (given is None or not given.startswith("ek_")):
            return None
        if self._key is not None and given is not None and hmac.compare_digest(given.encode(), self._key.encode()):
            return None
        raise Refusal("Incorrect API key provided.", code="invalid_api_key")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _given_key(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(_SUBPROTOCOL_KEY):
            return protocol.strip().removeprefix(_SUBPROTOCOL_KEY)
    return None
