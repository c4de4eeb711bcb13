"""The aiohttp application: the route table behind the guard, with every error as a problem document."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from agentfield.errors import AgentFieldError, InvalidInput, NotFound
from agentfield.ids import new_id
from agentfield.wire.headers import ACTOR_ID, PARENT_EXECUTION_ID, RUN_ID, SESSION_ID, WORKFLOW_ID
from agentfield_server.access.guard import AuthGuard
from agentfield_server.api.http.bodies import MAX_BODY, problem_reply
from agentfield_server.api.http.route import RESPONSE_STARTED, Handler, Route

__all__ = ["build_application"]

_log = logging.getLogger("agentfield.server")
_ALLOWED_HEADERS = "authorization, content-type, idempotency-key, last-event-id, x-openai-agents-sdk"
_TEXT_HEADERS = ("Host", "Origin", ACTOR_ID, PARENT_EXECUTION_ID, RUN_ID, SESSION_ID, WORKFLOW_ID)


def build_application(
    routes: Iterable[Route], guard: AuthGuard, *, middlewares: Sequence[Middleware] = ()
) -> web.Application:
    """Build the application of a route table.

    Args:
        routes: All routes.
        guard: Admits or rejects each request by the `access` of its route.
        middlewares: Outermost middlewares.
    """
    app = web.Application(
        client_max_size=MAX_BODY, middlewares=[*middlewares, _problem_documents, _check_origin_and_host(guard)]
    )
    # a signal, not a middleware: streams send their headers inside their handler
    app.on_response_prepare.append(_cors_headers(guard))
    app.on_response_prepare.append(_mark_response_started)
    streams = set[asyncio.Task[Any]]()
    # streams are cancelled at shutdown: they have no end of their own, and the runner would wait for them
    app.on_shutdown.append(_cancel_streams(streams))
    for route in routes:
        # `add_route`, not `add_get`: that adds HEAD, which would start a stream
        handler = _guarded(route, guard)
        app.router.add_route(route.method, route.path, _tracked(handler, streams) if route.stream else handler)
    return app


def _guarded(route: Route, guard: AuthGuard) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        await guard.admit(request, route.access)
        return await route.handler(request)

    return handle


def _tracked(handler: Handler, streams: set[asyncio.Task[Any]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            streams.add(task)
            task.add_done_callback(streams.discard)
        return await handler(request)

    return handle


def _cancel_streams(streams: set[asyncio.Task[Any]]) -> Callable[[web.Application], Awaitable[None]]:
    async def end(_: web.Application) -> None:
        for task in list(streams):
            task.cancel()

    return end


def _check_origin_and_host(guard: AuthGuard) -> Middleware:
    @web.middleware
    async def guards(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_headers(request)
        guard.check_host(request)
        guard.check_origin(request)
        if request.method == "OPTIONS" and guard.foreign_origin(request) is not None:
            headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": _ALLOWED_HEADERS}
            return web.Response(status=204, headers=headers)
        return await handler(request)

    return guards


def _check_headers(request: web.Request) -> None:
    """Reject bytes that are not UTF-8 in the headers whose texts are looked up; aiohttp makes surrogates of them."""
    for name in _TEXT_HEADERS:
        value = request.headers.get(name)
        if value is not None and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise InvalidInput(
                f"The header {name} is not UTF-8.", code="malformed_header", hint="encode it as UTF-8", field=name
            )


def _cors_headers(guard: AuthGuard) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def share(request: web.Request, response: web.StreamResponse) -> None:
        origin = guard.foreign_origin(request)
        if origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Location"
            response.headers["Vary"] = "Origin"

    return share


async def _mark_response_started(request: web.Request, _: web.StreamResponse) -> None:
    request[RESPONSE_STARTED] = True


@web.middleware
async def _problem_documents(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except AgentFieldError as error:
        return problem_reply(error)
    except web.RequestPayloadError:
        return problem_reply(
            InvalidInput(
                "The body cannot be read: it is not what its Content-Encoding or Transfer-Encoding says.",
                code="malformed_body",
                hint="send it without a Content-Encoding",
            )
        )
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem_reply(_from_http_exception(request, error))
    except Exception:  # noqa: BLE001 - the last handler of a request; the traceback is logged
        # the response has an incident number only, the log the traceback: no internals leave the process
        incident = new_id("evt")
        _log.exception("request failed: %s %s (%s)", request.method, request.path, incident)
        return problem_reply(
            AgentFieldError(
                "The control plane failed at this request.",
                code="internal_error",
                hint=f"look for {incident} in its log",
            )
        )


def _from_http_exception(request: web.Request, error: web.HTTPException) -> AgentFieldError:
    if error.status == 404:
        return NotFound(
            f"There is no route {request.method} {request.path[:200]}.",
            code="unknown_path",
            hint="the routes are listed at /api/v1/openapi.json",
        )
    allowed = error.headers.get("Allow")
    problem = AgentFieldError(
        f"{error.reason}: {request.method} {request.path[:200]}.",
        code=error.reason.lower().replace(" ", "_"),
        hint=f"this path accepts {allowed.replace(',', ', ')}" if allowed else None,
    )
    problem.status = error.status
    return problem
