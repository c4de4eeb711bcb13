"""Route table entries, from which the application and its OpenAPI document are built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from agentfield_server.access.principals import Access

__all__ = ["Handler", "Route"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the REST interface; `access` is required, so that no route is open by omission."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Absolute path with aiohttp's placeholders; a route that grants `token` has ``{session_id}``."""
    handler: Handler
    access: Access
    """Grants that may use the route, any of which suffices; at least one."""
    summary: str
    _: KW_ONLY
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    stream: bool = False
    """True for event streams and sockets, which have no end of their own: they are cancelled when the control plane stops."""
    media_type: str = "application/json"
    """Media type of the response."""
    accepts: tuple[str, ...] = ()
    """Accepted media types of the request body, if it is not the JSON of `request`."""
    socket: bool = False
    """True for a WebSocket."""
    description: str = ""
    """Further text for the OpenAPI document."""

    def __post_init__(self) -> None:
        if not self.access:
            raise ValueError(f"{self.method} {self.path} names no grant of access")
