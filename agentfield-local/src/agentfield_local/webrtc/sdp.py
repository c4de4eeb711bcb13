"""SDP gate in front of aiortc, whose parser validates nothing: plain audio offers only, with permitted candidates."""

from __future__ import annotations

import ipaddress

from agentfield.errors import InvalidInput
from agentfield.realtime.sdp import MAX_SDP, Candidate, gate_sdp, read_candidate
from agentfield_local.wire.refusals import Refusal

__all__ = ["MAX_SDP", "check_offer"]

_MAX_NAMES = 8
_LOOPBACK = ipaddress.ip_address("127.0.0.1")


def check_offer(offer: bytes, *, loopback: bool) -> str:
    """Return an offer that aiortc may parse, without the candidates that this server must not send to.

    Args:
        offer: The request body.
        loopback: Whether media is bound to 127.0.0.1; then only that address is kept, otherwise it is removed.

    Raises:
        Refusal: `invalid_offer`, with the reason.
    """
    try:
        lines = gate_sdp(offer.decode("utf-8")).split("\r\n")
    except UnicodeDecodeError:
        raise Refusal("The SDP offer is refused: it is not UTF-8.", code="invalid_offer", param="sdp") from None
    except InvalidInput as error:
        raise Refusal(error.message, code="invalid_offer", param="sdp") from None
    return "\r\n".join(_without_excess_names([line for line in lines if _is_permitted(line, loopback=loopback)]))


def _is_permitted(line: str, *, loopback: bool) -> bool:
    if line.startswith("a=candidate:"):
        return _usable(read_candidate(line), loopback=loopback)
    return line != "a=end-of-candidates"


def _without_excess_names(lines: list[str]) -> list[str]:
    """Drop the mDNS names beyond `_MAX_NAMES`: aioice asks the network for one after another, a second each."""
    names = [line for line in lines if line.startswith("a=candidate:") and read_candidate(line).address is None]
    excess = set(names[_MAX_NAMES:])
    return [line for line in lines if line not in excess]


def _usable(candidate: Candidate, *, loopback: bool) -> bool:
    address = candidate.address
    if candidate.transport != "udp":
        return False
    if address is None:
        return not loopback
    return address == _LOOPBACK if loopback else not address.is_loopback
