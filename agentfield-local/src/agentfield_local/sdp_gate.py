"""The gate before the WebRTC library, whose SDP parser checks nothing: what is not plainly an audio offer is refused."""

from __future__ import annotations

import ipaddress
import re

from agentfield_local.refusals import Refusal

__all__ = ["MAX_SDP_BYTES", "check_offer"]

MAX_SDP_BYTES = 16 * 1024
_MAX_LINES = 400
_MAX_LINE = 1024
_MAX_CANDIDATES = 32
_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")
_FINGERPRINT = re.compile(r"a=fingerprint:sha-256 (?:[0-9A-F]{2}:){31}[0-9A-F]{2}", re.IGNORECASE)
_UFRAG = re.compile(r"a=ice-ufrag:[A-Za-z0-9+/=_-]{4,256}")
_PWD = re.compile(r"a=ice-pwd:[A-Za-z0-9+/=_-]{22,256}")
_CANDIDATE = re.compile(
    r"a=candidate:[A-Za-z0-9+/]{1,32} [12] (?P<transport>udp|tcp) \d{1,10} (?P<host>\S{1,255}) (?P<port>\d{1,5})"
    r" typ (?P<kind>host|srflx|prflx|relay)(?: .*)?",
    re.IGNORECASE,
)
_MDNS = re.compile(r"[0-9A-Fa-f-]{1,63}\.local")
_AUDIO = re.compile(r"m=audio \d{1,5} UDP/TLS/RTP/SAVPF?(?: \d{1,3}){1,32}")
_APPLICATION = re.compile(r"m=application \d{1,5} (?:UDP/)?DTLS/SCTP \S{1,32}")


def check_offer(offer: bytes, *, loopback: bool) -> str:
    """Return an offer that may be parsed, without the candidates that this server must not send to.

    Args:
        offer: The body as it came.
        loopback: Whether media is bound to 127.0.0.1; then only that address is kept, else it is the first to go.

    Raises:
        Refusal: `invalid_offer`, with the reason.
    """
    lines = _lines(offer)
    sections = [line for line in lines if line.startswith("m=")]
    audio = [line for line in sections if _AUDIO.fullmatch(line)]
    application = [line for line in sections if _APPLICATION.fullmatch(line)]
    if len(audio) != 1 or len(audio) + len(application) != len(sections) or len(application) > 1:
        raise _refused("it must have one m=audio section and at most one m=application section for a data channel")
    for pattern, what in ((_FINGERPRINT, "sha-256 fingerprint"), (_UFRAG, "ice-ufrag"), (_PWD, "ice-pwd")):
        if not any(pattern.fullmatch(line) for line in lines):
            raise _refused(f"it has no valid {what}")
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    if len(candidates) > _MAX_CANDIDATES:
        raise _refused(f"it has more than {_MAX_CANDIDATES} candidates")
    unusable = {line for line in candidates if not _usable(line, loopback=loopback)}
    kept = [line for line in lines if line not in unusable and line != "a=end-of-candidates"]
    return "\r\n".join(kept) + "\r\n"


def _lines(offer: bytes) -> list[str]:
    if len(offer) > MAX_SDP_BYTES:
        raise _refused(f"it is longer than {MAX_SDP_BYTES} bytes")
    try:
        text = offer.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused("it is not UTF-8") from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines[0] != "v=0":
        raise _refused("it does not begin with v=0")
    if len(lines) > _MAX_LINES or any(len(line) > _MAX_LINE for line in lines):
        raise _refused("it has too many or too long lines")
    if not all(_LINE.fullmatch(line) for line in lines):
        raise _refused("a line is not an SDP line")
    return lines


def _usable(line: str, *, loopback: bool) -> bool:
    found = _CANDIDATE.fullmatch(line)
    if found is None or int(found["port"]) > 65_535:
        raise _refused("a candidate is malformed")
    host = found["host"]
    if _MDNS.fullmatch(host):
        return not loopback
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise _refused("a candidate names a host; only addresses and .local names are allowed") from None
    if found["transport"].lower() != "udp":
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    if loopback:
        return address == ipaddress.ip_address("127.0.0.1")
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def _refused(reason: str) -> Refusal:
    return Refusal(f"The SDP offer was refused: {reason}.", code="invalid_offer", param="sdp")
