"""The route table: what every resource module hands over, and what the application and its OpenAPI document are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

__all__ = ["BEGUN", "Access", "Handler", "Route"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Access = Literal["public", "operator", "session", "node", "verified"]
"""Who may use a route: anybody; the operator's key; the operator or the session's browser token; a node; whoever the
transport of the route accepts by its own check."""

BEGUN = web.RequestKey("agentfield_begun", bool)
"""Set once the answer to a request has begun."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route; a route without access cannot be written."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Below the root, with aiohttp's placeholders; a `session` route has ``{session_id}``."""
    handler: Handler
    access: Access
    summary: str
    _: KW_ONLY
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    stream: bool = False
    """True for event streams and sockets, which outlive the deadline of ordinary requests."""
    media_type: str = "application/json"
    """What the body of an answer is."""
    accepts: tuple[str, ...] = ()
    """What the body of a request may be, where it is not the JSON of `request`."""
    socket: bool = False
    """True for a WebSocket."""
    description: str = ""
    """What more there is to know, for the OpenAPI document."""
