"""Verification of the result that a node reports for an attempt: signature or proof, bodies and size."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from agentfield.errors import (
    ExecutionCancelled,
    ExecutionError,
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
)
from agentfield.identity import canonical, digest, result_leaf, result_message, verify_signature
from agentfield.lossy import http_status
from agentfield.values import Encoded, clean_text, encode, nearest
from agentfield.wire.frames import MAX_PAUSE_BYTES, Result
from agentfield.wire.link_protocol import PROOFS
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.engine.results.proofs import Body, ProofVerifier, commit_input
from agentfield_server.nodes import AssignedAttempt, LinkedNode
from agentfield_server.store.records import Execution

__all__ = ["MAX_OUTPUT", "Outcome", "ResultVerifier", "encode_output"]

MAX_OUTPUT = 1024 * 1024
"""Bytes of an output as canonical JSON."""

_MAX_PROBLEM = 32 * 1024
_MAX_DETAIL = 4000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verified outcome of an attempt, as it is recorded."""

    status: ExecutionStatus
    output: Any = None
    output_text: str | None = None
    """The output as JSON text that reads back as it, where it is at hand."""
    problem: dict[str, Any] | None = None
    input_digest: str | None = None
    output_digest: str | None = None
    signature: str | None = None
    signer: str | None = None
    """DID of the node; None if it did not sign this outcome."""
    statement: str | None = None
    proof: str | None = None


class ResultVerifier:
    """Checks signatures, bodies and sizes of results.

    Args:
        audience: DID of this control plane, for which results must be stated.
    """

    def __init__(self, audience: str) -> None:
        self._proofs = ProofVerifier(audience)

    def verify(
        self, frame: Result, *, link: LinkedNode, assigned: AssignedAttempt, output: Encoded | InvalidInput
    ) -> Outcome:
        """Return the outcome of an attempt, or a failure with the reason when a check fails.

        Args:
            frame: The result of the node.
            link: The instance that reports it; the version of its link decides how it must be signed.
            assigned: The attempt as it was invoked.
            output: What `encode_output` returned for the result.
        """
        if link.protocol < PROOFS:
            given = None if assigned.execution is None else digest(assigned.execution.input)
            return _verify_alone(frame, output, did=link.did, input_digest=given)
        if frame.proof is None or frame.signature is not None:
            return _refused(frame, "The result is signed as in protocol 1; its link has protocol 2.", "bad_proof")
        if frame.status == "parked" and frame.pause is None:
            return _refused(frame, "The result says that the attempt waits, and not for what.", "bad_proof")
        try:
            body, ended_with = _ended_with(frame, output)
        except InvalidInput as error:
            return _cannot_be_carried(frame, _WHAT.get(frame.status, "The problem of the result"), error)
        try:
            statement = self._proofs.statement(frame, link=link, assigned=assigned, body=body, ended_with=ended_with)
            proof = self._proofs.verify(link.did, statement, frame.proof)
        except InvalidInput as error:
            return _refused(frame, error.message, error.code)
        if frame.status == "parked":
            return _pause_too_large(frame) or Outcome(status="waiting")
        if frame.status != "succeeded":
            value, text, problem = None, None, _problem(frame)
        elif isinstance(output, InvalidInput):
            return _cannot_be_carried(frame, _WHAT["succeeded"], output)
        elif len(output) > MAX_OUTPUT:
            return _too_large(frame, output)
        else:
            value, text, problem = output.value, output.text, None
        return Outcome(
            status=frame.status,
            output=value,
            output_text=text,
            problem=problem,
            signer=link.did,
            statement=statement.decode(),
            proof=proof,
        )

    async def is_recorded(self, frame: Result, *, link: LinkedNode, row: Execution) -> bool:
        """Return whether a result that comes again is the recorded one: by its leaf, or in protocol 1 by its signature."""
        if row.attempt != frame.attempt:
            return False
        if link.protocol < PROOFS or row.statement is None:
            return row.signature is not None and row.signature == frame.signature
        if row.input_salt is None:
            return False
        assigned = AssignedAttempt.of(row)
        assigned.input_commitment = await commit_input(row.input_salt, row.input)
        try:
            body, ended_with = _ended_with(frame, await asyncio.to_thread(encode_output, frame))
            stated = self._proofs.statement(frame, link=link, assigned=assigned, body=body, ended_with=ended_with)
        except InvalidInput:
            return False
        return result_leaf(stated) == result_leaf(row.statement.encode())


def encode_output(frame: Result) -> Encoded | InvalidInput:
    """Return the output of a result as it is carried, or why it cannot be carried."""
    try:
        return encode(frame.output, name="the output")
    except InvalidInput as error:
        return error


def _ended_with(frame: Result, output: Encoded | InvalidInput) -> tuple[Body, bytes]:
    """Return what a result commits to: name and canonical form.

    Raises:
        InvalidInput: It has no canonical form.
    """
    if frame.status == "succeeded":
        if isinstance(output, InvalidInput):
            raise output
        return "output", output.canonical
    if frame.status == "parked":
        if frame.pause is not None:
            encode(frame.pause.details, name="details")
        return "pause", canonical(None if frame.pause is None else frame.pause.model_dump(mode="json"))
    return "problem", canonical(frame.problem)


