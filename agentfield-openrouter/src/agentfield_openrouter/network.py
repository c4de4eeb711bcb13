"""Addresses: which may be used for a provider, and which proxy applies."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from agentfield.errors import InvalidInput

__all__ = ["check_base_url", "is_loopback", "proxy_for"]


def check_base_url(url: str, setting: str | None) -> str:
    """Return the address of a provider without a slash at its end.

    Raises:
        InvalidInput: It is not an address over HTTPS; HTTP is accepted on this machine only, the key travels with it.
    """
    parts = urlsplit(url)
    fits = parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)))
    if not fits or parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput(
            f"The address in {setting or 'the settings'} cannot be used: an https:// address is needed "
            "(http:// on this machine only), without user, query or fragment.",
            code="invalid_provider_url",
            hint=f"set {setting} to an address such as https://openrouter.ai/api/v1" if setting else None,
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Tell whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address; None on this machine.

    Done here because aiohttp's own reading of the environment also takes passwords from `.netrc`.
    """
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
