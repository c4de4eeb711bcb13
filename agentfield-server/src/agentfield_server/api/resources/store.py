"""The store over REST: its size, pruning of old runs and compaction, all while calls are live."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web
from msgspec import structs

from agentfield.wire.rest import CompactView, PruneRequest, PruneView, StoreView
from agentfield_server.api.http.bodies import json_reply, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.engine.retention import DAY, Retention
from agentfield_server.store.protocol import Store

__all__ = ["StoreRoutes"]

_PRUNE_DESCRIPTION = (
    "One request does one round, in short transactions that let other writers in between; `next` as `after` continues. A "
    "run is pruned as a whole, and only if it has ended, has no pending delivery, and its last event is old enough."
)


class StoreRoutes:
    """The routes of the store.

    Args:
        retention: Prunes runs.
        store: The store.
    """

    def __init__(self, retention: Retention, store: Store) -> None:
        self._retention = retention
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/store"
        return [
            Route("GET", base, self.show, ("operator",), "Show the size of the store", response=StoreView),
            Route(
                "POST",
                base + "/prune",
                self.prune,
                ("operator",),
                "Prune runs that ended long ago",
                request=PruneRequest,
                response=PruneView,
                description=_PRUNE_DESCRIPTION,
            ),
            Route(
                "POST",
                base + "/compact",
                self.compact,
                ("operator",),
                "Return free pages to the file system",
                response=CompactView,
                description="One request returns about 4 MB at most; repeat it while `free_pages` is not 0.",
            ),
        ]

    async def show(self, _: web.Request) -> web.Response:
        """Show the size of the store."""
        return json_reply(StoreView(**structs.asdict(await self._store.stats())))

    async def prune(self, request: web.Request) -> web.Response:
        """Prune one round of runs."""
        body = await read_model(request, PruneRequest)
        done = await self._retention.prune(
            older_than=body.older_than_days * DAY, after=body.after, dry_run=body.dry_run
        )
        return json_reply(PruneView(**asdict(done), dry_run=body.dry_run))

    async def compact(self, _: web.Request) -> web.Response:
        """Return one step of free pages."""
        return json_reply(CompactView(free_pages=await self._store.compact()))
