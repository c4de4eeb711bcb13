"""Where media is received: UDP ports of a range, and the address that callers are told in the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCPeerConnection

from agentfield_local.refusals import Refusal

__all__ = ["UdpPorts", "advertise", "gather_from"]


class UdpPorts:
    """A range of ports, taken in turns so that one that was just freed rests for a while.

    Args:
        low: The lowest port.
        high: The highest port.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._count = high - low + 1
        self._next = 0

    def __iter__(self) -> Iterator[int]:
        """Yield every port once, beginning after the last one that was looked at."""
        for _ in range(self._count):
            self._next = (self._next + 1) % self._count
            yield self._low + self._next


def gather_from(peer: RTCPeerConnection, ports: UdpPorts) -> None:
    """Let a connection that has its offer, and has not gathered yet, gather on these ports.

    The library binds to any free port and has no setting for it; each of its ICE connections is asked for its
    candidates by one method, which is replaced on the connections of this peer alone.
    """
    transports = [transceiver.sender.transport for transceiver in peer.getTransceivers()]
    if peer.sctp is not None:
        transports.append(peer.sctp.transport)
    for transport in transports:
        connection = transport.transport.iceGatherer._connection  # noqa: SLF001 - there is no other way
        connection.get_component_candidates = partial(_candidates, connection, ports)  # type: ignore[method-assign]


async def _candidates(
    connection: Connection,
    ports: UdpPorts,
    component: int,
    addresses: list[str],
    timeout: int = 5,  # noqa: ASYNC109 - the library's own signature
) -> list[Candidate]:
    """Return a host candidate for each address (RFC 8445, section 5.1.1.1).

    Raises:
        Refusal: `overloaded`; every port of the range is taken.
    """
    del timeout
    found = []
    for address in addresses:
        protocol = await _bind(connection, address, ports)
        host, port = protocol.transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        connection._protocols.append(protocol)  # noqa: SLF001 - where the library keeps what it has bound
        found.append(protocol.local_candidate)
    return found


async def _bind(connection: Connection, address: str, ports: UdpPorts) -> StunProtocol:
    loop = asyncio.get_running_loop()
    for port in ports:
        try:
            _, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, port)
            )
        except OSError:
            continue
        return protocol
    raise Refusal("No UDP port is free for another call.", code="overloaded", kind="server_error")


def advertise(sdp: str, address: str) -> str:
    """Return an answer whose host candidates and connection lines name this address (RFC 8839, section 5.1)."""
    return "".join(_renamed(line, address) for line in sdp.splitlines(keepends=True))


def _renamed(line: str, address: str) -> str:
    family = "IP6" if ":" in address else "IP4"
    if line.startswith("c=IN "):
        return f"c=IN {family} {address}\r\n"
    if not line.startswith("a=candidate:"):
        return line
    fields = line.split(" ")
    fields[4] = address
    return " ".join(fields)
