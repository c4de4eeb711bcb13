"""All transports of this control plane that plugins bring and that have routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from agentfield.errors import AmbiguousAdapter
from agentfield.plugins import Registry
from agentfield_server.sessions import Sessions
from agentfield_server.store.protocol import Store
from agentfield_server.transports.host import TransportHost
from agentfield_server.transports.runtime import Runtime

__all__ = ["ROOT", "TransportRoom"]

_log = logging.getLogger("agentfield.transports")

ROOT = "/api/v1/transports"
"""Where the routes of transports are, each below its own name."""


class TransportRoom:
    """Has a host for each transport; one that two plugins declare differently has none.

    Args:
        registry: The plugins.
        sessions: The live calls.
        store: What is kept of all.
        home: The folder of everything that survives a restart.
        environ: Where settings of transports are read from.
        public_url: Returns the address under which the world reaches this control plane.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        sessions: Sessions,
        store: Store,
        home: Path,
        environ: Mapping[str, str],
        public_url: Callable[[], str],
    ) -> None:
        self._public_url = public_url
        self.hosts: dict[str, TransportHost] = {}
        """The hosts by the names of their transports."""
        for name in sorted({info.name for info in registry.transports() if info.factory and info.routes}):
            try:
                info = registry.transport(name)
            except AmbiguousAdapter as error:
                _log.warning("the routes of a transport are not served: %s", error.message)
                continue
            base = partial(self._base, name)
            runtime = Runtime(info, base=base, home=home, environ=environ, sessions=sessions, store=store)
            self.hosts[name] = TransportHost(info, runtime)

    async def close(self) -> None:
        """Leave all transports; idempotent."""
        await asyncio.gather(*(host.close() for host in self.hosts.values()))

    def _base(self, name: str) -> str:
        return f"{self._public_url()}{ROOT}/{name}"
