"""SDP gate: hostile offers are refused, real ones pass, and candidates are filtered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_local.webrtc.sdp import check_offer
from agentfield_local.wire.refusals import Refusal

FINGERPRINT = ":".join(["AB"] * 32)
OFFER = "\r\n".join(
    [
        "v=0",
        "o=- 4611731400430051336 2 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126",
        "c=IN IP4 0.0.0.0",
        "a=ice-ufrag:Gq1b",
        "a=ice-pwd:bC8SJmRmEzAGtu6rOiF7vR5d",
        "a=ice-options:trickle",
        f"a=fingerprint:sha-256 {FINGERPRINT}",
        "a=setup:actpass",
        "a=mid:0",
        "a=candidate:1 1 udp 2122260223 192.168.1.7 51213 typ host generation 0 network-id 1",
        "a=candidate:2 1 udp 2122260222 127.0.0.1 51214 typ host",
        "a=candidate:3 1 udp 2122260221 169.254.169.254 80 typ host",
        "a=candidate:4 1 tcp 1518280447 192.168.1.7 9 typ host tcptype active",
        "a=candidate:5 1 udp 2122260220 b3b2f9f8-8a6b-4f0a-9d7e-0a1b2c3d4e5f.local 51215 typ host",
        "a=end-of-candidates",
        "a=rtpmap:111 opus/48000/2",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=mid:1",
        "a=sctp-port:5000",
        "",
    ]
)


def candidates(offer: str) -> set[str]:
    return {line.split()[4] for line in offer.splitlines() if line.startswith("a=candidate:")}


def test_on_loopback_only_loopback_addresses_pass() -> None:
    """With media on 127.0.0.1, only that candidate is kept; the rest of the offer is unchanged."""
    passed = check_offer(OFFER.encode(), loopback=True)
    assert candidates(passed) == {"127.0.0.1"}
    assert "a=end-of-candidates" not in passed
    assert [line for line in OFFER.splitlines() if not line.startswith(("a=candidate", "a=end-of"))] == [
        line for line in passed.splitlines() if not line.startswith("a=candidate")
    ]


def test_many_candidates_pass_and_few_names() -> None:
    """An offer with 128 candidates is accepted; of names that must be looked up, the first eight are kept."""
    name = "a=candidate:{n} 1 udp 1 b3b2f9f8-8a6b-4f0a-9d7e-0a1b2c3d{n:04x}.local 51215 typ host"
    address = "a=candidate:{n} 1 udp 1 2001:db8::{n:x} 51215 typ host"
    lines = [*(name.format(n=n) for n in range(60)), *(address.format(n=n) for n in range(63))]
    offer = OFFER.replace("a=end-of-candidates", "\r\n".join(lines))
    passed = candidates(check_offer(offer.encode(), loopback=False))
    assert len([each for each in passed if each.endswith(".local")]) == 8
    assert len([each for each in passed if each.startswith("2001:")]) == 63
    with pytest.raises(Refusal, match="more than 128 candidates"):
        check_offer((offer + "\r\n".join([lines[0]] * 2) + "\r\n").encode(), loopback=False)


def test_beyond_loopback_local_addresses_are_removed() -> None:
    """With media beyond loopback, loopback and link-local candidates are removed; others and .local names are kept."""
    passed = candidates(check_offer(OFFER.encode(), loopback=False))
    assert passed == {"192.168.1.7", "b3b2f9f8-8a6b-4f0a-9d7e-0a1b2c3d4e5f.local"}


def test_bare_line_feeds_are_accepted() -> None:
    """An offer with bare line feeds gives the same result."""
    assert check_offer(OFFER.replace("\r\n", "\n").encode(), loopback=True) == check_offer(
        OFFER.encode(), loopback=True
    )


@pytest.mark.parametrize(
    "offer",
    [
        b"",
        b"hello",
        b"v=0\r\n",
        b"\xff\xfe",
        OFFER.replace("a=ice-pwd", "a=ice-pwn").encode(),
        OFFER.replace("a=ice-ufrag", "a=x").encode(),
        OFFER.replace("sha-256", "sha-1").encode(),
        OFFER.replace("s=-", "s=\0").encode(),
        OFFER.replace("s=-", "s=" + "x" * 2000).encode(),
        OFFER.replace("m=audio", "m=video").encode(),
        (OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n").encode(),
        (OFFER + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n" * 200).encode(),
        (OFFER + "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n" * 129).encode(),
        (OFFER + "a=candidate:1 1 udp 1 metadata.example.com 80 typ host\r\n").encode(),
        (OFFER + "a=candidate:1 1 udp 1 10.0.0.1 99999 typ host\r\n").encode(),
        (OFFER + "a=candidate:nonsense\r\n").encode(),
        (OFFER + "x\r\n").encode(),
        OFFER.encode() + b"a=x\r\n" * 5000,
    ],
)
def test_hostile_offers_are_refused(offer: bytes) -> None:
    """Garbage, missing keys, other media, excessive sizes and host names are refused with one code."""
    with pytest.raises(Refusal) as refused:
        check_offer(offer, loopback=True)
    assert refused.value.code == "invalid_offer"


@given(st.data())
def test_a_damaged_offer_is_passed_or_refused(data: st.DataObject) -> None:
    """Any change of bytes in a real offer leads to an offer or a refusal, never to another exception."""
    offer = bytearray(OFFER.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        offer[data.draw(st.integers(0, len(offer) - 1))] = data.draw(st.integers(0, 255))
    try:
        passed = check_offer(bytes(offer), loopback=True)
    except Refusal:
        return
    assert candidates(passed) <= {"127.0.0.1"}
