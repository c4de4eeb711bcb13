"""Trees of results, their proofs, and the committed vectors of the signatures of protocol 2."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield.identity import (
    MAX_RESULTS,
    NodeKey,
    ResultProof,
    b64url,
    canonical,
    inclusion_paths,
    parse_proof,
    path_length,
    proof_text,
    root_from_path,
    root_message,
    sign_results,
    tree_root,
    verify_signature,
)
from support.core.signature_vectors import SIZES, VECTORS, vectors
from support.paths import ROOT

AUDIENCE = NodeKey.generate().did
KEY = NodeKey.generate()


def leaves(size: int) -> list[bytes]:
    return [hashlib.sha256(b"leaf %d" % number).digest() for number in range(size)]


def rfc_root(nodes: list[bytes]) -> bytes:
    """Return the root as RFC 9162, section 2.1.1, defines it."""
    if len(nodes) == 1:
        return nodes[0]
    split = 1 << (len(nodes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + rfc_root(nodes[:split]) + rfc_root(nodes[split:])).digest()


def rfc_path(index: int, nodes: list[bytes]) -> list[bytes]:
    """Return the path as RFC 9162, section 2.1.3.1, defines it."""
    if len(nodes) == 1:
        return []
    split = 1 << (len(nodes) - 1).bit_length() - 1
    if index < split:
        return [*rfc_path(index, nodes[:split]), rfc_root(nodes[split:])]
    return [*rfc_path(index - split, nodes[split:]), rfc_root(nodes[:split])]


@pytest.mark.parametrize("sizes", [range(1, 70), (127, 128, 129, 255, 256)], ids=["small", "large"])
def test_roots_and_paths_have_the_shape_of_rfc_9162(sizes: range) -> None:
    """Root, each path and each path length are those of the recursive definitions of the RFC."""
    for size in sizes:
        nodes = leaves(size)
        root, paths = inclusion_paths(nodes)
        assert root == tree_root(nodes) == rfc_root(nodes)
        for index, path in enumerate(paths):
            if size < 70 or index % 17 == 0 or index == size - 1:
                assert list(path) == rfc_path(index, nodes)
            assert len(path) == path_length(index, size)
            assert root_from_path(nodes[index], index, path, size) == root


def test_a_tree_has_a_leaf_and_a_leaf_its_place() -> None:
    """An empty tree, an index outside the tree and a path of another length are errors."""
    with pytest.raises(ValueError, match="at least one leaf"):
        tree_root([])
    for index, size in ((0, 0), (1, 1), (-1, 4), (4, 4)):
        with pytest.raises(ValueError, match="has no leaf"):
            path_length(index, size)
    nodes = leaves(5)
    _, paths = inclusion_paths(nodes)
    for path in (paths[1][:-1], (*paths[1], nodes[0])):
        with pytest.raises(ValueError, match="has 3 hashes"):
            root_from_path(nodes[1], 1, path, 5)


@given(st.integers(1, MAX_RESULTS), st.data())
def test_a_change_of_any_byte_is_found(size: int, data: st.DataObject) -> None:
    """Whichever byte of leaf, path, root, place or size changes: the path leads elsewhere, or the signature does not fit."""
    index = data.draw(st.integers(0, size - 1))
    nodes = leaves(size)
    proof = sign_results(KEY, audience=AUDIENCE, leaves=nodes)[index]
    assert accepted(nodes[index], proof)
    assert proof_text(proof.document()).encode() == canonical(proof.document())
    flip = data.draw(st.integers(1, 255))

    def changed(value: bytes) -> bytes:
        at = data.draw(st.integers(0, len(value) - 1))
        return value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :]

    assert not accepted(changed(nodes[index]), proof)
    assert not accepted(nodes[index], replaced(proof, root=changed(proof.root)))
    assert not accepted(nodes[index], replaced(proof, signature=changed(proof.signature)))
    if proof.path:
        at = data.draw(st.integers(0, len(proof.path) - 1))
        path = (*proof.path[:at], changed(proof.path[at]), *proof.path[at + 1 :])
        assert not accepted(nodes[index], replaced(proof, path=path))
    other = data.draw(st.integers(1, MAX_RESULTS))
    if other != size:
        assert not accepted(nodes[index], replaced(proof, size=other))
    elsewhere = data.draw(st.integers(0, size - 1))
    if elsewhere != index:
        assert not accepted(nodes[index], replaced(proof, index=elsewhere))


@given(st.integers(2, MAX_RESULTS), st.data())
def test_an_inner_node_is_no_leaf(size: int, data: st.DataObject) -> None:
    """The path of a leaf does not prove its parent as a leaf of a smaller tree: the size is signed with the root."""
    index = data.draw(st.integers(0, size - 1))
    nodes = leaves(size)
    proof = sign_results(KEY, audience=AUDIENCE, leaves=nodes)[index]
    above = [hashlib.sha256(b"\x01" + nodes[at] + nodes[at + 1]).digest() for at in range(0, size - 1, 2)]
    above += nodes[-1:] if size % 2 else []
    root, paths = inclusion_paths(above)
    assert root == proof.root
    parent = replaced(proof, index=index // 2, size=len(above), path=paths[index // 2])
    assert parent.leads_from(above[index // 2])
    assert not accepted(above[index // 2], parent)


def replaced(proof: ResultProof, **values: Any) -> ResultProof:
    return ResultProof(**{name: values.get(name, getattr(proof, name)) for name in ResultProof.__slots__})


def accepted(leaf: bytes, proof: ResultProof) -> bool:
    """Return whether a proof is accepted after its way over the link."""
    try:
        parsed = parse_proof(json.loads(json.dumps(proof.document())))
    except InvalidInput:
        return False
    message = root_message(audience=AUDIENCE, did=KEY.did, root=parsed.root, size=parsed.size)
    return parsed.leads_from(leaf) and verify_signature(KEY.did, message, parsed.signature)


GOOD = sign_results(KEY, audience=AUDIENCE, leaves=leaves(3))[1].document()


@pytest.mark.parametrize(
    "change",
    [
        {"v": 1},
        {"v": 2.0},
        {"v": "2"},
        {"size": 0, "index": 0, "path": []},
        {"size": 257},
        {"size": 2**60},
        {"size": True},
        {"index": -1},
        {"index": 3},
        {"index": 1.0},
        {"path": GOOD["path"][:1]},
        {"path": [*GOOD["path"], GOOD["root"]]},
        {"path": [GOOD["root"]] * 100_000},
        {"path": "AAAA"},
        {"path": [GOOD["path"][0], None]},
        {"path": [GOOD["path"][0] + "=", GOOD["path"][1]]},
        {"path": [GOOD["path"][0][:-1] + "B", GOOD["path"][1]]},
        {"path": ["+" * 42 + "A", GOOD["path"][1]]},
        {"signature": GOOD["signature"][:-1] + "B"},
        {"root": GOOD["root"] + "\n"},
        {"root": GOOD["root"][:-2]},
        {"root": None},
        {"signature": GOOD["root"]},
        {"more": 1},
    ],
)
def test_a_malformed_proof_is_refused(change: dict[str, Any]) -> None:
    """Only the one form that a node writes is parsed; size 0, huge sizes and paths of another length are refused."""
    assert parse_proof(GOOD).document() == GOOD
    with pytest.raises(InvalidInput, match="The proof of the result is malformed") as caught:
        parse_proof({**GOOD, **change})
    assert caught.value.code == "bad_proof"
    for missing in GOOD:
        with pytest.raises(InvalidInput):
            parse_proof({name: value for name, value in GOOD.items() if name != missing})


def test_no_signature_stands_for_more_than_256_results() -> None:
    """A larger or empty tree cannot be signed."""
    assert len(sign_results(KEY, audience=AUDIENCE, leaves=leaves(MAX_RESULTS))) == MAX_RESULTS
    for size in (0, MAX_RESULTS + 1):
        with pytest.raises(ValueError, match=r"at least one leaf|at most 256"):
            sign_results(KEY, audience=AUDIENCE, leaves=leaves(size))


def test_the_vectors_are_what_this_implementation_writes() -> None:
    """The committed file is exactly what `support.core.signature_vectors` gives."""
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == json.loads(json.dumps(vectors()))


def test_the_vectors_verify_without_this_implementation() -> None:
    """The rules of docs/link-signatures.md, written once more with a SHA-256, an Ed25519 and an RFC 8785, fit the vectors."""
    file = json.loads(VECTORS.read_text(encoding="utf-8"))
    plane, node = file["keys"]["control plane"]["did"], file["keys"]["node"]["did"]

    def key(did: str) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(base58(did.removeprefix("did:key:z"))[2:])

    for result in file["results"]:
        body = result[result["body"]]
        for salt, value, expected in (
            (result["input_salt"], result["input"], result["input_commitment"]),
            (result["output_salt"], body, result["output_commitment"]),
        ):
            assert hashlib.sha256(b"\x02" + unb64(salt) + rfc8785.dumps(value)).hexdigest() == expected
        statement = json.loads(result["statement"])
        assert rfc8785.dumps(statement).decode() == result["statement"]
        assert statement["audience"] == plane
        assert unb64(statement["input"]).hex() == result["input_commitment"]
        assert unb64(statement[result["body"]]).hex() == result["output_commitment"]
        data = b"\x00agentfield/result/2\n" + result["statement"].encode()
        assert hashlib.sha256(data).hexdigest() == result["leaf"]
    for tree, size in zip(file["trees"], SIZES, strict=True):
        nodes = [bytes.fromhex(result["leaf"]) for result in file["results"][:size]]
        assert rfc_root(nodes).hex() == tree["root"]
        signed = {"audience": plane, "did": node, "root": b64url(bytes.fromhex(tree["root"])), "size": size}
        assert tree["message"] == "agentfield/results-root/2\n" + rfc8785.dumps(signed).decode()
        for index, proof in enumerate(tree["proofs"]):
            assert [unb64(sibling) for sibling in proof["path"]] == rfc_path(index, nodes)
            key(node).verify(unb64(proof["signature"]), tree["message"].encode())
    hello = file["hello"]
    of_frame = "u" + b64url(b"\x12\x20" + hashlib.sha256(rfc8785.dumps(hello["frame_without_signature"])).digest())
    signed = {"audience": plane, "protocol": 2, "nonce": hello["nonce"], "hello": of_frame}
    assert hello["message"] == "agentfield/link-hello/2\n" + rfc8785.dumps(signed).decode()
    key(node).verify(unb64(hello["signature"]), hello["message"].encode())
    answered = {"protocol": 2, "hello": of_frame}
    assert hello["welcome_message"] == "agentfield/link-welcome/2\n" + rfc8785.dumps(answered).decode()
    key(plane).verify(unb64(hello["welcome_signature"]), hello["welcome_message"].encode())


def test_the_page_shows_the_vectors() -> None:
    """The example of docs/link-signatures.md is the first result of the vectors, and its proof among three."""
    page = (ROOT / "docs" / "link-signatures.md").read_text(encoding="utf-8")
    file = json.loads(VECTORS.read_text(encoding="utf-8"))
    result, tree = file["results"][0], file["trees"][2]
    shown = [result[name] for name in ("input_salt", "input_commitment", "leaf", "statement")]
    for text in (*shown, tree["root"], file["keys"]["node"]["did"], json.dumps(tree["proofs"][0], indent=1)):
        assert text in page


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base58(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(character)
    return number.to_bytes(34, "big")
