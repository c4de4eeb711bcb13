"""The gate for SDP offers."""

from __future__ import annotations

import contextlib

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield.realtime.sdp import MAX_SDP, gate_sdp

FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)
GOOD = "\r\n".join(
    [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y",
        "a=ice-options:trickle",
        FINGERPRINT,
        "a=setup:actpass",
        "a=mid:0",
        "a=sendrecv",
        "a=rtpmap:111 opus/48000/2",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=mid:1",
        "a=sctp-port:5000",
        "",
    ]
)


def with_line(line: str) -> str:
    """Return the good offer with one more line."""
    return GOOD + line + "\r\n"


def test_a_browser_offer_passes_unchanged() -> None:
    """An offer without candidates, as browsers send it, is returned byte for byte."""
    assert gate_sdp(GOOD) == GOOD


def test_bare_line_feeds_become_crlf() -> None:
    """Bare line feeds are converted to CRLF."""
    assert gate_sdp(GOOD.replace("\r\n", "\n")) == GOOD


async def test_an_aiortc_offer_passes() -> None:
    """The offer of a real peer connection passes."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        peer.addTransceiver("audio")
        peer.createDataChannel("oai-events")
        await peer.setLocalDescription(await peer.createOffer())
        assert gate_sdp(peer.localDescription.sdp).startswith("v=0\r\n")
    finally:
        await peer.close()


def test_usable_candidates_pass() -> None:
    """Host, IPv6 and mDNS candidates pass."""
    for address in ("192.0.2.7", "127.0.0.1", "2001:db8::7", "0a1b2c3d-1111-2222-3333-444455556666.local"):
        gate_sdp(with_line(f"a=candidate:1 1 udp 2122260223 {address} 54321 typ host"))


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"])
def test_unreachable_candidates_are_dropped(address: str) -> None:
    """Link-local (metadata services), multicast and unspecified addresses are removed from the offer."""
    assert gate_sdp(with_line(f"a=candidate:1 1 udp 1 {address} 80 typ host")) == GOOD


def test_a_machine_with_many_networks_passes() -> None:
    """An offer with 128 candidates of full length is within the limits."""
    foundation = "candidate:1234567890 1 udp 2122260223 2001:db8:1111:2222:3333:4444:5555"
    tail = "typ relay raddr 2001:db8:1111:2222:3333:4444:5555:6666 rport 54321 generation 0 ufrag EsAw network-id 9"
    lines = "".join(f"a={foundation}:{number:x} 54321 {tail} network-cost 999\r\n" for number in range(128))
    assert gate_sdp(GOOD + lines).count("a=candidate:") == 128


HOSTILE = {
    "empty": "",
    "garbage": "hello",
    "no fingerprint": GOOD.replace(FINGERPRINT + "\r\n", ""),
    "a weak fingerprint": GOOD.replace("sha-256", "md5"),
    "a short password": GOOD.replace("bP+XJMM09aR8AiX1jdukzR6Y", "short"),
    "no ufrag": GOOD.replace("a=ice-ufrag:EsAw\r\n", ""),
    "a NUL byte": GOOD.replace("s=-", "s=\x00"),
    "a huge line": with_line("a=x:" + "y" * 2000),
    "too large": with_line("a=x:" + "y" * MAX_SDP),
    "video": GOOD.replace("m=audio", "m=video"),
    "two audio sections": GOOD + GOOD[GOOD.index("m=audio") :],
    "no audio": GOOD.replace("m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\n", ""),
    "plain RTP": GOOD.replace("UDP/TLS/RTP/SAVPF", "RTP/AVP"),
    "a DNS name": with_line("a=candidate:1 1 udp 1 internal.example 80 typ host"),
    "half a candidate": with_line("a=candidate:1 1 udp"),
    "129 candidates": GOOD + "".join(f"a=candidate:{n} 1 udp 1 192.0.2.7 80 typ host\r\n" for n in range(129)),
    "no SDP lines": with_line("this is no line"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_offers_are_refused(name: str) -> None:
    """An offer that is not a plain audio call is refused with the violated rule, without repeating the offer."""
    with pytest.raises(InvalidInput) as caught:
        gate_sdp(HOSTILE[name])
    assert caught.value.code == "bad_sdp"
    assert "bP+XJMM09aR8AiX1jdukzR6Y" not in str(caught.value)


@given(st.data())
def test_mutations_never_crash_the_gate(data: st.DataObject) -> None:
    """A mutated offer either passes or is refused with `bad_sdp`; no other exception is raised."""
    at = data.draw(st.integers(0, len(GOOD)))
    length = data.draw(st.integers(0, 20))
    mutated = GOOD[:at] + data.draw(st.text(max_size=20)) + GOOD[at + length :]
    with contextlib.suppress(InvalidInput):
        gated = gate_sdp(mutated)
        assert gated.startswith("v=0\r\n")
        assert gated.endswith("\r\n")
        assert "\x00" not in gated
