"""Nodes over REST: list them, drain them, admit and revoke their DIDs, and the WebSocket of their links."""

from __future__ import annotations

from aiohttp import web

from agentfield.wire.node_views import AdmitRequest, NodeDidView
from agentfield_server.access.principals import PRINCIPAL, Principal
from agentfield_server.api.http.bodies import json_reply, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.nodes import DEVELOPMENT, LinkCredential, LinkHub

__all__ = ["link_credential", "routes"]

_LIMIT = "node:"
"""Prefix of the tags of a key that limit it to node ids."""


def link_credential(principal: Principal) -> LinkCredential:
    """Return the credential of a link that a principal opens.

    A key for nodes admits further DIDs of the node ids that it may link as. The key of the settings, which is everybody's,
    does not.
    """
    if principal.kind == "local":
        return DEVELOPMENT
    limited = frozenset(tag.removeprefix(_LIMIT) for tag in principal.tags if tag.startswith(_LIMIT))
    return LinkCredential(
        principal.id,
        nodes=limited,
        admits=bool(limited) or "operator" not in principal.scopes,
    )


def routes(hub: LinkHub) -> list[Route]:
    """Return the routes of the resource."""
    return [*_link_routes(hub), *_did_routes(hub)]


def _link_routes(hub: LinkHub) -> list[Route]:
    async def nodes(_request: web.Request) -> web.Response:
        """List the linked instances and the nodes that are known from earlier links."""
        return json_reply(hub.views())

    async def drain(request: web.Request) -> web.Response:
        """Drain an instance, or all instances of a node."""
        return json_reply(await hub.drain(request.match_info["name"]), status=202)

    async def link(request: web.Request) -> web.WebSocketResponse:
        """Serve the link of a node."""
        return await hub.handle(request, link_credential(request[PRINCIPAL]))

    return [
        Route("GET", "/api/v1/nodes", nodes, ("operator", "reader"), "List the nodes"),
        Route(
            "POST", "/api/v1/nodes/{name}/drain", drain, ("operator",), "Drain a node: it ends when its work is done"
        ),
        Route(
            "GET",
            "/api/v1/nodes/link",
            link,
            ("node",),
            "The WebSocket of a node's link",
            view="node",
            stream=True,
            socket=True,
        ),
    ]


def _did_routes(hub: LinkHub) -> list[Route]:
    async def dids(request: web.Request) -> web.Response:
        """List the DIDs of all node ids, or of the one that `node` names."""
        return json_reply(await hub.identities.views(request.query.get("node")))

    async def admit(request: web.Request) -> web.Response:
        """Let a DID link as a node id."""
        body = await read_model(request, AdmitRequest)
        node_id, principal = request.match_info["node_id"], request[PRINCIPAL].id
        return json_reply(await hub.identities.admit(node_id, body.did, principal=principal), status=201)

    async def revoke(request: web.Request) -> web.Response:
        """Refuse a DID from now on and close its links."""
        return json_reply(await hub.identities.revoke(request.match_info["node_id"], request.match_info["did"]))

    async def forget(request: web.Request) -> web.Response:
        """Delete a DID."""
        await hub.identities.forget(request.match_info["node_id"], request.match_info["did"])
        return json_reply({"forgotten": True})

    base = "/api/v1/nodes/{node_id}/dids"
    return [
        Route("GET", "/api/v1/nodes/dids", dids, ("operator", "reader"), "List the DIDs of node ids"),
        Route(
            "POST",
            base,
            admit,
            ("operator",),
            "Let a DID link as a node id",
            request=AdmitRequest,
            response=NodeDidView,
        ),
        Route("POST", base + "/{did}/revoke", revoke, ("operator",), "Revoke a DID", response=NodeDidView),
        Route("DELETE", base + "/{did}", forget, ("operator",), "Forget a DID"),
    ]
