"""Verifiable credentials: W3C VC 2.0 with a Data Integrity proof of the cryptosuite `eddsa-jcs-2022`, issuers named by `did:key`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import base58

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey, canonical, leaf_hash, verify_signature
from agentfield.proof.documents import Subject, parse_subject
from agentfield.proof.strict import bad, members, parse_canonical, text, time_text, timestamp

__all__ = ["CONTEXT", "Credential", "issue_credential", "parse_credential"]

CONTEXT = ("https://www.w3.org/ns/credentials/v2", "https://www.w3.org/ns/credentials/undefined-terms/v2")
"""JSON-LD contexts of every credential; the second one defines the terms that W3C does not."""

_TYPES = {
    "call": "AgentFieldExecutionCredential",
    "tool": "AgentFieldExecutionCredential",
    "turn": "AgentFieldTurnCredential",
    "session": "AgentFieldSessionCredential",
}
_ID = "urn:agentfield:credential:"
_DID_KEY = "did:key:"
_SIGNATURE_BYTES = 64
_MAX_SIGNATURE = 100
"""Characters of `proofValue`, so that no long text is decoded."""
_CONTEXT_JSON = canonical(list(CONTEXT))
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_CHUNK = 58**10
_MEMBERS = ("@context", "credentialSubject", "id", "issuer", "proof", "type", "validFrom")
_PROOF = ("@context", "created", "cryptosuite", "proofPurpose", "proofValue", "type", "verificationMethod")


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential whose form and signature were verified."""

    issuer: str
    """DID of the issuer that signed it; whether to trust it is the reader's decision."""
    valid_from: str
    subject: Subject
    leaf: bytes
    """Leaf of the whole document."""


def issue_credential(key: NodeKey, subject: Mapping[str, Any], *, at: float) -> bytes:
    """Return the signed credential about an execution, turn or session, as its canonical bytes.

    Only the subject is encoded: the other members are few, and their canonical order is that of this function. What it writes is
    what `parse_credential` reads.

    Args:
        key: The issuer's key.
        subject: The `credentialSubject`, as `execution_subject` builds it; it is not checked again.
        at: Time of issue, in seconds since the epoch; rounded down to whole seconds.

    Raises:
        InvalidInput: The subject has no canonical JSON form.
    """
    created = time_text(at)
    head = b'{"@context":%b,"credentialSubject":%b,"id":%b,"issuer":"%b"' % (
        _CONTEXT_JSON,
        canonical(subject),
        canonical(_ID + subject["execution_id"]),
        key.did.encode(),
    )
    kind = _TYPES[subject["kind"]].encode()
    tail = b',"type":["VerifiableCredential","%b"],"validFrom":"%b"}' % (kind, created.encode())
    before, after, digest = _proof_options(key.did, created)
    signature = key.sign(digest + hashlib.sha256(head + tail).digest())
    return b'%b,"proof":%b,"proofValue":"z%b",%b%b' % (head, before, _base58(signature).encode(), after, tail)


@functools.lru_cache(64)
def _proof_options(did: str, created: str) -> tuple[bytes, bytes, bytes]:
    """Return the canonical proof before and after `proofValue`, and the hash of the proof without it; cached for a second."""
    before = b'{"@context":%b,"created":"%b","cryptosuite":"eddsa-jcs-2022","proofPurpose":"assertionMethod"' % (
        _CONTEXT_JSON,
        created.encode(),
    )
    after = b'"type":"DataIntegrityProof","verificationMethod":"%b"}' % _method(did).encode()
    return before, after, hashlib.sha256(before + b"," + after).digest()


def _base58(data: bytes) -> str:
    """Return base58btc of a signature, four times as fast as `base58`: ten digits at a time instead of one."""
    number, chunks = int.from_bytes(data, "big"), []
    while number:
        number, chunk = divmod(number, _CHUNK)
        chunks.append(chunk)
    digits = "".join(
        _PAIRS[chunk // 58**8]
        + _PAIRS[chunk // 58**6 % 3364]
        + _PAIRS[chunk // 58**4 % 3364]
        + _PAIRS[chunk // 58**2 % 3364]
        + _PAIRS[chunk % 3364]
        for chunk in reversed(chunks)
    ).lstrip("1")
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def parse_credential(data: bytes) -> Credential:
    """Return the credential that canonical bytes hold, once its form and its issuer's signature are verified.

    The signature is that of the issuer that the credential names. Its node proof is verified by `Subject.verify_node`.

    Raises:
        InvalidInput: It is malformed (code ``bad_document``) or not signed by its issuer (code ``bad_signature``).
    """
    return read_credential(parse_canonical(data), data)


def read_credential(value: Any, data: bytes) -> Credential:
    """Return the same as `parse_credential` for a parsed value and its canonical bytes.

    Raises:
        InvalidInput: As `parse_credential`.
    """
    members(value, "the credential", _MEMBERS)
    proof = members(value["proof"], "its proof", _PROOF)
    if value["@context"] != list(CONTEXT) or proof["@context"] != list(CONTEXT):
        bad("its contexts are not the two of W3C")
    subject = parse_subject(value["credentialSubject"])
    if value["type"] != ["VerifiableCredential", _TYPES[subject.kind]]:
        bad(f"its type is not that of a {subject.kind}")
    if value["id"] != _ID + subject.execution_id:
        bad("its id is not that of the execution")
    issuer = text(value["issuer"], "issuer")
    timestamp(value["validFrom"], "validFrom")
    if proof["created"] != value["validFrom"]:
        bad("its proof was created at another time than validFrom")
    stated = (proof["type"], proof["cryptosuite"], proof["proofPurpose"])
    if stated != ("DataIntegrityProof", "eddsa-jcs-2022", "assertionMethod"):
        bad("its proof is not an assertion of the cryptosuite eddsa-jcs-2022")
    if not issuer.startswith(_DID_KEY) or proof["verificationMethod"] != _method(issuer):
        bad("its proof names another key than that of the issuer")
    unsigned = {name: item for name, item in value.items() if name != "proof"}
    options = {name: item for name, item in proof.items() if name != "proofValue"}
    if not verify_signature(issuer, _hashes(unsigned, options), _signature(proof["proofValue"])):
        raise InvalidInput("The credential is not signed by the issuer that it names.", code="bad_signature")
    return Credential(issuer, value["validFrom"], subject, leaf_hash(data))


def _hashes(document: Mapping[str, Any], proof: Mapping[str, Any]) -> bytes:
    """Return the bytes that are signed (Data Integrity EdDSA Cryptosuites v1.0, section 3.3.4)."""
    return hashlib.sha256(canonical(proof)).digest() + hashlib.sha256(canonical(document)).digest()


def _method(did: str) -> str:
    return f"{did}#{did.removeprefix(_DID_KEY)}"


def _signature(value: Any) -> bytes:
    """Return the signature in multibase base58btc; its prefix is outside of what is signed, so it is compared."""
    signature = b""
    if isinstance(value, str) and value.startswith("z") and len(value) <= _MAX_SIGNATURE:
        with contextlib.suppress(ValueError):
            signature = base58.b58decode(value[1:])
    if len(signature) != _SIGNATURE_BYTES or base58.b58encode(signature).decode() != value[1:]:
        bad("its proofValue is not a signature in multibase base58btc")
    return signature
