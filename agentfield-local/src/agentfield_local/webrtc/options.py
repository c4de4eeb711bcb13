"""How calls reach this machine: how long a connection may take, which UDP ports, which address callers are told."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from agentfield.errors import InvalidInput

__all__ = ["MediaOptions", "parse_ports"]

_HIGHEST = 65_535


@dataclass(frozen=True, slots=True)
class MediaOptions:
    """Settings of WebRTC media.

    Args:
        connect_seconds: How long ICE and DTLS may take before the call is ended as `ice_failed`.
        udp_ports: Lowest and highest UDP port of media, both included; None lets the system choose. A call takes one
            port for each address of this machine.
        advertise: The IP address that callers are told in place of this machine's own, where a router or a container
            forwards the UDP ports one to one.
        jitter_prefetch: Frames of the caller's sound that are held back before they are heard; 1 adds no delay.

    Raises:
        InvalidInput: A value cannot be used; `field` says which.
    """

    connect_seconds: float = 10.0
    udp_ports: tuple[int, int] | None = None
    advertise: str | None = None
    jitter_prefetch: int = 1

    def __post_init__(self) -> None:
        if self.connect_seconds <= 0:
            raise _wrong("connect_seconds", self.connect_seconds, "give a number of seconds above 0")
        if self.udp_ports is not None and not 1024 <= self.udp_ports[0] <= self.udp_ports[1] <= _HIGHEST:
            raise _wrong("udp_ports", self.udp_ports, "give two ports from 1024 to 65535, the lower one first")
        if not 1 <= self.jitter_prefetch <= 32:
            raise _wrong("jitter_prefetch", self.jitter_prefetch, "give a number from 1 to 32")
        if self.advertise is not None:
            try:
                ipaddress.ip_address(self.advertise)
            except ValueError:
                raise _wrong("advertise", self.advertise, "give an IP address, such as 203.0.113.7") from None


def parse_ports(text: str) -> tuple[int, int]:
    """Return the ports of `LOW-HIGH`.

    Raises:
        InvalidInput: It is no such range.
    """
    low, _, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise _wrong("udp_ports", text, "give two ports with a dash, such as 50000-50100")
    return int(low), int(high)


def _wrong(field: str, value: object, hint: str) -> InvalidInput:
    return InvalidInput(f"{field} cannot be {value!r}", hint=hint, field=field)
