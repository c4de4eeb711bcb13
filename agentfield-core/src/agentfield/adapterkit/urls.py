"""Base URLs of providers: their check, the matching WebSocket URL, and the proxy."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from agentfield.addresses import split_address
from agentfield.errors import InvalidInput

__all__ = ["check_base_url", "is_loopback", "proxy_for", "socket_url"]


def check_base_url(url: str, setting: str | None, *, example: str | None = None) -> str:
    """Check the base URL of a provider; return it without a trailing slash.

    Args:
        url: The URL.
        setting: The setting that it comes from, such as ``OPENAI_BASE_URL``.
        example: A valid URL for the hint.

    Raises:
        InvalidInput: It is not an HTTPS URL. HTTP is accepted for loopback only, since the key is sent to it.
    """
    try:
        parts = split_address(url)
    except ValueError:
        fits = False
    else:
        secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))
        fits = (
            secure and bool(parts.hostname) and not any((parts.username, parts.password, parts.query, parts.fragment))
        )
    if not fits:
        like = "an https:// address" if example is None else f"an address such as {example}"
        raise InvalidInput(
            f"The address in {setting or 'the settings'} cannot be used: an https:// address is needed "
            "(http:// on this machine only), without user, query or fragment.",
            code="invalid_provider_url",
            hint=f"set {setting} to {like}" if setting else None,
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether a URL certainly refers to this machine.

    Names below ``.localhost`` do not count: a resolver may map them elsewhere, and the key is sent there.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def socket_url(base_url: str) -> str:
    """Return the WebSocket URL that matches an HTTP URL."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(scheme={"https": "wss", "http": "ws"}[parts.scheme]))


def proxy_for(url: str) -> str | None:
    """Return the environment's proxy for a URL, None for loopback.

    aiohttp's `trust_env` is not used, since it also reads passwords from `.netrc`.
    """
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
