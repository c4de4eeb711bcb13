"""The HTTP face of the server: calls, the WebSocket, client secrets, transcriptions; refusals in the provider's shape."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field, ValidationError

from agentfield_local.access import Access, ClientSecret
from agentfield_local.activity import Activity
from agentfield_local.behaviour import Behaviour
from agentfield_local.calls import Calls
from agentfield_local.clock import Clock
from agentfield_local.engines_pool import Busy, EnginesPool
from agentfield_local.forms import read_form, too_large
from agentfield_local.ids import new_id
from agentfield_local.refusals import Refusal, from_validation, http_error
from agentfield_local.sdp_gate import MAX_SDP, check_offer
from agentfield_local.session_config import SessionConfig, StrictModel
from agentfield_local.sockets import Sockets
from agentfield_local.transcriptions import MAX_RECORDING_BYTES, transcribe_recording

__all__ = ["Api", "RequestRecord"]

_log = logging.getLogger(__name__)
_MAX_SESSION_BYTES = 512 * 1024
_MAX_BODY = MAX_RECORDING_BYTES + 64 * 1024
_MAX_RECORDS = 1000
_SECRET_HEADERS = {"authorization", "sec-websocket-protocol", "cookie"}
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
_REFUSE_CALLS = {
    401: Refusal("Incorrect API key provided.", code="invalid_api_key"),
    404: Refusal("The model does not exist or you do not have access to it.", code="not_found"),
    429: Refusal("You exceeded your current quota.", code="insufficient_quota", kind="insufficient_quota"),
    500: Refusal("The server had an error while processing your request.", code="server_error", kind="server_error"),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that arrived, without credentials."""

    method: str
    path: str
    headers: Mapping[str, str]
    authorized: bool


