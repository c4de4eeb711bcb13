"""Keys, DIDs, canonical JSON and digests."""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput, Unavailable
from agentfield.identity import (
    SALT_BYTES,
    NodeKey,
    b64url,
    canonical,
    challenge_message,
    commitment,
    digest,
    leaf_hash,
    new_salt,
    result_message,
    unb64url,
    verify_signature,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_a_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The file is created with mode 0600 and loaded as the same key."""
    path = tmp_path / "nodes" / "shop.pem"
    first = NodeKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert NodeKey.load_or_create(path).did == first.did
    assert [file.name for file in path.parent.iterdir()] == ["shop.pem"]


def test_concurrent_processes_share_one_key(tmp_path: Path) -> None:
    """Processes that create the key at the same time all use the same one."""
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(NodeKey.load_or_create, [tmp_path / "k.pem"] * 16))
    assert len({key.did for key in keys}) == 1


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"])
def test_an_invalid_key_file_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    """An invalid key file is an error with a hint, never a silent new identity."""
    path = tmp_path / "k.pem"
    path.write_bytes(content)
    with pytest.raises(Unavailable, match="mv"):
        NodeKey.load_or_create(path)
    assert path.read_bytes() == content


def test_a_did_names_the_key() -> None:
    """A did:key begins with z6Mk, which is the multicodec prefix of Ed25519 in base58btc."""
    assert NodeKey.generate().did.startswith("did:key:z6Mk")


def test_a_signature_verifies_for_its_key_and_message_only() -> None:
    """A signature does not verify for another key or message or when changed; its base64url form verifies."""
    key, other = NodeKey.generate(), NodeKey.generate()
    signature = key.sign(b"message")
    assert verify_signature(key.did, b"message", signature)
    assert verify_signature(key.did, b"message", b64url(signature))
    assert not verify_signature(key.did, b"massage", signature)
    assert not verify_signature(other.did, b"message", signature)
    assert not verify_signature(key.did, b"message", signature[:-1])


@pytest.mark.parametrize(
    "did", ["", "did:web:example.org", "did:key:z", "did:key:z0OIl", "did:key:z6Mk", "did:key:zQ3sh"]
)
def test_an_invalid_did_verifies_no_signature(did: str) -> None:
    """A signature of an invalid DID is invalid; no exception is raised."""
    assert not verify_signature(did, b"message", b"\0" * 64)
    assert not verify_signature(did, b"message", "???")


def test_signed_messages_are_distinct() -> None:
    """Messages of different types differ, and so do messages that differ in any field."""
    seen = {
        challenge_message("a", "b", "c"),
        challenge_message("ab", "", "c"),
        result_message("a", 1, "succeeded", "u", None),
        result_message("a", 1, "succeeded", "u", "u"),
        result_message("a", 2, "succeeded", "u", None),
        result_message("a", 1, "failed", "u", None),
    }
    assert len(seen) == 6


def test_canonical_json_follows_rfc_8785() -> None:
    """Members are sorted, and numbers and text are written as in the example of RFC 8785, section 3.2.2."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '€$\x0f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@pytest.mark.parametrize("value", [float("nan"), 2**53, "\ud800", {1: 2}, {"\ud800": 1}, object(), {"a": {1, 2}}])
def test_values_that_are_not_json_have_no_canonical_form(value: Any) -> None:
    """A value that is not JSON is refused, never rounded or dropped."""
    with pytest.raises(InvalidInput):
        canonical(value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e-4, 9.999e-5, 1e-7, 1e16, 9007199254740993.5, 1e21, 0.1, -0.0, 5e-324, 1.5e300, 123456789.25])
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(JSON)
def test_the_fast_encoder_agrees_with_rfc8785(value: Any) -> None:
    """The fast path and the `rfc8785` package write the same bytes."""
    assert canonical(value) == rfc8785.dumps(value)


def test_a_digest_is_a_multihash() -> None:
    """A digest is `u` and the base64url of 0x12 0x20 and the SHA-256 of the canonical form."""
    raw = unb64url(digest({"b": 1, "a": 2})[1:])
    assert raw == b"\x12\x20" + hashlib.sha256(b'{"a":2,"b":1}').digest()


@given(json_values)
def test_a_digest_is_the_same_for_equal_values(value: Any) -> None:
    """Equal values have the same digest, whatever the order of their members."""
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert digest(turned) == digest(value)


def test_a_leaf_hash_has_the_leaf_prefix() -> None:
    """A leaf is hashed with the prefix 0x00 of RFC 9162, which separates leaves from inner nodes."""
    assert leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()


@given(st.binary())
def test_base64url_is_decoded_again(data: bytes) -> None:
    """Base64url without padding is decoded to the same bytes."""
    assert unb64url(b64url(data)) == data


@pytest.mark.parametrize("text", ["=", "AA==", "A", "a+b/", "AB", "ä"])
def test_non_canonical_base64url_is_refused(text: str) -> None:
    """Padding, other alphabets, impossible lengths and stray bits are refused."""
    with pytest.raises(InvalidInput):
        unb64url(text)


def test_a_commitment_is_the_digest_of_its_prefix_the_salt_and_the_body() -> None:
    """The format is SHA-256(0x02 ‖ salt ‖ canonical body); other implementations give the same bytes."""
    salt = bytes(range(32))
    assert (
        commitment(salt, canonical({"b": 1, "a": [None, "é"]}))
        == hashlib.sha256(b"\x02" + salt + '{"a":[null,"é"],"b":1}'.encode()).digest()
    )


def test_salts_are_random_and_of_one_length() -> None:
    """No two bodies share a salt, and a salt of another length is refused."""
    assert len({new_salt() for _ in range(100)}) == 100
    assert {len(new_salt()) for _ in range(10)} == {SALT_BYTES}
    for length in (0, 31, 33):
        with pytest.raises(ValueError, match="a salt has 32 bytes"):
            commitment(bytes(length), b"{}")


@given(json_values, json_values)
def test_a_commitment_binds_salt_and_body(one: Any, other: Any) -> None:
    """Another body or another salt gives another commitment."""
    salt, data = new_salt(), canonical(one)
    assert commitment(salt, data) == commitment(salt, data)
    assert commitment(new_salt(), data) != commitment(salt, data)
    assert (commitment(salt, canonical(other)) == commitment(salt, data)) == (canonical(other) == data)
