"""HTTP connections that follow the local server: one that has ended between two requests is started again, wherever it then listens."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.errors import AgentFieldError
from agentfield_local.supervisor import Supervisor
from agentfield_openrouter.turns import CONNECTIONS

__all__ = ["following_session"]


def following_session(supervisor: Supervisor) -> aiohttp.ClientSession:
    """Return connections whose requests go to the server that runs now; no cookie is kept.

    A request that only reads never starts a server: one that has ended took with it what could be read.

    Args:
        supervisor: Finds or starts the server.
    """

    async def follow(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        try:
            found = await (supervisor.find() if request.method == "GET" else supervisor.ensure())
        except AgentFieldError as error:
            raise aiohttp.ClientConnectionError(error.message) from error
        if found is None:
            raise aiohttp.ClientConnectionError("the local server has ended")
        place = urlsplit(found.base_url)
        request.url = request.url.with_host(place.hostname or "").with_port(place.port)
        request.headers["Host"] = place.netloc
        request.headers.update(found.bearer())
        return await send(request)

    return http_session(CONNECTIONS, middlewares=(follow,))
