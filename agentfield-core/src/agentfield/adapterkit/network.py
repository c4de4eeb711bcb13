"""Addresses: which may be used for a provider, how WebSocket addresses follow from them, which proxy applies."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from agentfield.errors import InvalidInput

__all__ = ["check_base_url", "is_loopback", "proxy_for", "socket_url"]


def check_base_url(url: str, setting: str | None, *, example: str | None = None) -> str:
    """Return the address of a provider without a slash at its end.

    Args:
        url: The address.
        setting: Where it comes from, such as ``OPENAI_BASE_URL``.
        example: An address that would do, for the hint.

    Raises:
        InvalidInput: It is not an address over HTTPS; HTTP is accepted on this machine only, the key travels with it.
    """
    parts = urlsplit(url)
    fits = parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)))
    if not fits or parts.username or parts.password or parts.query or parts.fragment:
        like = "an https:// address" if example is None else f"an address such as {example}"
        raise InvalidInput(
            f"The address in {setting or 'the settings'} cannot be used: an https:// address is needed "
            "(http:// on this machine only), without user, query or fragment.",
            code="invalid_provider_url",
            hint=f"set {setting} to {like}" if setting else None,
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Tell whether an address is on this machine for sure.

    Names below ``.localhost`` do not count: a resolver may send them elsewhere, and a key travels to such an address.
    """
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def socket_url(base_url: str) -> str:
    """Return the WebSocket address that belongs to an HTTP address."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(scheme={"https": "wss", "http": "ws"}[parts.scheme]))


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address; None on this machine.

    Done here because aiohttp's own reading of the environment also takes passwords from `.netrc`.
    """
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
