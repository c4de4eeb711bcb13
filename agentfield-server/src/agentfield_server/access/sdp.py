"""The gate for SDP offers: nothing reaches a provider or a parser that is not a plain audio call (RFC 8866, RFC 8829)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from agentfield.errors import InvalidInput

__all__ = ["MAX_SDP", "gate_sdp"]

MAX_SDP = 16 * 1024
"""Bytes of an offer; a browser's has about 2.4 kB."""

_MAX_LINES = 400
_MAX_LINE = 1024
_MAX_CANDIDATES = 32
_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")
_FINGERPRINT = re.compile(r"a=fingerprint:sha-256 ([0-9A-F]{2}:){31}[0-9A-F]{2}", re.IGNORECASE)
_UFRAG = re.compile(r"a=ice-ufrag:[A-Za-z0-9+/]{4,256}")
_PWD = re.compile(r"a=ice-pwd:[A-Za-z0-9+/]{22,256}")
_MDNS = re.compile(r"[0-9A-Za-z-]{1,63}\.local")
_ADDRESS_FIELD = 4


def gate_sdp(offer: str) -> str:
    """Return the offer with CRLF line ends, or refuse it.

    Raises:
        InvalidInput: With code `bad_sdp` and the rule that it breaks; the offer's text is not repeated.
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
    return "\r\n".join(lines) + "\r\n"


def _check_lines(lines: list[str]) -> None:
    if lines[0] != "v=0":
        raise _refusal("it does not begin with v=0")
    if len(lines) > _MAX_LINES:
        raise _refusal(f"it has more than {_MAX_LINES} lines")
    for line in lines:
        if len(line) > _MAX_LINE or not _LINE.fullmatch(line):
            raise _refusal("it has a line that is no SDP line")


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
    for address in _addresses(candidates):
        if _MDNS.fullmatch(address):
            continue
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            raise _refusal("a candidate's address is neither an IP address nor an mDNS name") from None
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
            raise _refusal("a candidate's address is link-local, multicast or unspecified")


def _addresses(candidates: list[str]) -> Iterator[str]:
    for line in candidates:
        fields = line.split(" ")
        if len(fields) <= _ADDRESS_FIELD + 1:
            raise _refusal("a candidate line is incomplete")
        yield fields[_ADDRESS_FIELD]


def _refusal(why: str) -> InvalidInput:
    return InvalidInput(
        f"The SDP offer is refused: {why}.",
        code="bad_sdp",
        hint="send the localDescription.sdp of a peer connection with one audio track and the data channel 'oai-events'",
    )
