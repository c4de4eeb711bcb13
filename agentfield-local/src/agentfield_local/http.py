"""The HTTP face of the server: what holds for every route, such as refusals in the provider's shape and web origins."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from agentfield_local.activity import Activity
from agentfield_local.engines_pool import Busy
from agentfield_local.headers import without_secrets
from agentfield_local.refusals import Refusal, http_error
from agentfield_local.refusing import HttpRefusal
from agentfield_local.rooms import Room, Shared
from agentfield_local.transcriptions import MAX_RECORDING_BYTES

__all__ = ["Api", "RequestRecord"]

_MAX_BODY = MAX_RECORDING_BYTES + 64 * 1024
_MAX_RECORDS = 1000
_CORS_HEADERS = "authorization, content-type, x-openai-agents-sdk, openai-safety-identifier"
_STATUS = {
    "invalid_api_key": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "call_id_not_found": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "rate_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "insufficient_quota": HTTPStatus.TOO_MANY_REQUESTS,
    "request_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "server_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that arrived, without credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    authorized: bool


class Api:
    """The application.

    Args:
        shared: What the rooms use.
        rooms: Their routes.
        activity: Counts the clients.
    """

    def __init__(self, shared: Shared, rooms: Sequence[Room], activity: Activity) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=_MAX_RECORDS)
        self._shared = shared
        self._rooms = rooms
        self._activity = activity

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._middleware])
        app.router.add_get("/healthz", self._health)
        for room in self._rooms:
            app.router.add_routes(room(self._shared))
        return app

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record, check where it comes from, answer refusals in the provider's shape."""
        self._record(request)
        with self._activity.client():
            try:
                self._shared.access.check_source(request)
                response = self._preflight(request) or await handler(request)
            except HttpRefusal as refusal:
                response = _refused_as_told(refusal)
            except Refusal as refusal:
                response = _refused(refusal)
            except Busy:
                response = _refused(Refusal("The server is overloaded.", code="overloaded", kind="server_error"))
            except web.HTTPException as error:
                text = f"{request.method} {request.path}: {error.reason}."
                response = web.json_response(http_error(Refusal(text, code="invalid_request")), status=error.status)
            self._allow_origin(request, response)
            return response

    def _record(self, request: web.Request) -> None:
        authorized = "Authorization" in request.headers
        headers = without_secrets(request.headers)
        self.requests.append(RequestRecord(request.method, request.path, headers, authorized))

    def _preflight(self, request: web.Request) -> web.Response | None:
        if request.method != "OPTIONS" or "Origin" not in request.headers:
            return None
        headers = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": _CORS_HEADERS,
            "Access-Control-Max-Age": "600",
        }
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    def _allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and not response.prepared and self._shared.access.allows_origin(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Location"
            response.headers["Vary"] = "Origin"

    async def _health(self, _: web.Request) -> web.Response:
        shared = self._shared
        return web.json_response(
            {"status": "ok", "engines": shared.pool.engines.name, "calls": shared.calls.open_count}
        )


def _refused(refusal: Refusal) -> web.Response:
    status = _STATUS.get(refusal.code or "", HTTPStatus.BAD_REQUEST)
    return web.json_response(http_error(refusal), status=status)


def _refused_as_told(refusal: HttpRefusal) -> web.Response:
    if refusal.page is not None:
        return web.Response(text=refusal.page, content_type="text/html", status=refusal.status, headers=refusal.headers)
    return web.json_response(http_error(refusal), status=refusal.status, headers=refusal.headers)
