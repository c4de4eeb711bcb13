"""The exact bytes that nodes sign; each message begins with its own type, so that no signature is valid for another type."""

from __future__ import annotations

from agentfield.identity.canonical import canonical

__all__ = ["challenge_message", "result_message"]


def challenge_message(nonce: str, node_id: str, instance_id: str) -> bytes:
    """Return the message that a node signs to prove possession of its key in the link handshake."""
    return b"agentfield/link-challenge/1\n" + canonical(
        {"nonce": nonce, "node_id": node_id, "instance_id": instance_id}
    )


def result_message(execution_id: str, attempt: int, status: str, input_digest: str, output_digest: str | None) -> bytes:
    """Return the message that a node signs about the outcome of an attempt."""
    return b"agentfield/result/1\n" + canonical(
        {
            "execution_id": execution_id,
            "attempt": attempt,
            "status": status,
            "input_digest": input_digest,
            "output_digest": output_digest,
        }
    )
