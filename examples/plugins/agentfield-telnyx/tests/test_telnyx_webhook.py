"""Signatures and events of webhooks, and the tokens of streams."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agentfield_telnyx.token import LIFETIME, StreamTokens
from agentfield_telnyx.webhook import CLIENT_STATE, CallEvent, is_signed, read_event

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
NOW = 1_700_000_000
BODY = b'{"data":{"event_type":"call.initiated"}}'


def sign(timestamp: str, body: bytes = BODY) -> str:
    return base64.b64encode(KEY.sign(timestamp.encode() + b"|" + body)).decode()


# --- signatures


@pytest.mark.parametrize("offset", [0, -300, 300])
def test_a_recent_signature_is_accepted(offset):
    """The signature covers timestamp and body; the clocks may differ by five minutes."""
    assert is_signed(PUBLIC, sign(str(NOW)), str(NOW), BODY, NOW + offset)


@pytest.mark.parametrize(
    ("signature", "timestamp", "body", "now"),
    [
        (sign(str(NOW)), str(NOW), BODY, NOW + 301),
        (sign(str(NOW)), str(NOW), BODY, NOW - 301),
        (sign(str(NOW)), str(NOW), BODY + b" ", NOW),
        (sign(str(NOW)), str(NOW + 1), BODY, NOW),
        (sign(f"+{NOW}"), f"+{NOW}", BODY, NOW),
        (sign(f" {NOW}"), f" {NOW}", BODY, NOW),
        (sign("٣"), "٣", BODY, 3),
        (sign("9" * 5000), "9" * 5000, BODY, NOW),
        (sign(""), "", BODY, NOW),
        ("", str(NOW), BODY, NOW),
        ("!", str(NOW), BODY, NOW),
        ("é", str(NOW), BODY, NOW),
        (base64.b64encode(bytes(64)).decode(), str(NOW), BODY, NOW),
        (base64.b64encode(bytes(63)).decode(), str(NOW), BODY, NOW),
    ],
)
def test_other_signatures_are_refused(signature, timestamp, body, now):
    """Old, changed, malformed."""
    assert not is_signed(PUBLIC, signature, timestamp, body, now)


@pytest.mark.parametrize("key", ["", "x", base64.b64encode(bytes(31)).decode(), "é" * 44])
def test_an_invalid_public_key_is_no_wrong_signature(key):
    """The operator is told that the setting is wrong."""
    with pytest.raises(ValueError, match="public key"):
        is_signed(key, sign(str(NOW)), str(NOW), BODY, NOW)


# --- events


def event(**payload) -> bytes:
    data = {"event_type": "call.answered", "payload": {"call_control_id": "v3:1", **payload}}
    return json.dumps({"data": data}).encode()


def test_the_event_of_a_call():
    """Type, call, direction, and whether this transport answered the call."""
    assert read_event(event(direction="incoming")) == CallEvent(
        "call.answered", "v3:1", incoming=True, ours=False, reason=""
    )
    assert read_event(event(client_state=CLIENT_STATE, failure_reason="x")) == CallEvent(
        "call.answered", "v3:1", incoming=False, ours=True, reason="x"
    )


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.text(),
        lambda of: st.dictionaries(st.sampled_from(["data", "payload", "event_type", "call_control_id"]), of),
    ).map(lambda value: json.dumps(value).encode())
)
def test_other_bodies_are_no_event(body):
    """Anything else is no event, unless it has a type and a call."""
    found = read_event(body)
    assert found is None or (found.kind and found.call)


# --- tokens


def test_a_token_is_accepted_once():
    """A token returns the call that it was issued for, and is refused afterwards."""
    tokens = StreamTokens("key")
    token = tokens.issue("shop.phone", "v3:1:é", NOW)
    assert tokens.accept(token, "shop.other", NOW) is None
    assert tokens.accept(token, "shop.phone", NOW + LIFETIME + 1) is None
    assert tokens.accept(token, "shop.phone", NOW) == "v3:1:é"
    assert tokens.accept(token, "shop.phone", NOW) is None


def test_another_replica_accepts_a_token():
    """Tokens are not stored: every control plane with the same API key accepts them, none with another."""
    token = StreamTokens("key").issue("shop.phone", "v3:1", NOW)
    assert "key" not in token
    assert StreamTokens("other").accept(token, "shop.phone", NOW) is None
    assert StreamTokens("key").accept(token, "shop.phone", NOW) == "v3:1"


def test_the_longest_call_id_fits():
    """A token is within Telnyx's 4000 characters, and its lifetime bounds what is remembered."""
    tokens = StreamTokens("key")
    for number in range(3):
        token = tokens.issue("shop.phone", "v" * 512, NOW + number * 100)
        assert len(token) < 4000
        assert tokens.accept(token, "shop.phone", NOW + number * 100)
    assert len(tokens._used) == 1


@given(st.text(max_size=60), st.integers(0, 200), st.characters())
def test_other_tokens_are_refused(text, at, character):
    """Any other text, and a valid token with one character changed."""
    tokens = StreamTokens("key")
    assert tokens.accept(text, "shop.phone", NOW) is None
    token = tokens.issue("shop.phone", "v3:1", NOW)
    changed = token[: at % len(token)] + character + token[at % len(token) + 1 :]
    if changed != token:
        assert tokens.accept(changed, "shop.phone", NOW) is None
