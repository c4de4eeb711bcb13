"""Verification of result proofs (protocol 2 of the link): what a node must have stated, and the signature over it."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any, Literal

from agentfield.errors import InvalidInput
from agentfield.identity import (
    b64url,
    canonical,
    commitment,
    parse_proof,
    proof_text,
    result_leaf,
    result_message,
    result_statement,
    root_message,
    verify_signature,
)
from agentfield.values import encode_off_loop
from agentfield.wire.frames import Result
from agentfield_server.nodes import AssignedAttempt, LinkedNode
from agentfield_server.store.records import Execution

__all__ = ["Body", "ProofVerifier", "check_record", "commit_input"]

_MAX_ROOTS = 1024
"""Verified roots that are remembered; the results of one message come together."""

Body = Literal["output", "problem", "pause"]


async def commit_input(salt: bytes, value: Any) -> bytes:
    """Return the commitment to the input of an execution."""
    return commitment(salt, (await encode_off_loop(value, name="input")).canonical)


class ProofVerifier:
    """Verifies the proofs of results that are stated for one control plane.

    Args:
        audience: DID of the control plane.
    """

    def __init__(self, audience: str) -> None:
        self._audience = audience
        self._verified: OrderedDict[tuple[str, bytes, int, bytes], None] = OrderedDict()
        """Node, root, size and signature of the roots that were verified, the oldest first."""

    def statement(
        self, frame: Result, *, link: LinkedNode, assigned: AssignedAttempt, body: Body, ended_with: bytes
    ) -> bytes:
        """Return what a node must have stated about a result.

        Args:
            frame: The result.
            link: The instance that reports it.
            assigned: The attempt, with the commitment to its input.
            body: Name of what the attempt ended with.
            ended_with: That, in canonical form.

        Raises:
            InvalidInput: The attempt was invoked without salts (code `bad_proof`).
        """
        if assigned.input_commitment is None or assigned.output_salt is None:
            raise InvalidInput("The attempt was invoked over a link of protocol 1, without salts.", code="bad_proof")
        return result_statement(
            audience=self._audience,
            node_id=link.node_id,
            instance_id=link.instance_id,
            execution_id=frame.execution_id,
            attempt=frame.attempt,
            epoch=frame.epoch,
            target=f"{link.node_id}.{assigned.function}",
            run_id=assigned.run_id,
            parent_id=assigned.parent_id,
            session_id=assigned.session_id,
            status=frame.status,
            retry=frame.retry,
            input=assigned.input_commitment,
            body=body,
            outcome=commitment(assigned.output_salt, ended_with),
        )

    def verify(self, did: str, statement: bytes, proof: Any) -> str:
        """Return the proof of a statement as canonical JSON, once it is verified.

        Args:
            did: DID of the node.
            statement: What it must have stated.
            proof: The proof that came with the result.

        Raises:
            InvalidInput: The proof is malformed or of something else (code `bad_proof`), or its root is not signed by the node
                for this control plane (code `bad_signature`).
        """
        parsed = parse_proof(proof)
        if not parsed.leads_from(result_leaf(statement)):
            raise InvalidInput(
                "The proof belongs to another result than the one that the node sent: another body, attempt, instance or"
                " control plane.",
                code="bad_proof",
            )
        key = (did, parsed.root, parsed.size, parsed.signature)
        if key not in self._verified:
            message = root_message(audience=self._audience, did=did, root=parsed.root, size=parsed.size)
            if not verify_signature(did, message, parsed.signature):
                raise InvalidInput("The signature of the results does not fit the node's key.", code="bad_signature")
            self._verified[key] = None
            if len(self._verified) > _MAX_ROOTS:
                self._verified.popitem(last=False)
        return proof_text(proof)


def check_record(execution: Execution) -> bool:
    """Return whether the recorded result of an execution is signed by the node that it names, as its signer.

    A record of protocol 1 has a signature over digests of its bodies, one of protocol 2 a statement with a proof. Both can be
    verified after the bodies are erased; as long as a salt is there, the body must be the one that was stated.
    """
    if execution.signer is None:
        return False
    if execution.statement is None or execution.proof is None:
        message = result_message(
            execution.id,
            execution.attempt,
            execution.status,
            execution.input_digest or "",
            execution.output_digest,
        )
        return verify_signature(execution.signer, message, execution.signature or "")
    stated = json.loads(execution.statement)
    recorded = {
        "execution_id": execution.id,
        "attempt": execution.attempt,
        "epoch": execution.lease_epoch,
        "target": execution.target,
        "run_id": execution.run_id,
        "parent_id": execution.parent_id,
        "session_id": execution.session_id,
        "status": execution.status,
    }
    if any(stated[name] != value for name, value in recorded.items()):
        return False
    bodies = [("input", execution.input, execution.input_salt)]
    if execution.status == "succeeded":
        bodies.append(("output", execution.output, execution.output_salt))
    for name, body, salt in bodies:
        if salt is not None and stated[name] != b64url(commitment(salt, canonical(body))):
            return False
    try:
        ProofVerifier(stated["audience"]).verify(
            execution.signer, execution.statement.encode(), json.loads(execution.proof)
        )
    except InvalidInput:
        return False
    return True
