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

    return [
        Route(method="GET", path="/api/v1/nodes", handler=nodes, access="operator", summary="Linked nodes"),
        Route(
            method="GET",
            path="/api/v1/nodes/link",
            handler=hub.handle,
            access="node",
            summary="The WebSocket of a node",
            stream=True,
        ),
    ]
