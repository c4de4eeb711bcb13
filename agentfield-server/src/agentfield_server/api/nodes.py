"""Nodes over REST: who is linked, and the link itself."""

from __future__ import annotations

from aiohttp import web

from agentfield_server.api.http import json_reply
from agentfield_server.api.routes import Route
from agentfield_server.nodes import LinkHub

__all__ = ["routes"]


def routes(hub: LinkHub) -> list[Route]:
    """Return the routes of the resource."""

    async def nodes(_request: web.Request) -> web.Response:
        """List the linked instances, and the nodes that were linked before."""
        return json_reply(hub.views())

    async def drain(request: web.Request) -> web.Response:
        """Let an instance, or all of a node, end when what they have is done."""
        return json_reply(await hub.drain(request.match_info["name"]), status=202)

    return [
        Route("GET", "/api/v1/nodes", nodes, "operator", "Linked nodes"),
        Route("POST", "/api/v1/nodes/{name}/drain", drain, "operator", "Let a node end when its work is done"),
        Route("GET", "/api/v1/nodes/link", hub.handle, "node", "The WebSocket of a node", stream=True, socket=True),
    ]
