"""What this control plane can do: the pairs of the matrix, the plugins, health, readiness."""

from __future__ import annotations

from aiohttp import web

from agentfield.plugins import Registry
from agentfield.plugins.views import adapter_views, plugin_views
from agentfield_server.api.http import json_reply
from agentfield_server.api.routes import Route

__all__ = ["CatalogueRoutes"]


class CatalogueRoutes:
    """The handlers that tell what there is.

    Args:
        registry: The plugins of this process.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        return [
            Route("GET", "/api/v1/adapters", self.adapters, "operator", "The matrix"),
            Route("GET", "/api/v1/plugins", self.plugins, "operator", "The plugins and their states"),
            Route("GET", "/healthz", self.health, "public", "Is the process up"),
            Route("GET", "/readyz", self.health, "public", "Can it take calls"),
        ]

    async def adapters(self, _request: web.Request) -> web.Response:
        """List every pair with its capabilities, and why those that do not work do not."""
        return json_reply(adapter_views(self._registry))

    async def plugins(self, _request: web.Request) -> web.Response:
        """List every plugin that was found, usable or not."""
        return json_reply(plugin_views(self._registry))

    async def health(self, _request: web.Request) -> web.Response:
        """Answer; the application serves requests only once it is ready."""
        return json_reply({"status": "ok"})
