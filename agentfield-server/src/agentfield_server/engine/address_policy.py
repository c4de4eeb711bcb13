"""Policy for outbound requests to addresses of users: public internet only, unless a host or network is listed.

An address is checked when it is given, in the form in which it is requested (a host in full-width digits is an IP address),
and again at each connection, with the address that is connected to: this prevents server-side request forgery (SSRF) by DNS
rebinding. Redirects are not followed, and no proxy is used.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agentfield.addresses import split_address
from agentfield.errors import InvalidInput

__all__ = ["AddressPolicy", "outbound_session"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Info = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The public IPv6 addresses; all others are special, or not assigned (IANA IPv6 global unicast address assignments)."""
_REMEMBERED = 1000
_MAX_LABEL = 63
"""Characters between two dots of a host (RFC 1035)."""
_SPECIAL = tuple(
    ipaddress.ip_network(each)
    for each in (
        # IANA special-purpose registries (RFC 6890): ranges that `is_global` of Python 3.11 takes for public, in part or whole
        "192.0.0.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.175.48.0/24",
        "2001::/23",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


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
        return any(
            network.version == each.version and each in network
            for each in (address, _real(address))
            for network in self._networks
        ) or (_public(address))

    def check_url(self, url: str) -> URL:
        """Check a URL of a user, and return it as it is requested.

        Raises:
            InvalidInput: It is not allowed (code `forbidden_address`).
        """
        try:
            given = split_address(url).hostname or ""
            parts = _encoded(url)
        except ValueError as error:
            raise _forbidden(str(error)) from None
        host = (parts.host or "").rstrip(".")
        literal = _literal(host)
        listed = host in self._names or (literal is not None and self.address(literal) and not _public(literal))
        if parts.scheme not in ("https", "http") or not host or parts.user or parts.password or parts.fragment:
            why = "an https:// address without user or fragment is needed"
        elif literal is not None and not self.address(literal):
            why = f"{host if _literal(given) is None else given} is not on the public internet"
        elif parts.scheme == "http" and not listed:
            why = "http:// can be read on its way"
        elif "." not in host and ":" not in host and not listed:
            why = f"{host} is a name of this machine or network"
        else:
            return parts
        raise _forbidden(why)


def outbound_session(allowed: AddressPolicy, *, seconds: float, at_once: int) -> aiohttp.ClientSession:
    """Return an HTTP session that connects to allowed addresses only.

    Args:
        allowed: The policy.
        seconds: Timeout of a whole request.
        at_once: Maximum number of connections.
    """
    resolver = _FilteringResolver(allowed)
    connector = aiohttp.TCPConnector(
        resolver=resolver, limit=at_once, use_dns_cache=False, force_close=True, socket_factory=resolver.socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class _FilteringResolver(AbstractResolver):
    """Resolves host names to allowed addresses, and makes sockets for allowed addresses: literal ones are not resolved."""

    def __init__(self, allowed: AddressPolicy) -> None:
        self._allowed = allowed
        self._resolver = aiohttp.ThreadedResolver()
        self._found: OrderedDict[Address, None] = OrderedDict()
        """The last addresses of names; those of a listed name may be private."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the allowed addresses of a host.

        Raises:
            OSError: It has none.
        """
        found = await self._resolver.resolve(host, port, family)
        fit = [each for each in found if self._allowed.address(_plain(each["host"]), host)]
        if not fit:
            raise OSError(f"{host} is not on the public internet")
        for each in fit:
            self._found[_plain(each["host"])] = None
        while len(self._found) > _REMEMBERED:
            self._found.popitem(last=False)
        return fit

    def socket(self, info: _Info) -> socket.socket:
        """Return a socket for a connection to an address.

        Raises:
            OSError: The address is not allowed.
        """
        family, kind, protocol, _, to = info
        address = _plain(str(to[0]))
        if address not in self._found and not self._allowed.address(address):
            raise OSError(f"{address} is not on the public internet")
        return socket.socket(family, kind, protocol)

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


def _encoded(url: str) -> URL:
    """Return a URL as it is requested: its host as the IDNA form of its name, or as the literal that it normalises to.

    Raises:
        ValueError: It cannot be encoded.
    """
    try:
        parts = URL(url)
        str(parts).encode("ascii")  # as it is sent
        _ = parts.host  # as aiohttp reads it: a broken `xn--` label cannot be decoded
    except ValueError:  # also UnicodeError
        raise ValueError("it cannot be encoded") from None
    if any(not 1 <= len(label) <= _MAX_LABEL for label in (parts.raw_host or "").rstrip(".").split(".")) and (
        _literal(parts.raw_host or "") is None
    ):
        raise ValueError("its host is malformed")
    return parts


def _literal(host: str) -> Address | None:
    try:
        return _plain(host)
    except ValueError:
        return None


def _plain(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])


def _real(address: Address) -> Address:
    """Return the IPv4 address that is embedded in an IPv6 address (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _MAPPED or address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _public(address: Address) -> bool:
    """Return whether an address is on the public internet; one that embeds an IPv4 address is as public as that one."""
    real = _real(address)
    if not real.is_global or real.is_multicast or real.is_reserved:
        return False
    if any(network.version == real.version and real in network for network in _SPECIAL):
        return False
    return real.version == 4 or real in _UNICAST
