"""ICE of a peer connection: UDP ports from a range, the advertised address, loopback only, and release after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import aioice.ice
from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol
from aiortc import RTCDtlsTransport, RTCPeerConnection

from agentfield_local.wire.refusals import Refusal

__all__ = ["UdpPortRange", "gather_on_ports", "release_transports", "restrict_to_loopback", "with_address"]

_LOOPBACK = "127.0.0.1"


class UdpPortRange:
    """A range of UDP ports, used in turn: a port that was just freed may still receive packets of the call before.

    Args:
        low: The lowest port.
        high: The highest port.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._count = high - low + 1
        self._next = 0

    def __iter__(self) -> Iterator[int]:
        """Yield every port once, beginning after the last one that was tried."""
        for _ in range(self._count):
            self._next = (self._next + 1) % self._count
            yield self._low + self._next


def gather_on_ports(peer: RTCPeerConnection, ports: UdpPortRange) -> None:
    """Make a connection gather on these ports; call it after the offer is set and before gathering.

    aioice binds to any free port and has no setting for it. Each of its connections gathers with one method, which is
    replaced on the connections of this peer only.
    """
    for transport in _transports(peer):
        connection = transport.transport.iceGatherer._connection  # noqa: SLF001 - there is no other way
        connection.get_component_candidates = partial(_candidates, connection, ports)  # type: ignore[method-assign]


def release_transports(peer: RTCPeerConnection) -> None:
    """Break the reference cycles of a closed connection, so that its memory is freed at once.

    aiortc removes the listeners of the connection, but not those of its transports, which refer back to it; aioice keeps
    the candidate pairs, which refer to their connection. Codecs, packets and sockets of every call would otherwise stay
    until a full garbage collection, which is rare in a process that only carries audio.
    """
    for transport in _transports(peer):
        ice = transport.transport
        for emitter in (transport, ice, ice.iceGatherer):
            emitter.remove_all_listeners()
        ice.iceGatherer._connection._check_list.clear()  # noqa: SLF001 - `close` leaves it
    if peer.sctp is not None:
        peer.sctp.remove_all_listeners()


def _transports(peer: RTCPeerConnection) -> list[RTCDtlsTransport]:
    # aiortc gives the media no transport where the group of an offer names an m-line that it does not have
    found = [each.sender.transport for each in peer.getTransceivers() if each.sender.transport is not None]
    if peer.sctp is not None and peer.sctp.transport is not None:
        found.append(peer.sctp.transport)
    return found


async def _candidates(
    connection: Connection,
    ports: UdpPortRange,
    component: int,
    addresses: list[str],
    timeout: int = 5,  # noqa: ASYNC109 - the library's own signature
) -> list[Candidate]:
    """Return a host candidate for each address (RFC 8445, section 5.1.1.1).

    Raises:
        Refusal: `overloaded`; no port of the range is free.
    """
    del timeout
    candidates = []
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
        connection._protocols.append(protocol)  # noqa: SLF001 - aioice keeps its bound protocols there
        candidates.append(protocol.local_candidate)
    return candidates


async def _bind(connection: Connection, address: str, ports: UdpPortRange) -> StunProtocol:
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


def with_address(sdp: str, address: str) -> str:
    """Return an SDP whose host candidates and connection lines have this address (RFC 8839, section 5.1)."""
    return "".join(_line_with_address(line, address) for line in sdp.splitlines(keepends=True))


def _line_with_address(line: str, address: str) -> str:
    family = "IP6" if ":" in address else "IP4"
    if line.startswith("c=IN "):
        return f"c=IN {family} {address}\r\n"
    if not line.startswith("a=candidate:"):
        return line
    fields = line.split(" ")
    fields[4] = address
    return " ".join(fields)


def restrict_to_loopback() -> None:
    """Gather 127.0.0.1 as the only ICE address, for the whole process and until its end.

    aioice skips loopback addresses and has no setting for it, so its look-up of addresses is replaced: a machine whose
    only interface is `lo` can take calls. Call it only in a process that serves loopback only, never on import.
    """

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        del use_ipv6
        return [_LOOPBACK] if use_ipv4 else []

    aioice.ice.get_host_addresses = addresses
