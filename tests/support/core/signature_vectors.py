"""Test vectors of the signatures of protocol 2: ``python tests/support/core/signature_vectors.py`` writes them anew.

Keys, salts and nonces are fixed, and Ed25519 is deterministic, so that another implementation gets the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentfield.identity import (
    NodeKey,
    b64url,
    canonical,
    commitment,
    digest,
    hello_message,
    result_leaf,
    result_statement,
    root_message,
    sign_results,
    welcome_message,
)

VECTORS = Path(__file__).resolve().parents[2] / "fixtures" / "link" / "signatures.json"
SIZES = (1, 2, 3, 5, 8)
NONCE = "bm9uY2Ugb2YgdGhlIGNvbnRyb2wgcGxhbmU"
OUTCOMES: tuple[tuple[str, Any, Any], ...] = (
    ("succeeded", "output", {"sum": 3, "word": "für", "none": None}),
    ("succeeded", "output", None),
    ("failed", "problem", {"type": "about:blank", "status": 500, "code": "execution_failed", "detail": "no"}),
    ("parked", "pause", {"key": "approve", "title": "Refund?", "details": {"amount": 12.5}, "expires": 3600.0}),
    ("timeout", "problem", {"code": "execution_timeout"}),
    ("cancelled", "problem", {"code": "execution_cancelled"}),
    ("succeeded", "output", [1e-7, 1.0, 123456789012345.6]),
    ("succeeded", "output", "text"),
)


def vectors() -> dict[str, Any]:
    """Return all vectors."""
    node, plane = _key("node"), _key("control plane")
    results = [_result(node, plane, number, *outcome) for number, outcome in enumerate(OUTCOMES)]
    leaves = [bytes.fromhex(result["leaf"]) for result in results]
    return {
        "keys": {
            name: {"seed": _seed(name).hex(), "did": key.did}
            for name, key in (("node", node), ("control plane", plane))
        },
        "hello": _hello(node, plane),
        "results": results,
        "trees": [_tree(node, plane, leaves[:size]) for size in SIZES],
    }


def _seed(name: str) -> bytes:
    return hashlib.sha256(f"agentfield test vectors: {name}".encode()).digest()


def _key(name: str) -> NodeKey:
    return NodeKey(Ed25519PrivateKey.from_private_bytes(_seed(name)))


def _hello(node: NodeKey, plane: NodeKey) -> dict[str, Any]:
    frame = {
        "type": "hello",
        "protocol": 2,
        "node_id": "shop",
        "instance_id": "node_1",
        "did": node.did,
        "nonce": "bm9kZQ",
    }
    of_frame = digest(frame)
    message = hello_message(audience=plane.did, protocol=2, nonce=NONCE, hello=of_frame)
    answer = welcome_message(hello=of_frame, protocol=2)
    return {
        "nonce": NONCE,
        "frame_without_signature": frame,
        "digest": of_frame,
        "message": message.decode(),
        "signature": b64url(node.sign(message)),
        "welcome_message": answer.decode(),
        "welcome_signature": b64url(plane.sign(answer)),
    }


def _result(node: NodeKey, plane: NodeKey, number: int, status: str, name: Any, body: Any) -> dict[str, Any]:
    given = {"n": number}
    salts = [hashlib.sha256(f"salt {number} {which}".encode()).digest() for which in ("input", "output")]
    commitments = [commitment(salt, canonical(value)) for salt, value in zip(salts, (given, body), strict=True)]
    statement = result_statement(
        audience=plane.did,
        node_id="shop",
        instance_id="node_1",
        execution_id=f"exe_{number}",
        attempt=1 + number % 2,
        epoch=2 + number,
        target="shop.price",
        run_id="run_1",
        parent_id=None if number == 0 else "exe_0",
        session_id=None if number % 3 else "ses_1",
        status=status,
        retry=number == 2,
        input=commitments[0],
        body=name,
        outcome=commitments[1],
    )
    return {
        "input": given,
        "input_salt": b64url(salts[0]),
        "input_commitment": commitments[0].hex(),
        "body": name,
        name: body,
        "output_salt": b64url(salts[1]),
        "output_commitment": commitments[1].hex(),
        "statement": statement.decode(),
        "leaf": result_leaf(statement).hex(),
    }


def _tree(node: NodeKey, plane: NodeKey, leaves: list[bytes]) -> dict[str, Any]:
    proofs = sign_results(node, audience=plane.did, leaves=leaves)
    message = root_message(audience=plane.did, did=node.did, root=proofs[0].root, size=len(leaves))
    return {
        "size": len(leaves),
        "root": proofs[0].root.hex(),
        "message": message.decode(),
        "proofs": [proof.document() for proof in proofs],
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
