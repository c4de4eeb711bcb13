"""The exact bytes that nodes sign, besides the roots of results; each message begins with its own type.

So no signature is valid for a message of another type.
"""

from __future__ import annotations

from agentfield.identity.canonical import canonical

__all__ = ["challenge_message", "hello_message", "result_message", "welcome_message"]


def hello_message(*, audience: str, protocol: int, nonce: str, hello: str) -> bytes:
    """Return the message that a node signs in the handshake of protocol 2.

    Args:
        audience: DID of the control plane.
        protocol: Version of the link that the node chose.
        nonce: The nonce of the challenge.
        hello: Digest of the hello without its signature.
    """
    return b"agentfield/link-hello/2\n" + canonical(
        {"audience": audience, "protocol": protocol, "nonce": nonce, "hello": hello}
    )


def welcome_message(*, hello: str, protocol: int) -> bytes:
    """Return the message that a control plane signs in the handshake of protocol 2, about the hello that it accepted."""
    return b"agentfield/link-welcome/2\n" + canonical({"protocol": protocol, "hello": hello})


def challenge_message(nonce: str, node_id: str, instance_id: str) -> bytes:
    """Return the message that a node signs in the handshake of protocol 1."""
    return b"agentfield/link-challenge/1\n" + canonical(
        {"nonce": nonce, "node_id": node_id, "instance_id": instance_id}
    )


def result_message(execution_id: str, attempt: int, status: str, input_digest: str, output_digest: str | None) -> bytes:
    """Return the message that a node of protocol 1 signs about the outcome of an attempt."""
    return b"agentfield/result/1\n" + canonical(
        {
            "execution_id": execution_id,
            "attempt": attempt,
            "status": status,
            "input_digest": input_digest,
            "output_digest": output_digest,
        }
    )
