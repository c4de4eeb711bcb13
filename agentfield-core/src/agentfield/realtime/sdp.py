"""Gate for SDP: only the offer of a plain audio call reaches a provider, and only such an answer a caller (RFC 8866, RFC 8829)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentfield.errors import InvalidInput, ProviderError

__all__ = ["MAX_SDP", "Candidate", "gate_answer", "gate_sdp", "read_candidate"]

MAX_SDP = 64 * 1024
"""Bytes of an offer; a browser's has about 2.4 kB, and 100 for each candidate."""

_MAX_LINES = 800
_MAX_LINE = 1024
_MAX_CANDIDATES = 128
"""Most candidates; a machine with many networks, VPNs and relays has more than 32."""
_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")
_FINGERPRINT = re.compile(r"a=fingerprint:sha-256 ([0-9A-F]{2}:){31}[0-9A-F]{2}", re.IGNORECASE)
_UFRAG = re.compile(r"a=ice-ufrag:[A-Za-z0-9+/]{4,256}")
_PWD = re.compile(r"a=ice-pwd:[A-Za-z0-9+/]{22,256}")
_MDNS = re.compile(r"[0-9A-Za-z-]{1,63}\.local")
_CANDIDATE = re.compile(
    r"a=candidate:[A-Za-z0-9+/]{1,32} [12] (?P<transport>udp|tcp) \d{1,10} (?P<host>\S{1,255}) (?P<port>\d{1,5})"
    r" typ (?:host|srflx|prflx|relay)(?: .*)?",
    re.IGNORECASE,
)
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ICE candidate of an offer (RFC 8839)."""

    transport: str
    """``udp`` or ``tcp``."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    """None for an mDNS name, which only the offerer's local network can resolve."""


def gate_sdp(offer: str) -> str:
    """Validate an offer and return it with CRLF line ends and without unreachable candidates.

    Link-local addresses are dropped rather than refused, because browsers offer those of idle network cards.

    Raises:
        InvalidInput: With code `bad_sdp` and the violated rule; the offer's text is not repeated.
    """
    if len(offer.encode()) > MAX_SDP:
        raise _refusal(f"it is larger than {MAX_SDP} bytes")
    lines = offer.replace("\r\n", "\n").rstrip("\n").split("\n")
    _check_lines(lines)
    _check_media([line for line in lines if line.startswith("m=")])
    if not any(_FINGERPRINT.fullmatch(line) for line in lines):
        raise _refusal("it has no sha-256 fingerprint")
    if not any(_UFRAG.fullmatch(line) for line in lines) or not any(_PWD.fullmatch(line) for line in lines):
        raise _refusal("it has no ICE credentials")
    _check_candidates([line for line in lines if line.startswith("a=candidate:")])
    return "\r\n".join(line for line in lines if not _is_unreachable(line)) + "\r\n"


def gate_answer(answer: str, secrets: Iterable[str] = (), *, ref: Iterable[str] = ()) -> str:
    """Validate the answer of a provider as offers are validated, and return it as `gate_sdp` does.

    Args:
        answer: The SDP answer.
        secrets: Texts that it must not hold, such as the provider's key.
        ref: Further texts of the provider that must not hold them: the reference to the call, which is stored.

    Raises:
        ProviderError: With the provider code `invalid_answer` and the violated rule; the answer's text is not repeated.
    """
    try:
        if any(secret and secret in text for secret in secrets for text in (answer, *ref)):
            raise _refusal("it holds a secret of the control plane")
        return gate_sdp(answer)
    except InvalidInput as error:
        why = error.message.partition(": ")[2]
        raise ProviderError(
            f"The SDP answer of the provider is refused: {why}",
            hint="try the call again",
            provider_code="invalid_answer",
        ) from None


def _check_lines(lines: list[str]) -> None:
    if lines[0] != "v=0":
        raise _refusal("it does not begin with v=0")
    if len(lines) > _MAX_LINES:
        raise _refusal(f"it has more than {_MAX_LINES} lines")
    for line in lines:
        if len(line) > _MAX_LINE or not _LINE.fullmatch(line):
            raise _refusal("it has a line that is not an SDP line")


def _check_media(media: list[str]) -> None:
    kinds = [line[2:].split(" ", 1)[0] for line in media]
    if sorted(kinds) not in (["audio"], ["application", "audio"]):
        raise _refusal("it must have one audio section and at most one data channel section")
    for line, kind in zip(media, kinds, strict=True):
        protocol = line.split(" ")[2] if line.count(" ") >= 3 else ""
        wanted = {"audio": ("UDP/TLS/RTP/SAVPF",), "application": ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP")}[kind]
        if protocol not in wanted:
            raise _refusal(f"its {kind} section is not protected by DTLS")


def _check_candidates(candidates: list[str]) -> None:
    if len(candidates) > _MAX_CANDIDATES:
        raise _refusal(f"it has more than {_MAX_CANDIDATES} candidates")
    for line in candidates:
        read_candidate(line)


def read_candidate(line: str) -> Candidate:
    """Parse an ``a=candidate:`` line.

    Raises:
        InvalidInput: The line is malformed, or names a host instead of an address.
    """
    found = _CANDIDATE.fullmatch(line)
    if found is None or int(found["port"]) > _MAX_PORT:
        raise _refusal("a candidate line is malformed")
    transport = found["transport"].lower()
    if _MDNS.fullmatch(found["host"]):
        return Candidate(transport, None)
    try:
        address = ipaddress.ip_address(found["host"])
    except ValueError:
        raise _refusal("a candidate's address is neither an IP address nor an mDNS name") from None
    return Candidate(transport, getattr(address, "ipv4_mapped", None) or address)


def _is_unreachable(line: str) -> bool:
    if not line.startswith("a=candidate:"):
        return False
    address = read_candidate(line).address
    return address is not None and (address.is_link_local or address.is_multicast or address.is_unspecified)


def _refusal(why: str) -> InvalidInput:
    return InvalidInput(
        f"The SDP offer is refused: {why}.",
        code="bad_sdp",
        hint="send the localDescription.sdp of a peer connection with one audio track and the data channel 'oai-events'",
    )