_WHAT = {
    "succeeded": "The function ran, but its result",
    "parked": "The pause that the function asked for",
}


def _verify_alone(frame: Result, output: Encoded | InvalidInput, *, did: str, input_digest: str | None) -> Outcome:
    """Check a result of protocol 1, which has digests and a signature of its own.

    Args:
        frame: The result of the node.
        output: Its output, or why it cannot be carried.
        did: Decentralised identifier that the node proved at the handshake.
        input_digest: Digest of the input that it was given, None when it is not known.
    """
    if frame.signature is None or frame.input_digest is None or frame.proof is not None:
        return _refused(frame, "The result is signed as in protocol 2; its link has protocol 1.", "bad_signature")
    message = result_message(frame.execution_id, frame.attempt, frame.status, frame.input_digest, frame.output_digest)
    if not verify_signature(did, message, frame.signature):
        return _refused(frame, "The signature of the result does not fit the node's key.", "bad_signature")
    if input_digest is not None and frame.input_digest != input_digest:
        return _refused(frame, "The node signed for another input than it was given.", "digest_mismatch")
    if frame.status == "parked":
        refusal = _check_pause(frame)
        refusal = refusal or _pause_too_large(frame)
        return refusal or Outcome(status="waiting", input_digest=frame.input_digest)
    succeeded = frame.status == "succeeded"
    if succeeded and (refusal := _check_output(frame, output)) is not None:
        return refusal
    return Outcome(
        status=frame.status,
        output=output.value if isinstance(output, Encoded) and succeeded else None,
        output_text=output.text if isinstance(output, Encoded) and succeeded else None,
        problem=None if succeeded else _problem(frame),
        input_digest=frame.input_digest,
        output_digest=frame.output_digest,
        signature=frame.signature,
        signer=did,
    )


def _check_pause(frame: Result) -> Outcome | None:
    try:
        encode(None if frame.pause is None else frame.pause.details, name="details")
    except InvalidInput as error:
        return _cannot_be_carried(frame, _WHAT["parked"], error)
    if frame.pause is None or frame.output_digest != digest(frame.pause.model_dump(mode="json")):
        return _refused(frame, "The node signed for another pause than it asked for.", "digest_mismatch")
    return None


def _check_output(frame: Result, output: Encoded | InvalidInput) -> Outcome | None:
    if isinstance(output, InvalidInput):
        return _cannot_be_carried(frame, _WHAT["succeeded"], output)
    if len(output) > MAX_OUTPUT:
        return _too_large(frame, output)
    if frame.output_digest != output.digest:
        return _refused(frame, "The node signed for another output than it sent.", "digest_mismatch")
    return None


def _too_large(frame: Result, output: Encoded) -> Outcome:
    return _refused(
        frame,
        f"The output has {len(output)} bytes, more than the {MAX_OUTPUT} that may be returned.",
        "output_too_large",
        hint="return a reference to large data (a path, an address) instead of the data",
    )


def _pause_too_large(frame: Result) -> Outcome | None:
    size = 0 if frame.pause is None else frame.pause.size
    if size <= MAX_PAUSE_BYTES:
        return None
    return _refused(
        frame,
        f"A pause request may be {MAX_PAUSE_BYTES} bytes of JSON; this one is {size}.",
        "limit_exceeded",
        hint="pass a reference to large data instead of the data",
    )


def _cannot_be_carried(frame: Result, what: str, unfit: InvalidInput | None) -> Outcome:
    why, hint, field = (unfit.message, unfit.hint, unfit.data.get("field")) if unfit else ("", None, None)
    error = ExecutionFailed(
        f"{what} cannot be carried: {why}",
        hint=hint,
        reason="unrepresentable",
        field=field,
        execution_id=frame.execution_id,
    )
    return Outcome(status="failed", problem=error.to_problem())


def _refused(frame: Result, message: str, code: str, *, hint: str | None = None) -> Outcome:
    """Return a failure without a signature: the node did not sign it."""
    error = ExecutionFailed(message, code=code, hint=hint, execution_id=frame.execution_id)
    return Outcome(status="failed", problem=error.to_problem())


def _problem(frame: Result) -> dict[str, Any]:
    """Return the problem document of the node; one that is too large is reduced to a truncated detail."""
    default = _DEFAULTS[frame.status]("The node gave no reason.").to_problem()
    given: dict[str, Any] = nearest(dict(frame.problem or {}))
    if "status" in given:
        given["status"] = http_status(given["status"])
    if len(encode(given)) <= _MAX_PROBLEM:
        return {**default, **given}
    detail = clean_text(str(given.get("detail", default["detail"])))[:_MAX_DETAIL]
    return {**default, "detail": detail}


_DEFAULTS: dict[str, type[ExecutionError]] = {
    "failed": ExecutionFailed,
    "cancelled": ExecutionCancelled,
    "timeout": ExecutionTimeout,
}
