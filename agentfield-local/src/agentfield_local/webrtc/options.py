"""Options of WebRTC media: connect timeout, UDP ports, advertised address and jitter buffer."""

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
        connect_seconds: Timeout of ICE and DTLS; afterwards the call is ended as `ice_failed`.
        udp_ports: Lowest and highest UDP port of media, both included; None lets the system choose. A call takes one
            port for each address of this machine.
        advertise: IP address in the SDP answer instead of this machine's own, for a router or container that forwards
            the UDP ports one to one.
        jitter_prefetch: Frames of the caller's audio that are held back before they are processed; 1 adds no delay.

    Raises:
        InvalidInput: A value is out of range; `field` names it.
    """

    connect_seconds: float = 10.0
    udp_ports: tuple[int, int] | None = None
    advertise: str | None = None
    jitter_prefetch: int = 1

    def __post_init__(self) -> None:
        if self.connect_seconds <= 0:
            raise _invalid("connect_seconds", self.connect_seconds, "give a number of seconds above 0")
        if self.udp_ports is not None and not 1024 <= self.udp_ports[0] <= self.udp_ports[1] <= _HIGHEST:
            raise _invalid("udp_ports", self.udp_ports, "give two ports from 1024 to 65535, the lower one first")
        if not 1 <= self.jitter_prefetch <= 32:
            raise _invalid("jitter_prefetch", self.jitter_prefetch, "give a number from 1 to 32")
        if self.advertise is not None:
            try:
                ipaddress.ip_address(self.advertise)
            except ValueError:
                raise _invalid("advertise", self.advertise, "give an IP address, such as 203.0.113.7") from None


def parse_ports(text: str) -> tuple[int, int]:
    """Return the port range of a text `LOW-HIGH`.

    Raises:
        InvalidInput: The text has another form.
    """
    low, _, high = text.partition("-")
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise _invalid("udp_ports", text, "give two ports with a dash, such as 50000-50100")
    return int(low), int(high)


def _invalid(field: str, value: object, hint: str) -> InvalidInput:
    return InvalidInput(f"{field} cannot be {value!r}", hint=hint, field=field)
