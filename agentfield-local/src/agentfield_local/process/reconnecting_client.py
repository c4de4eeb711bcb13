"""HTTP session that follows the local server: a server that has ended between two requests is started again."""

from __future__ import annotations

from urllib.parse import urlsplit

import aiohttp

from agentfield.adapterkit.http import http_session
from agentfield.errors import AgentFieldError
from agentfield_local.process.supervisor import Supervisor
from agentfield_openrouter.adapter import MAX_CONNECTIONS

__all__ = ["reconnecting_session"]


def reconnecting_session(supervisor: Supervisor) -> aiohttp.ClientSession:
    """Return an HTTP session whose requests go to the server that is running now; it keeps no cookies.

    A GET request never starts a server: a new one would not have the data of the old one.

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
        address = urlsplit(found.base_url)
        request.url = request.url.with_host(address.hostname or "").with_port(address.port)
        request.headers["Host"] = address.netloc
        request.headers.update(found.bearer())
        return await send(request)

    return http_session(MAX_CONNECTIONS, middlewares=(follow,))
