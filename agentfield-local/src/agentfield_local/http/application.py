"""The aiohttp application: request records, source checks, CORS, and refusals in the provider's shape."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from agentfield_local.http.access import AccessControl, without_credentials
from agentfield_local.http.activity import ClientActivity
from agentfield_local.speech.pool import EngineBusy
from agentfield_local.wire.refusals import HttpRefusal, Refusal, http_error

__all__ = ["HttpApplication", "RequestRecord"]

_log = logging.getLogger(__name__)
_MAX_RECORDS = 1000
_CORS_HEADERS = "authorization, content-type, x-openai-agents-sdk, openai-safety-identifier"
_STATUS = {
    "invalid_api_key": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "call_id_not_found": HTTPStatus.NOT_FOUND,
    "not_found": HTTPStatus.NOT_FOUND,
    "model_not_found": HTTPStatus.NOT_FOUND,
    "rate_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "insufficient_quota": HTTPStatus.TOO_MANY_REQUESTS,
    "request_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "server_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A received request, without credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    authorized: bool


class HttpApplication:
    """Builds the application and keeps the latest thousand requests.

    Args:
        routes: Route definitions of all packages.
        access: Access control.
        activity: Counter of clients.
        health: Returns the body of `GET /healthz`.
        max_body: Maximum size of a request body in bytes.
    """

    def __init__(
        self,
        routes: Iterable[web.AbstractRouteDef],
        *,
        access: AccessControl,
        activity: ClientActivity,
        health: Callable[[], dict[str, Any]],
        max_body: int,
    ) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=_MAX_RECORDS)
        self._routes = tuple(routes)
        self._access = access
        self._activity = activity
        self._health = health
        self._max_body = max_body

    def build(self) -> web.Application:
        """Return a new aiohttp application."""
        app = web.Application(client_max_size=self._max_body, middlewares=[self._middleware])
        app.router.add_get("/healthz", self._answer_health)
        app.router.add_routes(self._routes)
        return app

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record a request, check its source, and answer refusals in the provider's shape."""
        self._record(request)
        with self._activity.client():
            try:
                self._access.check_source(request)
                response = self._preflight(request) or await handler(request)
            except HttpRefusal as refusal:
                response = _injected_response(refusal)
            except Refusal as refusal:
                response = _refusal_response(refusal)
            except EngineBusy:
                busy = Refusal("The server is overloaded.", code="overloaded", kind="server_error")
                response = _refusal_response(busy)
            except web.HTTPException as error:
                text = f"{request.method} {request.path}: {error.reason}."
                response = web.json_response(http_error(Refusal(text, code="invalid_request")), status=error.status)
            except web.RequestPayloadError:
                response = _refusal_response(Refusal("The body is malformed or incomplete.", code="invalid_body"))
            except ConnectionError:  # the client is gone
                raise
            except Exception:
                # The last resort. Nothing can be said any more after the first byte: then aiohttp cuts the connection.
                if request.writer.output_size:
                    raise
                _log.exception("%s %s failed", request.method, request.path)
                failed = "The server had an error while processing your request."
                response = _refusal_response(Refusal(failed, code="server_error", kind="server_error"))
            self._allow_origin(request, response)
            return response

    def _record(self, request: web.Request) -> None:
        authorized = "Authorization" in request.headers
        headers = without_credentials(request.headers)
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
        # The headers of a prepared response, such as a stream or a WebSocket, have been sent already.
        if origin is not None and not response.prepared and self._access.allows_origin(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Location"
            response.headers["Vary"] = "Origin"

    async def _answer_health(self, _: web.Request) -> web.Response:
        return web.json_response(self._health())


def _refusal_response(refusal: Refusal) -> web.Response:
    status = _STATUS.get(refusal.code or "", HTTPStatus.BAD_REQUEST)
    return web.json_response(http_error(refusal), status=status)


def _injected_response(refusal: HttpRefusal) -> web.Response:
    if refusal.page is not None:
        return web.Response(text=refusal.page, content_type="text/html", status=refusal.status, headers=refusal.headers)
    return web.json_response(http_error(refusal), status=refusal.status, headers=refusal.headers)
