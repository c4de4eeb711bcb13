"""Results of attempts: their frames, their leaves, and one signature for all results of a message.

A result is stated when its attempt ends, and signed when it is written, together with the others of its message. Sent again it
has the same leaf, and the signature of another message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from agentfield.errors import InvalidInput
from agentfield.identity import (
    NodeKey,
    b64url,
    canonical,
    commitment,
    digest,
    digest_of,
    proof_text,
    result_leaf,
    result_message,
    result_statement,
    sign_results,
    unb64url,
)
from agentfield.values import Encoded, encode, nearest
from agentfield.wire.frames import Invoke, PauseRequest, Result, encode_frame

__all__ = ["Outcome", "ResultSigner", "UnsignedResult", "unsigned"]

_Status = Literal["succeeded", "failed", "cancelled", "timeout", "parked"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt."""

    status: _Status
    output: Encoded | None = None
    problem: dict[str, Any] | None = None
    pause: PauseRequest | None = None
    retry: bool = False
    """Whether the reasoner declares another attempt after this failure."""


@dataclass(frozen=True, slots=True)
class UnsignedResult:
    """A result that waits to be written."""

    text: str
    """The frame without its proof."""
    leaf: bytes

    def __len__(self) -> int:
        """Return the length of the text."""
        return len(self.text)


def unsigned(result: Result, leaf: bytes) -> UnsignedResult:
    """Return a result as it waits to be written."""
    return UnsignedResult(encode_frame(result), leaf)


class ResultSigner:
    """Makes and signs the results of one instance.

    Args:
        key: The key of the node.
        node_id: The node.
        instance_id: The instance.
    """

    def __init__(self, key: NodeKey, *, node_id: str, instance_id: str) -> None:
        self._key = key
        self._node_id = node_id
        self._instance_id = instance_id
        self.audience = ""
        """DID of the control plane, from the first link of version 2 on."""

    def result(self, invoke: Invoke, outcome: Outcome, *, took: float | None = None) -> tuple[Result, bytes | None]:
        """Return the frame of a result and its leaf; the leaf is None if the invocation came over a link of version 1.

        Args:
            invoke: The invocation.
            outcome: What the attempt ended with.
            took: Seconds that the function ran.
        """
        try:
            given = encode(invoke.input, name="input").canonical
        except InvalidInput as error:
            given, outcome = canonical(None), Outcome("failed", problem=error.to_problem())
        problem = nearest(outcome.problem)
        values: dict[str, Any] = {
            "execution_id": invoke.context.execution_id,
            "attempt": invoke.context.attempt,
            "epoch": invoke.epoch,
            "status": outcome.status,
            "output": None if outcome.output is None else outcome.output.value,
            "problem": problem,
            "pause": outcome.pause,
            "retry": outcome.retry,
            "took": took,
        }
        if invoke.input_salt is None or invoke.output_salt is None:
            return Result(**values, **self._signature_alone(invoke, outcome, digest_of(given))), None
        body: Literal["output", "problem", "pause"] = "problem"
        ended_with = b""
        if outcome.output is not None:
            body, ended_with = "output", outcome.output.canonical
        elif outcome.pause is not None:
            body, ended_with = "pause", canonical(outcome.pause.model_dump(mode="json"))
        statement = result_statement(
            audience=self.audience,
            node_id=self._node_id,
            instance_id=self._instance_id,
            execution_id=invoke.context.execution_id,
            attempt=invoke.context.attempt,
            epoch=invoke.epoch,
            target=f"{self._node_id}.{invoke.function}",
            run_id=invoke.context.run_id,
            parent_id=invoke.context.parent_id,
            session_id=invoke.context.session_id,
            status=outcome.status,
            retry=outcome.retry,
            input=commitment(unb64url(invoke.input_salt), given),
            body=body,
            outcome=commitment(unb64url(invoke.output_salt), ended_with or canonical(problem)),
        )
        return Result(**values), result_leaf(statement)

    def sign(self, frames: Iterable[str | UnsignedResult]) -> str:
        """Return the text of a message; its results are signed together.

        Args:
            frames: Its frames, of which at most 256 are results.
        """
        frames = list(frames)
        leaves = [frame.leaf for frame in frames if isinstance(frame, UnsignedResult)]
        proofs = iter(sign_results(self._key, audience=self.audience, leaves=leaves) if leaves else ())
        texts = []
        for frame in frames:
            if isinstance(frame, UnsignedResult):
                texts.append(f'{frame.text[:-1]},"proof":{proof_text(next(proofs).document())}}}')
            else:
                texts.append(frame)
        return "\n".join(texts)

    def _signature_alone(self, invoke: Invoke, outcome: Outcome, input_digest: str) -> dict[str, Any]:
        """Return digests and signature of a result of version 1."""
        output_digest = None if outcome.output is None else outcome.output.digest
        if outcome.pause is not None:
            output_digest = digest(outcome.pause.model_dump(mode="json"))
        message = result_message(
            invoke.context.execution_id, invoke.context.attempt, outcome.status, input_digest, output_digest
        )
        return {
            "input_digest": input_digest,
            "output_digest": output_digest,
            "signature": b64url(self._key.sign(message)),
        }
