"""Credentials and heads by themselves: strict form, signature, issuer, and the proof of the node."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import base58
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentfield.identity import canonical
from agentfield.proof import CONTEXT, verify_credential, verify_head
from agentfield.proof.credentials import _base58
from support.core.proof_runs import PaperRun, call_of_a_session, fixed_key

RUN = call_of_a_session(tools=1)
ISSUER = RUN.plane.key.did
TOOL = RUN.credentials[0]


def test_each_kind_of_credential_is_valid() -> None:
    """Credentials of a tool call, a turn and a session are valid for their issuer, and their contexts are those of W3C."""
    for credential in RUN.credentials:
        report = verify_credential(credential, issuer=ISSUER, nodes=[RUN.node.did])
        assert report.verdict == "valid", report.problem
        assert json.loads(credential)["@context"] == list(CONTEXT)
    assert [json.loads(each)["type"][1] for each in RUN.credentials] == [
        "AgentFieldExecutionCredential",
        "AgentFieldTurnCredential",
        "AgentFieldSessionCredential",
    ]


def test_a_credential_holds_no_text_of_the_call() -> None:
    """Only commitments: no word of inputs, outputs or speeches is in a credential."""
    for credential in RUN.credentials:
        for word in ("cheap", "How much", "€", "order"):
            assert word not in credential.decode()


def test_without_an_issuer_it_is_consistent_only() -> None:
    """A credential that is compared with no issuer is not called valid."""
    assert verify_credential(TOOL, issuer=None).verdict == "consistent"
    assert verify_head(canonical(RUN.heads[0]), issuer=None).verdict == "consistent"


def test_a_foreign_issuer_is_refused() -> None:
    """A credential or head of another issuer, or of a revoked key, is wrong."""
    other = fixed_key("another control plane").did
    for report in (
        verify_credential(TOOL, issuer=other),
        verify_head(canonical(RUN.heads[0]), issuer=other),
    ):
        assert report.problem is not None
        assert report.problem.code == "wrong_issuer"
    for report in (
        verify_credential(TOOL, issuer=ISSUER, revoked=[ISSUER]),
        verify_head(canonical(RUN.heads[0]), issuer=ISSUER, revoked=[ISSUER]),
    ):
        assert report.problem is not None
        assert report.problem.code == "bad_binding"


def test_a_foreign_node_is_refused() -> None:
    """With pinned nodes, a result of another node and an output that no node signed are wrong."""
    report = verify_credential(TOOL, issuer=ISSUER, nodes=[fixed_key("another node").did])
    assert report.problem is not None
    assert report.problem.code == "unknown_node"
    unsigned = PaperRun()
    unsigned.execute("tool", signed=False)
    report = verify_credential(unsigned.credentials[0], issuer=ISSUER, nodes=[RUN.node.did])
    assert report.problem is not None
    assert report.problem.code == "no_node_proof"


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return change


CHANGES = {
    "body commitment": _set("credentialSubject", "input", value="A" * 43),
    "number": _set("credentialSubject", "number", value=2),
    "a fraction": _set("credentialSubject", "number", value=1.5),
    "a large integer": _set("credentialSubject", "duration_ms", value=2**53 - 1),
    "a truth value for a number": _set("credentialSubject", "number", value=True),
    "status": _set("credentialSubject", "status", value="failed"),
    "target": _set("credentialSubject", "target", value="shop.refund"),
    "created": _set("proof", "created", value="2026-11-30T00:53:23Z"),
    "fraction of a second": _set("validFrom", value="2026-11-30T00:53:22.5Z"),
    "offset": _set("validFrom", value="2026-11-30T00:53:22+00:00"),
    "no day": _set("validFrom", value="2026-02-30T00:53:22Z"),
    "issuer": _set("issuer", value=fixed_key("another").did),
    "issuer as an object": _set("issuer", value={"id": ISSUER}),
    "id": _set("id", value="urn:agentfield:credential:exe_1"),
    "type": _set("type", value=["VerifiableCredential", "AgentFieldTurnCredential"]),
    "context": _set("@context", value=[CONTEXT[0]]),
    "context of the proof": _set("proof", "@context", value=[CONTEXT[0]]),
    "two proofs": _set("proof", value=[{}, {}]),
    "purpose": _set("proof", "proofPurpose", value="authentication"),
    "cryptosuite": _set("proof", "cryptosuite", value="eddsa-rdfc-2022"),
    "method": _set("proof", "verificationMethod", value=f"{ISSUER}#key-1"),
    "prefix of the signature": lambda document: document["proof"].update(
        proofValue="u" + document["proof"]["proofValue"][1:]
    ),
    "leading zeros of the signature": lambda document: document["proof"].update(
        proofValue="z1" + document["proof"]["proofValue"][1:]
    ),
    "another member": _set("evidence", value=[]),
    "another member of the subject": _set("credentialSubject", "note", value="x"),
    "a missing member": _drop("credentialSubject", "attempt"),
    "no proof": _drop("proof"),
    "both outcomes": _set("credentialSubject", "problem", value="A" * 43),
    "path of the node": _set("credentialSubject", "node", "result_proof", "path", value=["A" * 43, "A" * 43]),
    "signature of the node": _set("credentialSubject", "node", "result_proof", "signature", value="A" * 86),
    "no proof of the node": _drop("credentialSubject", "node"),
    "a null": _set("credentialSubject", "session_id", value=None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_credential_is_wrong(name: str) -> None:
    """Each change of a signed credential is found, and is never a crash."""
    document = json.loads(TOOL)
    CHANGES[name](document)
    report = verify_credential(canonical(document), issuer=ISSUER)
    assert report.verdict == "wrong"
    assert report.problem is not None
    assert report.problem.code in {"bad_document", "bad_signature", "bad_proof"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + TOOL,
        TOOL + b"\n",
        b" " + TOOL,
        TOOL.replace(b'"attempt":1', b'"attempt":1.0'),
        TOOL.replace(b'"attempt":1', b'"attempt":1e0'),
        TOOL.replace(b'"attempt":1', b'"attempt":2,"attempt":1'),
        TOOL.replace(b'"attempt":1', b'"attempt":' + b"9" * 5000),
        TOOL.replace(b'"attempt":1', b'"attempt":NaN'),
        TOOL.replace(b'"shop.price"', b'"shop\\u002eprice"'),
        TOOL.replace(b'"shop.price"', b'"\\ud800"'),
        json.dumps(json.loads(TOOL)).encode(),
        TOOL.decode().encode("utf-16"),
        b"[" * 100_000,
    ],
)
def test_other_bytes_than_the_canonical_ones_are_wrong(data: bytes) -> None:
    """White space, duplicate names, other numbers, escapes and encodings are refused, and nothing crashes."""
    for report in (verify_credential(data, issuer=ISSUER), verify_head(data, issuer=ISSUER)):
        assert report.verdict == "wrong"


@given(st.binary(min_size=64, max_size=64))
@example(bytes(64))
@example(b"\0" * 3 + b"\xff" * 61)
def test_signatures_are_base58btc(signature: bytes) -> None:
    """The fast encoding of a signature is that of the library, leading zeros included."""
    assert _base58(signature) == base58.b58encode(signature).decode()
