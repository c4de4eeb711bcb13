"""The aiohttp application: the route table behind the guards, and every error as a problem document."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from agentfield.errors import AgentFieldError, NotFound
from agentfield.ids import new_id
from agentfield_server.access.guards import Door
from agentfield_server.api.http import MAX_BODY, problem_reply
from agentfield_server.api.routes import BEGUN, Handler, Route

__all__ = ["build_application"]

_log = logging.getLogger("agentfield.server")
_ALLOWED_HEADERS = "authorization, content-type, idempotency-key, last-event-id, x-openai-agents-sdk"


def build_application(
    routes: Iterable[Route], door: Door, *, middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """Return the application of a route table.

    Args:
        routes: All routes; each says who may use it.
        door: Decides who may.
        middlewares: What every request passes through first.
    """
    app = web.Application(client_max_size=MAX_BODY, middlewares=[*middlewares, _problems, _guards(door)])
    # streams are prepared inside their handler: a middleware would come too late for their headers
    app.on_response_prepare.append(_sharing(door))
    app.on_response_prepare.append(_begin)
    streams = set[asyncio.Task[Any]]()
    # a stream has no end of its own: the shutdown would wait for it in vain
    app.on_shutdown.append(_ending(streams))
    for route in routes:
        # no automatic HEAD: a stream would start for it
        handler = _guarded(route, door)
        app.router.add_route(route.method, route.path, _kept(handler, streams) if route.stream else handler)
    return app


def _guarded(route: Route, door: Door) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        await door.admit(request, route.access)
        return await route.handler(request)

    return handle


def _kept(handler: Handler, streams: set[asyncio.Task[Any]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            streams.add(task)
            task.add_done_callback(streams.discard)
        return await handler(request)

    return handle


def _ending(streams: set[asyncio.Task[Any]]) -> Callable[[web.Application], Awaitable[None]]:
    async def end(_: web.Application) -> None:
        for task in list(streams):
            task.cancel()

    return end


def _guards(door: Door) -> Middleware:
    @web.middleware
    async def guards(request: web.Request, handler: Handler) -> web.StreamResponse:
        door.check_host(request)
        door.check_origin(request)
        if request.method == "OPTIONS" and door.foreign_origin(request) is not None:
            headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": _ALLOWED_HEADERS}
            return web.Response(status=204, headers=headers)
        return await handler(request)

    return guards


def _sharing(door: Door) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def share(request: web.Request, response: web.StreamResponse) -> None:
        origin = door.foreign_origin(request)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Location"
            response.headers["Vary"] = "Origin"

    return share


async def _begin(request: web.Request, _: web.StreamResponse) -> None:
    request[BEGUN] = True


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AgentFieldError as error:
        return problem_reply(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem_reply(_from_http(request, error))
    except Exception:  # noqa: BLE001 - the last resort of a request; the traceback goes to the log
        # the reader gets a number, the log gets the traceback: nothing internal leaves the process
        incident = new_id("evt")
        _log.exception("request failed: %s %s (%s)", request.method, request.path, incident)
        return problem_reply(
            AgentFieldError(
                "The control plane failed at this request.",
                code="internal_error",
                hint=f"look for {incident} in its log",
            )
        )


def _from_http(request: web.Request, error: web.HTTPException) -> AgentFieldError:
    if error.status == 404:
        return NotFound(
            f"There is no route {request.method} {request.path[:200]}.",
            code="unknown_path",
            hint="the REST interface describes itself at /api/v1/openapi.json",
        )
    takes = error.headers.get("Allow")
    problem = AgentFieldError(
        f"{error.reason}: {request.method} {request.path[:200]}.",
        code=error.reason.lower().replace(" ", "_"),
        hint=f"this path takes {takes.replace(',', ', ')}" if takes else None,
    )
    problem.status = error.status
    return problem
