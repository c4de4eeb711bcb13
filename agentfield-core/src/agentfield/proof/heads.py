"""Signed heads of a log: how many leaves it has, and their root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey, b64url, canonical, verify_signature
from agentfield.proof.strict import (
    bad,
    boolean,
    hash_of,
    integer,
    members,
    parse_canonical,
    signature_of,
    text,
    time_text,
    timestamp,
)
from agentfield.proof.trees import document_leaf

__all__ = ["CONTROL_PLANE", "Coverage", "Head", "parse_head", "sign_head"]

CONTROL_PLANE = "control_plane"
"""`log` of the heads of the control plane's own log."""

_PREFIX = b"agentfield/log-head/1\n"
_COVERAGE = ("credentials", "final", "previous", "root", "size")
_MEMBERS = (*_COVERAGE, "at", "issuer", "log", "signature", "v")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The part of a log that a head states."""

    size: int
    """Number of its leaves, at least 1."""
    root: bytes
    credentials: int = 0
    """Number of the run's credentials that it covers, the first ones."""
    credentials_root: bytes | None = None
    """Root of the tree over their leaves; None if there are none."""
    final: bool = False
    """Whether the run has ended, and every execution that ended has its credential."""
    previous: bytes | None = None
    """Leaf of the head before it, None for the first."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON: the `log` of a credential, and part of a head."""
        return {
            "credentials": {
                "root": None if self.credentials_root is None else b64url(self.credentials_root),
                "size": self.credentials,
            },
            "final": self.final,
            "previous": None if self.previous is None else b64url(self.previous),
            "root": b64url(self.root),
            "size": self.size,
        }

    @classmethod
    def parse(cls, value: Any, name: str) -> Coverage:
        """Return what an object states that has exactly the members of `document`.

        Raises:
            InvalidInput: It is malformed (code ``bad_document``).
        """
        members(value, name, _COVERAGE)
        credentials = members(value["credentials"], f"credentials of {name}", ("root", "size"))
        count = integer(credentials["size"], "size of credentials")
        if (credentials["root"] is None) != (count == 0):
            bad("credentials have a root unless their number is 0")
        previous = value["previous"]
        return cls(
            size=integer(value["size"], "size", 1),
            root=hash_of(value["root"], "root"),
            credentials=count,
            credentials_root=None if count == 0 else hash_of(credentials["root"], "root of credentials"),
            final=boolean(value["final"], "final"),
            previous=None if previous is None else hash_of(previous, "previous"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head whose form and signature were verified."""

    issuer: str
    """DID of its signer; whether to trust it is the reader's decision."""
    log: str
    """Id of the run, or `CONTROL_PLANE`."""
    at: str
    coverage: Coverage
    leaf: bytes
    """Leaf of the whole document: `previous` of the next head, and what an anchor fixes."""


def sign_head(key: NodeKey, *, log: str, coverage: Coverage, at: float) -> dict[str, Any]:
    """Return the signed head of a log as JSON.

    Args:
        key: The issuer's key.
        log: Id of the run, or `CONTROL_PLANE`.
        coverage: What it states.
        at: Time of signing, in seconds since the epoch; rounded down to whole seconds.
    """
    document = {**coverage.document(), "at": time_text(at), "issuer": key.did, "log": log, "v": 1}
    return {**document, "signature": b64url(key.sign(_PREFIX + canonical(document)))}


def parse_head(value: Mapping[str, Any] | bytes) -> Head:
    """Return the head that an object or its canonical bytes hold, once form and signature are verified.

    Args:
        value: The parsed object, as `sign_head` returns it, or its canonical bytes.

    Raises:
        InvalidInput: It is malformed (code ``bad_document``) or not signed by its issuer (code ``bad_signature``).
    """
    document = members(parse_canonical(value) if isinstance(value, bytes) else value, "the head", _MEMBERS)
    if type(document["v"]) is not int or document["v"] != 1:
        bad("the version of the head is not 1")
    timestamp(document["at"], "at")
    log, issuer = text(document["log"], "log"), text(document["issuer"], "issuer")
    coverage = Coverage.parse({name: document[name] for name in _COVERAGE}, "the head")
    signature = signature_of(document["signature"], "signature")
    unsigned = {name: item for name, item in document.items() if name != "signature"}
    if not verify_signature(issuer, _PREFIX + canonical(unsigned), signature):
        raise InvalidInput("The head is not signed by the issuer that it names.", code="bad_signature")
    return Head(issuer=issuer, log=log, at=document["at"], coverage=coverage, leaf=document_leaf(document))
