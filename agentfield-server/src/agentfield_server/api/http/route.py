"""Route table entries, from which the application and its OpenAPI document are built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from agentfield_server.access.guard import DETAILS
from agentfield_server.access.principals import PRINCIPAL, Access
from agentfield_server.store.records import TokenCount

__all__ = ["Handler", "Route", "View", "is_token", "view_of"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

View = Literal["caller", "node", "operator"]
"""Who may see what a route answers. A route with the caller's view shows more to those that may see all."""


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
    view: View = "operator"
    """The view that its least grant gets; `caller` where callers, or everybody, may use the route."""
    watches: bool = False
    """Whether a browser token with the right to watch may use it."""
    counts: TokenCount | None = None
    """What a use costs a browser token."""
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
        if not {"token", "public"}.isdisjoint(self.access) and self.view != "caller":
            raise ValueError(f"{self.method} {self.path} is open to callers and shows them the {self.view}'s view")


def is_token(request: web.Request) -> bool:
    """Return whether a request comes with a browser token."""
    principal = request.get(PRINCIPAL)
    return principal is not None and principal.kind == "token"


def view_of(request: web.Request) -> View:
    """Return the view that the principal of a request gets on a route with the caller's view."""
    principal = request.get(PRINCIPAL)
    if principal is None or principal.kind in ("public", "transport"):
        return "caller"
    if principal.kind == "token":
        return "operator" if request.get(DETAILS) else "caller"
    return "caller" if principal.scopes.isdisjoint(("operator", "reader")) else "operator"
