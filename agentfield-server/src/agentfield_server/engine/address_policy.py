"""Policy for outbound requests to addresses of users: public internet only, unless a host or network is listed.

An address is checked when it is given and again at each connection, with what its name resolves to then: this prevents
server-side request forgery (SSRF) by DNS rebinding. Redirects are not followed, and no proxy is used.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agentfield.addresses import split_address
from agentfield.errors import InvalidInput

__all__ = ["AddressPolicy", "outbound_session"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressPolicy:
    """Decides which addresses may be requested.

    Args:
        listed: Addresses beyond the public internet: host names, addresses, or networks such as ``10.0.0.0/8``.

    Raises:
        InvalidInput: An entry is neither a host nor a network.
    """

    def __init__(self, listed: Sequence[str] = ()) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in listed:
            try:
                self._networks.append(ipaddress.ip_network(each))
            except ValueError:
                if "/" in each or not each.strip():
                    raise InvalidInput(
                        f"{each!r} is neither a host nor a network.",
                        hint="AGENTFIELD_WEBHOOK_ALLOW=10.0.0.0/8,hooks.internal",
                    ) from None
                self._names.add(each.lower())

    def address(self, address: Address, host: str = "") -> bool:
        """Return whether a connection to an address is allowed, for a host of that name."""
        if host.lower().rstrip(".") in self._names:
            return True
        real = _real(address)
        if any(real in network for network in self._networks if network.version == real.version):
            return True
        return real.is_global and not real.is_multicast

    def check_url(self, url: str) -> None:
        """Check a URL of a user.

        Raises:
            InvalidInput: It is not allowed (code `forbidden_address`).
        """
        try:
            parts = split_address(url)
        except ValueError as error:
            raise _forbidden(str(error)) from None
        host = parts.hostname or ""
        literal = _literal(host)
        listed = host.lower() in self._names or (literal is not None and self.address(literal) and not _public(literal))
        if parts.scheme not in ("https", "http") or not host or parts.username or parts.password or parts.fragment:
            why = "an https:// address without user or fragment is needed"
        elif literal is not None and not self.address(literal):
            why = f"{host} is not on the public internet"
        elif parts.scheme == "http" and not listed:
            why = "http:// can be read on its way"
        elif "." not in host and ":" not in host and not listed:
            why = f"{host} is a name of this machine or network"
        else:
            return
        raise _forbidden(why)


def outbound_session(allowed: AddressPolicy, *, seconds: float, at_once: int) -> aiohttp.ClientSession:
    """Return an HTTP session that connects to allowed addresses only.

    Args:
        allowed: The policy.
        seconds: Timeout of a whole request.
        at_once: Maximum number of connections.
    """
    connector = aiohttp.TCPConnector(
        resolver=_FilteringResolver(allowed), limit=at_once, use_dns_cache=False, force_close=True
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class _FilteringResolver(AbstractResolver):
    """Resolves host names to allowed addresses; aiohttp does not resolve literal addresses, `check_url` covers those."""

    def __init__(self, allowed: AddressPolicy) -> None:
        self._allowed = allowed
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of a host.

        Raises:
            OSError: It has none.
        """
        found = await self._resolver.resolve(host, port, family)
        fit = [
            each for each in found if self._allowed.address(ipaddress.ip_address(each["host"].partition("%")[0]), host)
        ]
        if not fit:
            raise OSError(f"{host} is not on the public internet")
        return fit

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


def _forbidden(why: str) -> InvalidInput:
    return InvalidInput(
        f"The address cannot be used: {why}.",
        code="forbidden_address",
        hint="use a public https:// address, or list the host in AGENTFIELD_WEBHOOK_ALLOW",
        field="url",
    )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _real(address: Address) -> Address:
    """Return the IPv4 address that is embedded in an IPv6 address (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    real = _real(address)
    return real.is_global and not real.is_multicast
