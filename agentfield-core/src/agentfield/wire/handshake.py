"""Frames of the handshake of a node link, and the digest of a hello, which both sides sign in version 2."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from agentfield.errors import InvalidInput
from agentfield.identity import digest
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.link_protocol import NODE_ID, OLDEST_PROTOCOL, Frame, Number, RunningAttempt
from agentfield.wire.node_declarations import FunctionSpec, InstalledPair

__all__ = ["MAX_DECLARATIONS", "Challenge", "Hello", "Refused", "WatchHello", "Welcome", "hello_digest", "unique_names"]

MAX_DECLARATIONS = 1000
"""Reasoners, and sessions, that one node may declare; the control plane refuses more with the code `too_many_declarations`."""


class Challenge(Frame):
    """First frame: a nonce, which the node signs to prove possession of its key."""

    type: Literal["challenge"] = "challenge"
    nonce: str
    protocol: int = OLDEST_PROTOCOL
    protocols: tuple[int, ...] = ()
    """Versions that the control plane speaks; empty if only `protocol`."""
    did: str | None = Field(default=None, max_length=200)
    """DID of the control plane, from version 2 on."""


class Hello(Frame):
    """The node's identity, its declarations, and the work that it still has."""

    type: Literal["hello"] = "hello"
    protocol: int = OLDEST_PROTOCOL
    """The version that the node chose from `Challenge.protocols`."""
    node_id: str = Field(pattern=NODE_ID)
    instance_id: str = Field(max_length=200)
    """New for every process; several instances may share a node id."""
    did: str
    signature: str
    """Base64url Ed25519 signature over `agentfield.identity.hello_message(...)`; in version 1, over `challenge_message(...)`."""
    nonce: str | None = Field(default=None, max_length=200)
    """In version 2: random text of the node; the control plane signs it with the rest of the hello in its welcome."""
    concurrency: int = Field(default=100, ge=1, le=10_000)
    functions: tuple[FunctionSpec, ...] = ()
    sessions: tuple[SessionDeclaration, ...] = ()
    running: tuple[RunningAttempt, ...] = ()
    """At most `MAX_REPORTED`, like `results` and `open_sessions`; the control plane refuses more with the code `too_much_work`."""
    results: tuple[RunningAttempt, ...] = ()
    """Results that were not acknowledged; they follow as `Result` frames after `Welcome`."""
    open_sessions: tuple[tuple[str, Number], ...] = ()
    """Session id and epoch of each handler that still runs."""
    pairs: tuple[InstalledPair, ...] = Field(default=(), max_length=1000)
    """Pairs of the node's own plugins, which may differ from those of the control plane."""
    draining: bool = False
    """Whether the instance accepts no new work."""
    given_back: Number = 0
    """Number of the last `GiveBack`: `running` is what the node has after it."""


class Welcome(Frame):
    """The node is linked: decisions about the work that it still runs, and acknowledged results."""

    type: Literal["welcome"] = "welcome"
    keep: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    ack: tuple[str, ...] = ()
    refused: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sessions that are not registered, by name, each with a problem document; the rest of the node is registered."""
    signature: str | None = None
    """In version 2: base64url Ed25519 signature of the control plane over `agentfield.identity.welcome_message(...)`."""


class Refused(Frame):
    """The node may not link; it must not reconnect unless `retry`."""

    type: Literal["refused"] = "refused"
    problem: dict[str, Any]
    retry: bool = False


class WatchHello(Frame):
    """First frame of the second connection of a node, which its watchdog opens while the event loop is blocked."""

    type: Literal["watch"] = "watch"
    protocol: int
    node_id: str = Field(pattern=NODE_ID)
    instance_id: str = Field(max_length=200)
    did: str
    signature: str
    """Signature as in `Hello`, over this frame and the nonce of this connection."""


def hello_digest(text: str) -> str:
    """Return the digest of the frame `hello` or `watch` without its signature, as both sides sign it in version 2.

    Args:
        text: The frame as it is sent.

    Raises:
        InvalidInput: It is not an object with a canonical form, or a name occurs twice in it.
    """
    try:
        fields = json.loads(text, object_pairs_hook=unique_names)
        del fields["signature"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"The hello cannot be signed: {error}.", code="malformed_json") from None
    try:
        return digest(fields)
    except InvalidInput as error:
        raise InvalidInput(f"The hello cannot be signed. {error.message}", code="unrepresentable") from None


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object, for `json.loads`.

    Raises:
        ValueError: A name occurs twice.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return fields
