"""One signature for the results of a link message: statements, leaves, signed roots and proofs (docs/link-signatures.md).

A node states each outcome without its bodies (`result_statement`), builds a tree over the statements of a message, and signs
its root. A result carries a `ResultProof`: the path from its leaf to the root, and the signature. It can be verified by itself,
at once or years later, also after its bodies are erased.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.errors import InvalidInput
from agentfield.identity.canonical import b64url, canonical
from agentfield.identity.keys import NodeKey
from agentfield.identity.merkle import inclusion_paths, path_length, root_from_path

__all__ = [
    "MAX_RESULTS",
    "ResultProof",
    "parse_proof",
    "proof_text",
    "result_leaf",
    "result_statement",
    "root_message",
    "sign_results",
]

MAX_RESULTS = 256
"""Results that one signature may stand for."""

VERSION = 2

_LEAF = b"\x00agentfield/result/2\n"
_ROOT = b"agentfield/results-root/2\n"
# 32 and 64 bytes; the bits of the last character that no byte uses are 0, so that there is one form only
_HASH = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_SIGNATURE = re.compile(r"[A-Za-z0-9_-]{85}[AQgw]")
_QUOTE = '"'
_FIELDS = {"v", "index", "size", "path", "root", "signature"}


@dataclass(frozen=True, slots=True)
class ResultProof:
    """The proof of one result: its place in a tree of results, and the signature over the root of that tree."""

    index: int
    size: int
    path: tuple[bytes, ...]
    """Siblings from the leaf up to the root."""
    root: bytes
    signature: bytes

    def leads_from(self, leaf: bytes) -> bool:
        """Return whether the path leads from a leaf to the root."""
        return root_from_path(leaf, self.index, self.path, self.size) == self.root

    def document(self) -> dict[str, Any]:
        """Return the proof as JSON, as `parse_proof` reads it."""
        return {
            "v": VERSION,
            "index": self.index,
            "size": self.size,
            "path": [b64url(sibling) for sibling in self.path],
            "root": b64url(self.root),
            "signature": b64url(self.signature),
        }


def result_statement(
    *,
    audience: str,
    node_id: str,
    instance_id: str,
    execution_id: str,
    attempt: int,
    epoch: int,
    target: str,
    run_id: str,
    parent_id: str | None,
    session_id: str | None,
    status: str,
    retry: bool,
    input: bytes,  # noqa: A002 -- the name of the field
    body: Literal["output", "problem", "pause"],
    outcome: bytes,
) -> bytes:
    """Return what a node states about an attempt, as canonical JSON.

    Args:
        audience: DID of the control plane that the result is for.
        node_id: The node.
        instance_id: The process that ran the attempt.
        execution_id: The execution.
        attempt: Number of the attempt.
        epoch: Epoch of its lease.
        target: The function, ``node.name``.
        run_id: The run.
        parent_id: The calling execution.
        session_id: The session.
        status: Status of the result.
        retry: Whether the function declares another attempt after this failure.
        input: Commitment to the input.
        body: Name of what the attempt ended with.
        outcome: Commitment to it.
    """
    return canonical(
        {
            "audience": audience,
            "node_id": node_id,
            "instance_id": instance_id,
            "execution_id": execution_id,
            "attempt": attempt,
            "epoch": epoch,
            "target": target,
            "run_id": run_id,
            "parent_id": parent_id,
            "session_id": session_id,
            "status": status,
            "retry": retry,
            "input": b64url(input),
            body: b64url(outcome),
        }
    )


def result_leaf(statement: bytes) -> bytes:
    """Return the leaf of a statement: what a result is recognised by, however often and with whichever others it is sent."""
    return hashlib.sha256(_LEAF + statement).digest()


def root_message(*, audience: str, did: str, root: bytes, size: int) -> bytes:
    """Return the message that a node signs for all results of a link message."""
    return _ROOT + canonical({"audience": audience, "did": did, "root": b64url(root), "size": size})


def sign_results(key: NodeKey, *, audience: str, leaves: Sequence[bytes]) -> list[ResultProof]:
    """Sign the results of a message once, and return the proof of each.

    Args:
        key: The key of the node.
        audience: DID of the control plane that the results are for.
        leaves: Their leaves in the order of the message, 1 to 256.
    """
    if len(leaves) > MAX_RESULTS:
        raise ValueError(f"one signature stands for at most {MAX_RESULTS} results, not {len(leaves)}")
    root, paths = inclusion_paths(leaves)
    signature = key.sign(root_message(audience=audience, did=key.did, root=root, size=len(leaves)))
    return [ResultProof(index, len(leaves), path, root, signature) for index, path in enumerate(paths)]


def proof_text(document: Mapping[str, Any]) -> str:
    """Return a proof as canonical JSON; none of its values needs an escape, so that no encoder is needed.

    Args:
        document: The proof as `ResultProof.document` writes and `parse_proof` accepts it.
    """
    path = '","'.join(document["path"])
    return (
        f'{{"index":{document["index"]},"path":[{path and f"{_QUOTE}{path}{_QUOTE}"}],"root":"{document["root"]}",'
        f'"signature":"{document["signature"]}","size":{document["size"]},"v":{VERSION}}}'
    )


def parse_proof(document: Any) -> ResultProof:
    """Return the proof that a JSON document holds; only the one form that `ResultProof.document` writes is accepted.

    Raises:
        InvalidInput: It is not such a document (code ``bad_proof``).
    """
    if not isinstance(document, Mapping) or set(document) != _FIELDS:
        raise _malformed(f"it is not an object of {', '.join(sorted(_FIELDS))}")
    version, index, size, path = (document[name] for name in ("v", "index", "size", "path"))
    if type(version) is not int or version != VERSION:
        raise _malformed(f"its version is not {VERSION}")
    if type(size) is not int or not 1 <= size <= MAX_RESULTS:
        raise _malformed(f"a tree has 1 to {MAX_RESULTS} results")
    if type(index) is not int or not 0 <= index < size:
        raise _malformed("its index is not of a leaf of the tree")
    if not isinstance(path, list) or len(path) != path_length(index, size):
        raise _malformed(f"the path of leaf {index} of {size} has {path_length(index, size)} hashes")
    return ResultProof(
        index,
        size,
        tuple([_bytes(sibling, _HASH, "a hash of the path") for sibling in path]),
        _bytes(document["root"], _HASH, "the root"),
        _bytes(document["signature"], _SIGNATURE, "the signature"),
    )


def _bytes(text: Any, form: re.Pattern[str], name: str) -> bytes:
    data = _decoded(text, form) if isinstance(text, str) else None
    if data is None:
        raise _malformed(f"{name} is not of that length in base64url")
    return data


@functools.lru_cache(4096)
def _decoded(text: str, form: re.Pattern[str]) -> bytes | None:
    """Return the bytes of a text; cached, since the proofs of a message share root, signature and most of their hashes."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if form.fullmatch(text) else None


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(f"The proof of the result is malformed: {why}.", code="bad_proof", field="proof")
