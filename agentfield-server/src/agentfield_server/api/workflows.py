"""Workflows over REST: the executions of a run, in the order they were made."""

from __future__ import annotations

from aiohttp import web

from agentfield.errors import NotFound
from agentfield.wire.rest import DagView
from agentfield_server.api.http import json_reply, read_limit
from agentfield_server.api.routes import Route
from agentfield_server.api.views import dag_view
from agentfield_server.store.protocol import Store

__all__ = ["routes"]


def routes(store: Store) -> list[Route]:
    """Return the routes of the resource."""

    async def dag(request: web.Request) -> web.Response:
        """Return a page of the graph of a run."""
        run_id, after, limit = request.match_info["run_id"], request.query.get("after"), read_limit(request)
        rows = await store.list_executions(run_id, after=after, limit=limit)
        if not rows and after is None:
            raise NotFound(
                f"There is no run {run_id!r}.",
                code="unknown_run",
                hint="an id begins with run_; af session show SESSION has it",
                run_id=run_id,
            )
        return json_reply(dag_view(run_id, rows, limit=limit))

    return [
        Route(
            "GET",
            "/api/v1/workflows/{run_id}/dag",
            dag,
            "operator",
            "The executions of a run and their parents",
            response=DagView,
        )
    ]
