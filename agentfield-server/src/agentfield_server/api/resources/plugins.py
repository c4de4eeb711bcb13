"""Catalogue over REST: provider/transport pairs, plugins, health and readiness."""

from __future__ import annotations

from aiohttp import web

from agentfield.plugins import Registry
from agentfield.plugins.registry.views import adapter_views, plugin_views
from agentfield_server.access.principals import Access
from agentfield_server.api.http.bodies import json_reply
from agentfield_server.api.http.route import Route

__all__ = ["CatalogueRoutes"]

_READ: Access = ("operator", "reader", "starter", "caller")


class CatalogueRoutes:
    """The routes of the catalogue and of the health checks.

    Args:
        registry: The installed plugins.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        return [
            Route("GET", "/api/v1/adapters", self.adapters, _READ, "List the provider/transport pairs"),
            Route("GET", "/api/v1/plugins", self.plugins, _READ, "List the plugins and their states"),
            Route("GET", "/healthz", self.health, ("public",), "Liveness: the process runs", view="caller"),
            Route("GET", "/readyz", self.health, ("public",), "Readiness: the process takes calls", view="caller"),
        ]

    async def adapters(self, _request: web.Request) -> web.Response:
        """List every pair with its capabilities, and the problem of each unusable one."""
        return json_reply(adapter_views(self._registry))

    async def plugins(self, _request: web.Request) -> web.Response:
        """List every plugin that was found, usable or not."""
        return json_reply(plugin_views(self._registry))

    async def health(self, _request: web.Request) -> web.Response:
        """Return ok: requests are served only after the start is complete, so liveness equals readiness."""
        return json_reply({"status": "ok"})
