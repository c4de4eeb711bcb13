"""Verification of the result that a node reports for an attempt: signature, digests and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentfield.errors import (
    ExecutionCancelled,
    ExecutionError,
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
)
from agentfield.identity import digest, result_message, verify_signature
from agentfield.values import Encoded, clean_text, encode, encode_off_loop, nearest
from agentfield.wire.frames import Result
from agentfield.wire.rest import ExecutionStatus

__all__ = ["MAX_OUTPUT", "Outcome", "verify_result"]

MAX_OUTPUT = 1024 * 1024
"""Bytes of an output as canonical JSON."""

_MAX_PROBLEM = 32 * 1024
_MAX_DETAIL = 4000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verified outcome of an attempt, as it is recorded."""

    status: ExecutionStatus
    output: Any = None
    problem: dict[str, Any] | None = None
    input_digest: str | None = None
    output_digest: str | None = None
    signature: str | None = None
    signer: str | None = None


async def verify_result(frame: Result, *, did: str, input_digest: str | None) -> Outcome:
    """Check signature, digests and size of a result; return a failure with the reason when a check fails.

    Args:
        frame: The result of the node.
        did: Decentralised identifier that the node proved at the handshake.
        input_digest: Digest of the input that it was given, None when it is not known.
    """
    output: Encoded | None = None
    unfit: InvalidInput | None = None
    try:
        output = await encode_off_loop(frame.output, name="the output")
    except InvalidInput as error:
        unfit = error
    message = result_message(frame.execution_id, frame.attempt, frame.status, frame.input_digest, frame.output_digest)
    if not verify_signature(did, message, frame.signature):
        return _refused(frame, "The signature of the result does not fit the node's key.", "bad_signature")
    if input_digest is not None and frame.input_digest != input_digest:
        return _refused(frame, "The node signed for another input than it was given.", "digest_mismatch")
    if frame.status == "parked":
        refusal = _check_pause(frame)
        return refusal or Outcome(status="waiting", input_digest=frame.input_digest)
    succeeded = frame.status == "succeeded"
    if succeeded and (refusal := _check_output(frame, output, unfit)) is not None:
        return refusal
    return Outcome(
        status=frame.status,
        output=output.value if output is not None and succeeded else None,
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
        return _cannot_be_carried(frame, "The pause that the function asked for", error)
    if frame.pause is None or frame.output_digest != digest(frame.pause.model_dump(mode="json")):
        return _refused(frame, "The node signed for another pause than it asked for.", "digest_mismatch")
    return None


def _check_output(frame: Result, output: Encoded | None, unfit: InvalidInput | None) -> Outcome | None:
    if output is None or unfit is not None:
        return _cannot_be_carried(frame, "The function ran, but its result", unfit)
    if len(output) > MAX_OUTPUT:
        return _refused(
            frame,
            f"The output has {len(output)} bytes, more than the {MAX_OUTPUT} that may be returned.",
            "output_too_large",
            hint="return a reference to large data (a path, an address) instead of the data",
        )
    if frame.output_digest != output.digest:
        return _refused(frame, "The node signed for another output than it sent.", "digest_mismatch")
    return None


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
    if len(encode(given)) <= _MAX_PROBLEM:
        return {**default, **given}
    detail = clean_text(str(given.get("detail", default["detail"])))[:_MAX_DETAIL]
    return {**default, "detail": detail}


_DEFAULTS: dict[str, type[ExecutionError]] = {
    "failed": ExecutionFailed,
    "cancelled": ExecutionCancelled,
    "timeout": ExecutionTimeout,
}
