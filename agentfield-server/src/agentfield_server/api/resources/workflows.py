"""Workflows over REST: the executions of a run, its event stream, its cancellation."""

from __future__ import annotations

from aiohttp import web

from agentfield.errors import NotFound
from agentfield.wire.rest import CancelRequest, DagView
from agentfield_server.access.principals import Access
from agentfield_server.api.http.bodies import json_reply, read_limit, read_model
from agentfield_server.api.http.event_stream import follow, last_event_id, new_event_hints, open_stream
from agentfield_server.api.http.route import Route
from agentfield_server.api.resources.views import dag_page
from agentfield_server.bus import Bus
from agentfield_server.engine import Engine
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import PrunedRun

__all__ = ["routes"]

_READ: Access = ("operator", "reader", "caller", "starter")


def routes(store: Store, engine: Engine, bus: Bus) -> list[Route]:
    """Return the routes of the resource."""

    async def cancel(request: web.Request) -> web.Response:
        """Cancel every open execution of a run."""
        run_id, body = request.match_info["run_id"], await read_model(request, CancelRequest)
        if not await store.list_executions(run_id, limit=1):
            raise _unknown(run_id, await store.pruned_run(run_id))
        return json_reply({"run_id": run_id, "cancelled": await engine.cancel_run(run_id, body.reason)})

    async def dag(request: web.Request) -> web.Response:
        """Return a page of the execution graph of a run."""
        run_id, after, limit = request.match_info["run_id"], request.query.get("after"), read_limit(request)
        page = await dag_page(store, run_id, after=after, limit=limit)
        if not page.executions and after is None:
            raise _unknown(run_id, await store.pruned_run(run_id))
        return json_reply(page)

    async def events(request: web.Request) -> web.StreamResponse:
        """Stream the recorded events of a run until the reader disconnects: a run has no final event."""
        run_id, after = request.match_info["run_id"], last_event_id(request)
        with new_event_hints(bus, run_id) as hints:
            if not await store.list_executions(run_id, limit=1):
                raise _unknown(run_id, await store.pruned_run(run_id))
            async with open_stream(request) as stream:
                await follow(stream, store, run_id, after=after, hints=hints)
        return stream

    return [
        Route(
            "GET",
            "/api/v1/workflows/{run_id}/events",
            events,
            _READ,
            "Follow a run",
            stream=True,
            media_type="text/event-stream",
            description="Every event has an id, and `Last-Event-ID` resumes after one. The stream has no end of its own.",
        ),
        Route(
            "GET",
            "/api/v1/workflows/{run_id}/dag",
            dag,
            _READ,
            "Show the executions of a run and their parents",
            response=DagView,
        ),
        Route(
            "POST",
            "/api/v1/workflows/{run_id}/cancel",
            cancel,
            ("caller", "operator"),
            "Cancel every open execution of a run",
            request=CancelRequest,
        ),
    ]


def _unknown(run_id: str, pruned: PrunedRun | None) -> NotFound:
    if pruned is not None:
        return NotFound(
            f"The run {run_id!r} was pruned: only a record of its {pruned.events} events is left.",
            code="run_pruned",
            hint="an export that was made before can be checked against last_leaf and root",
            run_id=run_id,
            events=pruned.events,
            last_leaf=pruned.last_leaf.hex(),
            root=pruned.root.hex(),
            pruned_at=pruned.pruned_at,
        )
    return NotFound(
        f"There is no run {run_id!r}.",
        code="unknown_run",
        hint="an id begins with run_; af session show SESSION has it",
        run_id=run_id,
    )
