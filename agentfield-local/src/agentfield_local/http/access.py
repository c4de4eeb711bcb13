"""Access control: API keys, short-lived client secrets, and the Host and Origin headers."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from agentfield_local.runtime.clock import Clock
from agentfield_local.wire.refusals import Refusal

__all__ = ["AccessControl", "ClientSecret", "is_loopback", "without_credentials"]

_SUBPROTOCOL_KEY = "openai-insecure-api-key."
_MAX_SECRETS = 10_000
_CREDENTIAL_HEADERS = {"authorization", "sec-websocket-protocol", "cookie"}


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A short-lived key, bound to the session configuration that it opens."""

    value: str
    expires_at: int
    session: Mapping[str, Any]


class AccessControl:
    """Checks the source and the credentials of every request.

    Args:
        key: The API key; None requires none.
        loopback: Whether the server listens on loopback only; then the Host header must name this machine.
        origins: Web origins that may use the server, in addition to those on this machine.
        clock: Clock for the expiry of client secrets.
    """

    def __init__(self, key: str | None, *, loopback: bool, origins: frozenset[str], clock: Clock) -> None:
        self._key = key
        self._loopback = loopback
        self._origins = origins
        self._clock = clock
        self._secrets: dict[str, ClientSecret] = {}

    def check_source(self, request: web.Request) -> None:
        """Reject pages of other sites, and host names that DNS rebinding points at this machine.

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
        """Return a new client secret that is valid for this many seconds.

        Raises:
            Refusal: `rate_limit_exceeded`; too many secrets are valid.
        """
        now = int(self._clock.now())
        self._secrets = {value: secret for value, secret in self._secrets.items() if secret.expires_at > now}
        if len(self._secrets) >= _MAX_SECRETS:
            raise Refusal("Too many client secrets.", code="rate_limit_exceeded", kind="rate_limit_error")
        secret = ClientSecret(f"ek_{secrets.token_urlsafe(32)}", now + seconds, dict(session))
        self._secrets[secret.value] = secret
        return secret

    def identify(self, request: web.Request, *, client_secret: bool) -> ClientSecret | None:
        """Check the credentials of a request and return its client secret, None for the API key.

        Args:
            request: The request.
            client_secret: Whether this route accepts client secrets.

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


def is_loopback(host: str) -> bool:
    """Whether a host name or address, to listen on or from a URL, is this machine's loopback."""
    return host in {"127.0.0.1", "localhost", "::1", "[::1]"}


def without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that carry no credential, so that they can be recorded."""
    return {name: value for name, value in headers.items() if name.lower() not in _CREDENTIAL_HEADERS}


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _given_key(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    # Browsers cannot set headers on a WebSocket: OpenAI's clients pass the key as a subprotocol instead.
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(_SUBPROTOCOL_KEY):
            return protocol.strip().removeprefix(_SUBPROTOCOL_KEY)
    return None
