"""The aiohttp application: the route table, with one function around each handler: checks, guard, errors, measurement."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from agentfield.errors import AgentFieldError, InvalidInput, NotFound
from agentfield.ids import new_id
from agentfield.wire.headers import ACTOR_ID, PARENT_EXECUTION_ID, RUN_ID, SESSION_ID, WORKFLOW_ID
from agentfield_server.access.guard import AuthGuard
from agentfield_server.api.http.bodies import MAX_BODY, problem_reply
from agentfield_server.api.http.caller_view import for_caller
from agentfield_server.api.http.route import Handler, Route, is_token, view_of

__all__ = ["Observe", "build_application"]

_log = logging.getLogger("agentfield.server")
_ALLOWED_HEADERS = "authorization, content-type, idempotency-key, last-event-id, x-openai-agents-sdk"
_TEXT_HEADERS = ("Host", "Origin", ACTOR_ID, PARENT_EXECUTION_ID, RUN_ID, SESSION_ID, WORKFLOW_ID)

Observe = Callable[[str, str, int, float], None]
"""Called after each request with its method, the template of its route (``unknown`` without one), its status and its seconds."""


def build_application(
    routes: Iterable[Route], guard: AuthGuard, *, observe: Observe = lambda *_: None
) -> web.Application:
    """Build the application of a route table.

    Args:
        routes: All routes.
        guard: Admits or rejects each request by the `access` of its route.
        observe: Measures requests.
    """
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_without_route(guard, observe)])
    if guard.shares:
        # a signal: streams send their headers inside their handler
        app.on_response_prepare.append(_cors_headers(guard))
    streams = set[asyncio.Task[Any]]()
    # streams are cancelled at shutdown: they have no end of their own, and the runner would wait for them
    app.on_shutdown.append(_cancel_streams(streams))
    for route in routes:
        # not `add_get`: that adds HEAD, which would start a stream
        resource = app.router.add_resource(route.path)
        tracked = streams if route.stream else None
        serve = _served(route.handler, guard, route, resource.canonical, observe, streams=tracked)
        resource.add_route(route.method, serve)
    return app


def _served(
    handler: Handler,
    guard: AuthGuard,
    route: Route | None,
    template: str,
    observe: Observe,
    *,
    streams: set[asyncio.Task[Any]] | None = None,
) -> Handler:
    """Return the function that serves a request.

    Args:
        handler: The handler of its route.
        guard: Checks the request.
        route: The route; None if the request has none.
        template: Path of the route, with its placeholders: a path with ids would give one time series an id.
        observe: Measures the request; sockets and streams until they end.
        streams: Receives the task of the request, if it is a stream.
    """

    async def serve(request: web.Request) -> web.StreamResponse:
        begun, status = time.perf_counter(), 500
        try:
            try:
                _check_headers(request)
                guard.check_host(request)
                guard.check_origin(request)
                if route is not None:
                    await guard.admit(request, route.access, watches=route.watches, counts=route.counts)
                if streams is None or route is None:
                    response = await handler(request)
                else:
                    if (task := asyncio.current_task()) is not None:
                        streams.add(task)
                        task.add_done_callback(streams.discard)
                    with guard.stream(request, route.access):
                        response = await handler(request)
            except Exception as error:  # noqa: BLE001 - the last handler of a request
                status = getattr(error, "status", status)
                response = _answer_to(request, error)
            status = response.status
            return response
        finally:
            observe(request.method, template, status, time.perf_counter() - begun)

    return serve


def _without_route(guard: AuthGuard, observe: Observe) -> Middleware:
    """Return the middleware that serves the requests without a route; it passes the others through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.match_info.http_exception is None:
            return await handler(request)
        return await serve(request)

    async def refuse(request: web.Request) -> web.StreamResponse:
        if request.method == "OPTIONS" and guard.foreign_origin(request) is not None:
            headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": _ALLOWED_HEADERS}
            return web.Response(status=204, headers=headers)
        return await request.match_info.handler(request)

    serve = _served(refuse, guard, None, "unknown", observe)
    return check


def _cancel_streams(streams: set[asyncio.Task[Any]]) -> Callable[[web.Application], Awaitable[None]]:
    async def end(_: web.Application) -> None:
        for task in list(streams):
            task.cancel()

    return end


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


def _answer_to(request: web.Request, error: Exception) -> web.StreamResponse:
    """Return the answer to a request whose handler raised: a problem document, or the response that it raised."""
    if isinstance(error, ConnectionResetError) and (request.transport is None or request.transport.is_closing()):
        _log.info("the client has gone: %s %s", request.method, request.path)
        return web.Response(status=400)  # nobody reads it
    if request.writer.output_size > 0 and request.transport is not None:
        # a problem document cannot be sent after the response has started, on an open socket for instance
        request.transport.abort()
    match error:
        case AgentFieldError():
            # a caller learns no words of providers, nodes or this process
            return problem_reply(for_caller(error) if is_token(request) and view_of(request) == "caller" else error)
        case web.RequestPayloadError():
            return problem_reply(
                InvalidInput(
                    "The body cannot be read: it is not what its Content-Encoding or Transfer-Encoding says.",
                    code="malformed_body",
                    hint="send it without a Content-Encoding",
                )
            )
        case web.HTTPException() if error.status < 400:
            raise error
        case web.HTTPException():
            return problem_reply(_from_http_exception(request, error))
    # the response has an incident number only, the log the traceback: no internals leave the process
    incident = new_id("evt")
    _log.error("request failed: %s %s (%s)", request.method, request.path, incident, exc_info=error)
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
