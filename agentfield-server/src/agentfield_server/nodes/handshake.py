"""The handshake of a node link: challenge, signed hello, and the refusal of a node."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from agentfield.arguments import MAX_TIMEOUT
from agentfield.errors import AgentFieldError, InvalidInput, NodeRefused, Unavailable
from agentfield.identity import (
    NodeKey,
    b64url,
    challenge_message,
    hello_message,
    verify_signature,
    welcome_message,
)
from agentfield.values import encode
from agentfield.wire.frames import Challenge, Hello, Refused, WatchHello, Welcome, decode_node_frame, encode_frame
from agentfield.wire.framing import split_frames
from agentfield.wire.handshake import MAX_DECLARATIONS, hello_digest
from agentfield.wire.link_protocol import MAX_REPORTED, PROOFS, PROTOCOLS
from agentfield_server.nodes.linked_node import LinkedNode

__all__ = ["decode_frames", "node_id_in_use", "perform_handshake", "refuse_link", "signed_welcome"]

_log = logging.getLogger("agentfield.nodes")
_HANDSHAKE_TIMEOUT = 10.0


async def perform_handshake(
    socket: web.WebSocketResponse, *, did: str, stopping: Callable[[], bool]
) -> tuple[Hello | WatchHello, str]:
    """Challenge a node and return its verified hello, of a link or of the connection of its watchdog, and its digest.

    The digest, which the welcome is signed with, is empty in version 1.

    Args:
        socket: The WebSocket of the link.
        did: DID of this control plane.
        stopping: Returns whether the control plane is stopping and accepts no more nodes.

    Raises:
        NodeRefused: No hello came in time, or the hello is invalid: protocol, signature, duplicate names, or a declaration that
            cannot be carried (code `unrepresentable`).
        Unavailable: The control plane is stopping.
    """
    nonce = secrets.token_urlsafe(32)
    await socket.send_str(encode_frame(Challenge(nonce=nonce, protocols=PROTOCOLS, did=did)))
    try:
        message = await socket.receive(timeout=_HANDSHAKE_TIMEOUT)
    except TimeoutError:
        raise NodeRefused(
            f"The node said nothing within {_HANDSHAKE_TIMEOUT:g} s.", code="no_hello", retry=True
        ) from None
    hello, *_ = decode_frames(message)
    if not isinstance(hello, (Hello, WatchHello)):
        raise NodeRefused("A link begins with hello.", code="no_hello")
    if stopping():
        raise Unavailable("The control plane is stopping.", code="stopping", retry=True)
    return hello, _check(hello, split_frames(message.data)[0], nonce=nonce, did=did)


def signed_welcome(welcome: Welcome, key: NodeKey, hello: Hello, digest: str) -> Welcome:
    """Return a welcome with the signature by which the control plane proves its DID; without one in version 1."""
    if hello.protocol < PROOFS:
        return welcome
    message = welcome_message(hello=digest, protocol=hello.protocol)
    return welcome.model_copy(update={"signature": b64url(key.sign(message))})


async def refuse_link(socket: web.WebSocketResponse, error: AgentFieldError) -> None:
    """Send a node the reason of its refusal and close the socket."""
    _log.warning("a node link was refused: %s", error.message)
    problem = error.to_problem()
    # what is unavailable now (the store, say) is no fault of the node
    retry = bool(problem.pop("retry", isinstance(error, Unavailable)))
    if socket.closed:
        return
    with contextlib.suppress(ConnectionError):  # the node has closed the connection already
        await socket.send_str(encode_frame(Refused(problem=problem, retry=retry)))
        await socket.close(code=aiohttp.WSCloseCode.POLICY_VIOLATION)


def node_id_in_use(hello: Hello, linked: Sequence[LinkedNode]) -> NodeRefused | None:
    """Return the refusal of an instance that shares no declared name with the linked instances of its node.

    Such an instance is another agent under the same id: as an instance of the node it would get no work, and the calls
    of its own functions would depend on which agent linked last.
    """
    names, known = set(_names(hello)), {name for link in linked for name in _names(link.hello)}
    if not names or not known or names & known:
        return None
    return NodeRefused(
        f"The node id {hello.node_id!r} is in use by another agent: it declares {_listed(known)}, this one "
        f"{_listed(names)}.",
        code="node_id_in_use",
        hint=f"give this agent an id of its own, Agent({hello.node_id + '-2'!r}), or stop the other: "
        f"af nodes drain {hello.node_id}",
        node_id=hello.node_id,
    )


def _names(hello: Hello) -> list[str]:
    return [spec.name for spec in hello.functions] + [session.name for session in hello.sessions]


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:8]) + (f" and {len(first) - 8} more" if len(first) > 8 else "")


def decode_frames(message: aiohttp.WSMessage) -> list[Any]:
    """Return the frames of a message.

    Raises:
        NodeRefused: It is not text, or a frame is not of this protocol (code `bad_frame`).
    """
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise NodeRefused("A link carries JSON text messages.", code="bad_frame", retry=True)
    try:
        return [decode_node_frame(frame) for frame in split_frames(message.data)]
    except InvalidInput as error:
        raise NodeRefused(
            f"The node sent a frame that is not of this protocol: {error.message}",
            code=error.code,
            hint=error.hint,
            retry=True,
        ) from None


def _check(hello: Hello | WatchHello, text: str, *, nonce: str, did: str) -> str:
    """Check a hello and return its digest; the version that it states decides how it is signed."""
    if hello.protocol not in PROTOCOLS:
        raise NodeRefused(
            f"The node speaks version {hello.protocol} of the node link, this control plane"
            f" {' and '.join(map(str, PROTOCOLS))}.",
            code="protocol_mismatch",
            hint="install the same version of agentfield-core and agentfield-server",
        )
    if isinstance(hello, Hello):
        _check_number(hello)
        if hello.protocol >= PROOFS and not hello.nonce:
            raise NodeRefused(
                f"The hello of {hello.node_id!r} has no nonce, which version {PROOFS} of the node link requires.",
                code="bad_frame",
                hint="install the same version of agentfield-core and agentfield-server",
                field="nonce",
            )
    of_frame = ""
    if hello.protocol < PROOFS:
        message = challenge_message(nonce, hello.node_id, hello.instance_id)
    else:
        try:
            of_frame = hello_digest(text)
        except InvalidInput as error:
            # before the signature, because what cannot be carried cannot be signed either: the declaration is named
            if isinstance(hello, Hello):
                _check_carried(hello)
            raise NodeRefused(error.message, code=error.code, hint=error.hint) from None
        message = hello_message(audience=did, protocol=hello.protocol, nonce=nonce, hello=of_frame)
    if not verify_signature(hello.did, message, hello.signature):
        raise NodeRefused(
            f"The signature of {hello.node_id!r} does not fit its did, this control plane ({did}) and its hello.",
            code="bad_signature",
        )
    if isinstance(hello, Hello):
        _check_names(hello)
        _check_timeouts(hello)
        _check_carried(hello)
    return of_frame


def _check_number(hello: Hello) -> None:
    for what, number in (("functions", len(hello.functions)), ("sessions", len(hello.sessions))):
        if number > MAX_DECLARATIONS:
            raise NodeRefused(
                f"The node {hello.node_id!r} declares {number} {what}; a node may declare {MAX_DECLARATIONS}.",
                code="too_many_declarations",
                hint="distribute them over several agents, each with an id of its own",
                field=what,
            )
    reported = (("running", hello.running), ("results", hello.results), ("open_sessions", hello.open_sessions))
    for what, entries in reported:
        if len(entries) > MAX_REPORTED:
            raise NodeRefused(
                f"The node {hello.node_id!r} reports {len(entries)} {what}; a node may report {MAX_REPORTED}.",
                code="too_much_work",
                hint="start the node again: what it runs is then run on its other instances",
                field=what,
            )


def _check_names(hello: Hello) -> None:
    if doubles := sorted(name for name, number in Counter(_names(hello)).items() if number > 1):
        raise NodeRefused(
            f"The node {hello.node_id!r} declares {_listed(doubles)} more than once.",
            code="duplicate_name",
            hint="give each reasoner and session its own name",
        )


def _check_timeouts(hello: Hello) -> None:
    for spec in hello.functions:
        if spec.timeout is not None and spec.timeout > MAX_TIMEOUT:
            raise NodeRefused(
                f"The reasoner {spec.name!r} of the node {hello.node_id!r} declares a timeout of {spec.timeout:g} s; it may be"
                f" {MAX_TIMEOUT} s, one day.",
                code="invalid_declaration",
                hint="leave timeout out for no limit",
                field=f"{spec.name}.timeout",
            )


def _check_carried(hello: Hello) -> None:
    for name, spec in [*((f.name, f) for f in hello.functions), *((s.name, s) for s in hello.sessions)]:
        try:
            encode(spec.model_dump(mode="json"), name=name)
        except InvalidInput as error:
            raise NodeRefused(
                f"A declaration of the node {hello.node_id!r} cannot be carried: {error.message}",
                code=error.code,
                hint=error.hint,
                field=error.data["field"],
            ) from None
