"""Lets this process's WebRTC use 127.0.0.1 and nothing else, so that a machine with only `lo` up can take a call."""

from __future__ import annotations

import aioice.ice

__all__ = ["LOOPBACK", "is_loopback", "only_loopback"]

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether a host to bind or to name is this machine's own."""
    return host in {LOOPBACK, "localhost", "::1", "[::1]"}


def only_loopback() -> None:
    """Offer 127.0.0.1 as the only ICE address, for the whole process.

    The ICE library never offers loopback addresses and has no setting for it, so its look-up is replaced. It is a
    decision for a process that serves loopback only; the server's start makes it, an import never does.
    """

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        del use_ipv6
        return [LOOPBACK] if use_ipv4 else []

    aioice.ice.get_host_addresses = addresses
