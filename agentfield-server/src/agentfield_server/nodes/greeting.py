"""The first words of a node link: challenge, hello, and what a node is refused for."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from agentfield.errors import AgentFieldError, NodeRefused, Unavailable
from agentfield.identity import challenge_message, verify_signature
from agentfield.wire.frames import PROTOCOL, Challenge, Hello, Refused, decode_node_frame, encode_frame
from agentfield.wire.lines import frames_of

__all__ = ["decode", "greet", "refuse"]

_log = logging.getLogger("agentfield.nodes")
_GREETING = 10.0


async def greet(socket: web.WebSocketResponse, *, stopping: Callable[[], bool]) -> Hello:
    """Challenge a node and return its hello, which fits.

    Args:
        socket: The link.
        stopping: Tells whether no node is taken any more.

    Raises:
        NodeRefused: It said nothing, something else, or something that is not true.
        Unavailable: The control plane is stopping.
    """
    nonce = secrets.token_urlsafe(32)
    await socket.send_str(encode_frame(Challenge(nonce=nonce)))
    try:
        message = await socket.receive(timeout=_GREETING)
    except TimeoutError:
        raise NodeRefused(f"The node said nothing within {_GREETING:g} s.", code="no_hello", retry=True) from None
    hello, *_ = decode(message)
    if not isinstance(hello, Hello):
        raise NodeRefused("A link begins with hello.", code="no_hello")
    if stopping():
        raise Unavailable("The control plane is stopping.", code="stopping", retry=True)
    _check(hello, nonce)
    return hello


async def refuse(socket: web.WebSocketResponse, error: AgentFieldError) -> None:
    """Tell a node why its link ends, and end it."""
    _log.warning("a node link was refused: %s", error.message)
    problem = error.to_problem()
    retry = bool(problem.pop("retry", False))
    if socket.closed:
        return
    with contextlib.suppress(ConnectionError):  # it is gone already: then there is nobody to tell
        await socket.send_str(encode_frame(Refused(problem=problem, retry=retry)))
        await socket.close(code=aiohttp.WSCloseCode.POLICY_VIOLATION)


def decode(message: aiohttp.WSMessage) -> list[Any]:
    """Return the frames of a message.

    Raises:
        NodeRefused: It holds something else (code `bad_frame`).
    """
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise NodeRefused("A link carries JSON text messages.", code="bad_frame", retry=True)
    try:
        return [decode_node_frame(frame) for frame in frames_of(message.data)]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "(all)"
        raise NodeRefused(
            f"The node sent a frame that is not of this protocol: {where}: {first['msg'][:300]}.",
            code="bad_frame",
            hint="install the same version of agentfield-core and agentfield-server",
            retry=True,
        ) from None


def _check(hello: Hello, nonce: str) -> None:
    if hello.protocol != PROTOCOL:
        raise NodeRefused(
            f"The node speaks version {hello.protocol} of the node link, this control plane {PROTOCOL}.",
            code="protocol_mismatch",
            hint="install the same version of agentfield-core and agentfield-server",
        )
    message = challenge_message(nonce, hello.node_id, hello.instance_id)
    if not verify_signature(hello.did, message, hello.signature):
        raise NodeRefused(f"The signature of {hello.node_id!r} does not fit its did.", code="bad_signature")
    names = [spec.name for spec in hello.functions] + [session.name for session in hello.sessions]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise NodeRefused(
            f"The node {hello.node_id!r} declares {', '.join(doubles)} more than once.",
            code="duplicate_name",
            hint="give each reasoner and session its own name",
        )
