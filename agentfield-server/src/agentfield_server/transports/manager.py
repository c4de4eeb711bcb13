"""Manager of the plugin transports that have routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from agentfield.errors import AmbiguousAdapter
from agentfield.plugins import Registry
from agentfield_server.sessions import SessionService
from agentfield_server.store.protocol import Store
from agentfield_server.transports.host import TransportHost
from agentfield_server.transports.runtime import PluginTransportRuntime

__all__ = ["ROUTE_PREFIX", "TransportManager"]

_log = logging.getLogger("agentfield.transports")

ROUTE_PREFIX = "/api/v1/transports"
"""Path prefix of the transports' routes; the transport's name follows."""


class TransportManager:
    """Creates one host per transport; a transport that two plugins declare differently gets none.

    Args:
        registry: The installed plugins.
        sessions: The session service.
        store: The store.
        home: The data directory.
        environ: Source of the transports' settings.
        public_url: Returns the public base URL of this control plane.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        sessions: SessionService,
        store: Store,
        home: Path,
        environ: Mapping[str, str],
        public_url: Callable[[], str],
    ) -> None:
        self._public_url = public_url
        self.hosts: dict[str, TransportHost] = {}
        """The hosts by name of their transport."""
        for name in sorted({info.name for info in registry.transports() if info.factory and info.routes}):
            try:
                info = registry.transport(name)
            except AmbiguousAdapter as error:
                _log.warning("the routes of an ambiguous transport are not served: %s", error.message)
                continue
            base = partial(self._base, name)
            runtime = PluginTransportRuntime(
                info, base=base, home=home, environ=environ, sessions=sessions, store=store
            )
            self.hosts[name] = TransportHost(info, runtime)

    async def close(self) -> None:
        """Close all hosts; idempotent."""
        await asyncio.gather(*(host.close() for host in self.hosts.values()))

    def _base(self, name: str) -> str:
        return f"{self._public_url()}{ROUTE_PREFIX}/{name}"
