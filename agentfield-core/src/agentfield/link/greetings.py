"""The handshake of a node: a hello for one control plane only, and the proof of that control plane in its welcome."""

from __future__ import annotations

from agentfield.errors import InvalidInput, NodeRefused
from agentfield.identity import (
    NodeKey,
    b64url,
    challenge_message,
    hello_message,
    verify_signature,
    welcome_message,
)
from agentfield.link.known_control_planes import KnownControlPlanes
from agentfield.wire.frames import Challenge, Hello, WatchHello, Welcome, encode_frame
from agentfield.wire.handshake import hello_digest
from agentfield.wire.link_protocol import PROOFS

__all__ = ["Greeter"]


class Greeter:
    """Signs the hellos of an instance and checks the welcomes.

    Args:
        key: The key of the node.
        known: The control planes that it may link to.
    """

    def __init__(self, key: NodeKey, known: KnownControlPlanes) -> None:
        self._key = key
        self._known = known
        self._audience = ""
        self._protocol = 1
        self._digest = ""

    @property
    def did(self) -> str:
        """The DID of the node."""
        return self._key.did

    def hello(self, hello: Hello, challenge: Challenge, url: str) -> str:
        """Return the signed first frame of a link, as it is sent.

        Raises:
            NodeRefused: The control plane is not the one that this node knows.
        """
        text, self._digest = self._signed(hello, challenge, url)
        self._audience, self._protocol = challenge.did or "", hello.protocol
        return text

    def watch(self, hello: WatchHello, challenge: Challenge, url: str) -> str:
        """Return the signed first frame of the watchdog's connection; called in its thread.

        Raises:
            NodeRefused: The control plane is not the one that this node knows.
        """
        return self._signed(hello, challenge, url)[0]

    def welcomed(self, welcome: Welcome, url: str) -> str:
        """Return the DID that the control plane has proven; it is remembered.

        Raises:
            NodeRefused: The welcome is not signed with the key of the DID that the challenge stated.
        """
        message = welcome_message(hello=self._digest, protocol=self._protocol)
        if not verify_signature(self._audience, message, welcome.signature or ""):
            raise NodeRefused(
                f"The control plane at {url} does not prove that it has the DID that it states, {self._audience}.",
                code="bad_signature",
                hint="see what answers at this address; a proxy must not answer for the control plane",
                url=url,
            )
        self._known.remember(url, self._audience)
        return self._audience

    def _signed(self, hello: Hello | WatchHello, challenge: Challenge, url: str) -> tuple[str, str]:
        """Return a frame with its signature, and its digest."""
        known = challenge.did
        if hello.protocol >= PROOFS and known is None:
            raise NodeRefused(
                f"The control plane at {url} offers version {hello.protocol} of the node link without its DID.",
                hint="Install the same version of agentfield-core and agentfield-server.",
            )
        self._known.check(url, known)
        of_frame = ""
        if hello.protocol < PROOFS or known is None:
            message = challenge_message(challenge.nonce, hello.node_id, hello.instance_id)
        else:
            try:
                of_frame = hello_digest(encode_frame(hello))
            except InvalidInput:
                return encode_frame(hello), ""  # the control plane names the declaration that cannot be carried
            message = hello_message(audience=known, protocol=hello.protocol, nonce=challenge.nonce, hello=of_frame)
        signed = hello.model_copy(update={"signature": b64url(self._key.sign(message))})
        return encode_frame(signed), of_frame
