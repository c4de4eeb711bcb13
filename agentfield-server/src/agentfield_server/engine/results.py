"""Verification of the result that a node reports for an attempt: signature, digests and size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentfield.errors import (
    ExecutionCancelled,
    ExecutionError,
    ExecutionFailed,
    ExecutionTimeout,
    InvalidInput,
)
from agentfield.identity import canonical, digest, digest_of, result_message, verify_signature
from agentfield.wire.frames import Result
from agentfield.wire.rest import ExecutionStatus

__all__ = ["MAX_OUTPUT", "Outcome", "verify_result"]

MAX_OUTPUT = 1024 * 1024
"""Bytes of an output as canonical JSON."""

_MAX_PROBLEM = 32 * 1024
_LARGE = 32 * 1024
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
    # `canonical` is pure Python and slow, the json module is not: a large output is checked in a thread
    if len(json.dumps(frame.output)) > _LARGE:
        return await asyncio.to_thread(_verify, frame, did, input_digest)
    return _verify(frame, did, input_digest)


def _verify(frame: Result, did: str, input_digest: str | None) -> Outcome:
    message = result_message(frame.execution_id, frame.attempt, frame.status, frame.input_digest, frame.output_digest)
    if not verify_signature(did, message, frame.signature):
        return _refused(frame, "The signature of the result does not fit the node's key.", "bad_signature")
    if input_digest is not None and frame.input_digest != input_digest:
        return _refused(frame, "The node signed for another input than it was given.", "digest_mismatch")
    output: Any = None
    problem: dict[str, Any] | None = None
    if frame.status == "parked":
        if frame.pause is None or frame.output_digest != digest(frame.pause.model_dump(mode="json")):
            return _refused(frame, "The node signed for another pause than it asked for.", "digest_mismatch")
        return Outcome(status="waiting", input_digest=frame.input_digest)
    if frame.status == "succeeded":
        if (refusal := _check_output(frame)) is not None:
            return refusal
        output = frame.output
    else:
        problem = _problem(frame)
    return Outcome(
        status=frame.status,
        output=output,
        problem=problem,
        input_digest=frame.input_digest,
        output_digest=frame.output_digest,
        signature=frame.signature,
        signer=did,
    )


def _check_output(frame: Result) -> Outcome | None:
    try:
        data = canonical(frame.output)
    except InvalidInput as error:
        return _refused(frame, f"The output is not JSON: {error.message}", "output_not_json")
    size = len(data)
    if size > MAX_OUTPUT:
        return _refused(
            frame,
            f"The output has {size} bytes, more than the {MAX_OUTPUT} that may be returned.",
            "output_too_large",
            hint="return a reference to large data (a path, an address) instead of the data",
        )
    if frame.output_digest != digest_of(data):
        return _refused(frame, "The node signed for another output than it sent.", "digest_mismatch")
    return None


def _refused(frame: Result, message: str, code: str, *, hint: str | None = None) -> Outcome:
    """Return a failure without a signature: the node did not sign it."""
    error = ExecutionFailed(message, code=code, hint=hint, execution_id=frame.execution_id)
    return Outcome(status="failed", problem=error.to_problem())


def _problem(frame: Result) -> dict[str, Any]:
    """Return the problem document of the node; one that is too large or no JSON is reduced to a truncated detail."""
    default = _DEFAULTS[frame.status]("The node gave no reason.").to_problem()
    given: Mapping[str, Any] = frame.problem or {}
    try:
        if len(canonical(dict(given))) <= _MAX_PROBLEM:
            return {**default, **given}
    except InvalidInput:
        pass
    detail = str(given.get("detail", default["detail"])).encode("utf-8", "replace").decode()[:_MAX_DETAIL]
    return {**default, "detail": detail}


_DEFAULTS: dict[str, type[ExecutionError]] = {
    "failed": ExecutionFailed,
    "cancelled": ExecutionCancelled,
    "timeout": ExecutionTimeout,
}
