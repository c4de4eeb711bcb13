"""The store over REST: how large it is, old runs taken away, room given back to the disk; all while calls go on."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from agentfield.wire.rest import CompactView, PruneRequest, PruneView, StoreView
from agentfield_server.api.http import json_reply, read_model
from agentfield_server.api.routes import Route
from agentfield_server.engine.retention import DAY, Retention
from agentfield_server.store.protocol import Store

__all__ = ["StoreRoutes"]

_ROUND = (
    "One request does one round in short transactions, between which everybody else writes; `next` as `after` continues. "
    "A run goes whole, and only when it ended, nothing of it is on its way, and its last event is older than that."
)


class StoreRoutes:
    """The handlers of the store.

    Args:
        retention: Who takes runs away.
        store: What is kept.
    """

    def __init__(self, retention: Retention, store: Store) -> None:
        self._retention = retention
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/store"
        return [
            Route("GET", base, self.show, "operator", "Show how large the store is", response=StoreView),
            Route(
                "POST",
                base + "/prune",
                self.prune,
                "operator",
                "Take runs away that ended long ago",
                request=PruneRequest,
                response=PruneView,
                description=_ROUND,
            ),
            Route(
                "POST",
                base + "/compact",
                self.compact,
                "operator",
                "Give some free room back to the disk",
                response=CompactView,
                description="One request gives back some 4 MB at most; go on while `free_pages` is not 0.",
            ),
        ]

    async def show(self, _: web.Request) -> web.Response:
        """Show the store."""
        return json_reply(StoreView(**asdict(await self._store.stats())))

    async def prune(self, request: web.Request) -> web.Response:
        """Do one round."""
        body = await read_model(request, PruneRequest)
        done = await self._retention.prune(
            older_than=body.older_than_days * DAY, after=body.after, dry_run=body.dry_run
        )
        return json_reply(PruneView(**asdict(done), dry_run=body.dry_run))

    async def compact(self, _: web.Request) -> web.Response:
        """Give back one step's room."""
        return json_reply(CompactView(free_pages=await self._store.compact()))
