"""Nodes over REST: list them, drain them, and the WebSocket of their links."""

from __future__ import annotations

from aiohttp import web

from agentfield_server.api.http.bodies import json_reply
from agentfield_server.api.http.route import Route
from agentfield_server.nodes import LinkHub

__all__ = ["routes"]


def routes(hub: LinkHub) -> list[Route]:
    """Return the routes of the resource."""

    async def nodes(_request: web.Request) -> web.Response:
        """List the linked instances and the nodes that are known from earlier links."""
        return json_reply(hub.views())

    async def drain(request: web.Request) -> web.Response:
        """Drain an instance, or all instances of a node."""
        return json_reply(await hub.drain(request.match_info["name"]), status=202)

    return [
        Route("GET", "/api/v1/nodes", nodes, ("operator", "reader"), "List the nodes"),
        Route(
            "POST", "/api/v1/nodes/{name}/drain", drain, ("operator",), "Drain a node: it ends when its work is done"
        ),
        Route(
            "GET",
            "/api/v1/nodes/link",
            hub.handle,
            ("node",),
            "The WebSocket of a node's link",
            stream=True,
            socket=True,
        ),
    ]
