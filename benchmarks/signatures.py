"""Signatures of results: processor time of a result on each side of the link, with one signature each as the floor."""

from __future__ import annotations

import time
from collections.abc import Callable

from agentfield.identity import (
    NodeKey,
    ResultProof,
    canonical,
    commitment,
    new_salt,
    result_leaf,
    result_message,
    result_statement,
    sign_results,
    verify_signature,
)
from agentfield_server.engine.results.proofs import ProofVerifier
from benchmarks.rows import Row, percentile

BODY = canonical({"text": "x" * 1000})
SIZES = (1, 22)
"""Results of a message: one alone, and as many as are ready at 64 calls at once."""

ROUNDS = 200


def measure() -> list[Row]:
    """Sign and verify messages of one and of many results."""
    node, audience = NodeKey.generate(), NodeKey.generate().did
    rows = []
    for size in SIZES:
        statements = [_statement(audience, number) for number in range(size)]
        alone = [result_message(f"exe_{number}", 1, "succeeded", "u" * 47, "u" * 47) for number in range(size)]
        signatures = [node.sign(message) for message in alone]

        def signed(statements: list[bytes] = statements) -> list[ResultProof]:
            leaves = [result_leaf(statement) for statement in statements]
            return sign_results(node, audience=audience, leaves=leaves)

        proofs = [proof.document() for proof in signed()]

        def verified(statements: list[bytes] = statements, proofs: list[object] = proofs) -> None:  # type: ignore[assignment]
            verifier = ProofVerifier(audience)
            for statement, proof in zip(statements, proofs, strict=True):
                verifier.verify(node.did, statement, proof)

        def verified_alone(alone: list[bytes] = alone, signatures: list[bytes] = signatures) -> None:
            for message, signature in zip(alone, signatures, strict=True):
                verify_signature(node.did, message, signature)

        def signed_alone(alone: list[bytes] = alone) -> None:
            for message in alone:
                node.sign(message)

        for name, work, floor in (("signing", signed, signed_alone), ("verifying", verified, verified_alone)):
            base = _microseconds(floor) / size
            rows.append(
                Row(
                    name=f"{name} a result, {size} in a message",
                    value=_microseconds(work) / size,
                    unit="us",
                    floor=base,
                    goal=None if size == 1 else base / 2,
                )
            )
    return rows


def _statement(audience: str, number: int) -> bytes:
    return result_statement(
        audience=audience,
        node_id="bench",
        instance_id="node_01a232b0076b7345a751e2fd5ffa8ce4",
        execution_id=f"exe_01a232b0076b7345a751e2fd5ffa{number:04}",
        attempt=1,
        epoch=1,
        target="bench.echo",
        run_id=f"run_01a232b0076b7345a751e2fd5ffa{number:04}",
        parent_id=None,
        session_id=None,
        status="succeeded",
        retry=False,
        input=commitment(new_salt(), BODY),
        body="output",
        outcome=commitment(new_salt(), BODY),
    )


def _microseconds(work: Callable[[], object]) -> float:
    """Return the median processor time of a call."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - begin) / 1000)
    return percentile(times, 50)