class _ExpiresAfter(StrictModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class _SecretRequest(StrictModel):
    expires_after: _ExpiresAfter = _ExpiresAfter()
    session: dict[str, Any] | None = None


class Api:
    """The handlers.

    Args:
        pool: The engines.
        calls: The calls.
        sockets: The WebSocket sessions.
        access: Who may use the server.
        activity: Counts the clients.
        clock: For client secrets.
        behaviour: Returns the switches that hold now.
        loopback: Whether media is bound to loopback.
    """

    def __init__(
        self,
        *,
        pool: EnginesPool,
        calls: Calls,
        sockets: Sockets,
        access: Access,
        activity: Activity,
        clock: Clock,
        behaviour: Callable[[], Behaviour],
        loopback: bool,
    ) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=_MAX_RECORDS)
        self._pool = pool
        self._calls = calls
        self._sockets = sockets
        self._access = access
        self._activity = activity
        self._clock = clock
        self._behaviour = behaviour
        self._loopback = loopback
        self._refused = 0

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._middleware])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/realtime", self._socket)
        app.router.add_post("/v1/realtime/calls", self._create_call)
        app.router.add_post("/v1/realtime/calls/{call_id}/hangup", self._hang_up)
        app.router.add_post("/v1/realtime/client_secrets", self._client_secret)
        app.router.add_post("/v1/audio/transcriptions", self._transcribe)
        return app

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record, check where it comes from, answer refusals in the provider's shape."""
        self._record(request)
        with self._activity.client():
            try:
                self._access.check_source(request)
                response = self._preflight(request) or await handler(request)
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
        shown = {name: value for name, value in request.headers.items() if name.lower() not in _SECRET_HEADERS}
        authorized = "Authorization" in request.headers
        self.requests.append(RequestRecord(request.method, request.path, shown, authorized))

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
        if origin is not None and not response.prepared and self._access.allows_origin(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Location"
            response.headers["Vary"] = "Origin"

    def _maybe_refuse(self) -> None:
        """Refuse as the switches say."""
        behaviour = self._behaviour()
        if behaviour.refuse_calls is None:
            return
        if behaviour.refuse_count is None or self._refused < behaviour.refuse_count:
            self._refused += 1
            raise _REFUSE_CALLS[behaviour.refuse_calls]

    # handlers ---------------------------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "engines": self._pool.engines.name, "calls": self._calls.open_count})

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        known = {"model", "call_id", "intent"}.intersection(request.query)
        if len(known) > 1 or "intent" in known:
            raise Refusal("Pass exactly one of 'model' and 'call_id'.", code="invalid_value", param="model")
        if "call_id" in known:
            self._access.identify(request, client_secret=False)
            return await self._sockets.sideband(request, request.query["call_id"])
        secret = self._access.identify(request, client_secret=True)
        self._maybe_refuse()
        return await self._sockets.conversation(request, request.query.get("model"), _session_of(secret))

    async def _create_call(self, request: web.Request) -> web.Response:
        secret = self._access.identify(request, client_secret=True)
        self._maybe_refuse()
        if request.query:
            raise Refusal("Unknown parameter in the query; put the model into 'session'.", code="unknown_parameter")
        offer, session = await self._read_offer(request)
        payload = {**_session_of(secret), **session}
        checked = check_offer(offer, loopback=self._loopback)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _SECRET_HEADERS}
        call, answer = await self._calls.create(checked, payload, headers)
        location = f"/v1/realtime/calls/{call.id}"
        return web.Response(
            status=HTTPStatus.CREATED, text=answer, content_type="application/sdp", headers={"Location": location}
        )

    async def _read_offer(self, request: web.Request) -> tuple[bytes, dict[str, Any]]:
        match request.content_type:
            case "application/sdp":
                return await _read_body(request, MAX_SDP), {}
            case "multipart/form-data":
                form = await read_form(request, {"sdp": MAX_SDP, "session": _MAX_SESSION_BYTES})
            case _:
                raise Refusal("Send application/sdp or multipart/form-data.", code="invalid_content_type")
        if "sdp" not in form:
            raise Refusal("Missing required parameter: 'sdp'.", code="missing_required_parameter", param="sdp")
        return form["sdp"], _json_object(form.get("session", b"{}"), "session")

    async def _hang_up(self, request: web.Request) -> web.Response:
        self._access.identify(request, client_secret=False)
        await self._calls.hang_up(request.match_info["call_id"])
        return web.Response()

    async def _client_secret(self, request: web.Request) -> web.Response:
        self._access.identify(request, client_secret=False)
        data = _json_object(await _read_body(request, _MAX_SESSION_BYTES) or b"{}", "body")
        try:
            wanted = _SecretRequest.model_validate(data)
        except ValidationError as error:
            raise from_validation(error, data) from None
        session = wanted.session or {}
        model = session.get("model")
        config = SessionConfig(
            model=model if isinstance(model, str) else None,
            session_id=new_id("sess"),
            expires_at=int(self._clock.now()) + wanted.expires_after.seconds,
            voices=self._pool.engines.tts.voices,
        )
        if session:
            config.update(session)
        secret = self._access.mint(session, wanted.expires_after.seconds)
        return web.json_response({"value": secret.value, "expires_at": secret.expires_at, "session": config.view()})

    async def _transcribe(self, request: web.Request) -> web.Response:
        self._access.identify(request, client_secret=False)
        if request.content_type != "multipart/form-data":
            raise Refusal("Send multipart/form-data.", code="invalid_content_type")
        return await transcribe_recording(request, self._pool)


def _session_of(secret: ClientSecret | None) -> dict[str, Any]:
    return {} if secret is None else dict(secret.session)


async def _read_body(request: web.Request, limit: int) -> bytes:
    held = bytearray()
    async for chunk in request.content.iter_chunked(16 * 1024):
        held += chunk
        if len(held) > limit:
            raise too_large("body", limit)
    return bytes(held)


def _json_object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(f"'{name}' is not valid JSON.", code="invalid_json", param=name) from None
    if not isinstance(found, dict):
        raise Refusal(f"'{name}' is not a JSON object.", code="invalid_json", param=name)
    return found


def _refused(refusal: Refusal) -> web.Response:
    status = _STATUS.get(refusal.code or "", HTTPStatus.BAD_REQUEST)
    return web.json_response(http_error(refusal), status=status)
