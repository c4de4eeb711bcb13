"""The `/v1/realtime` routes: the WebSocket, calls and their control, client secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.refusal_injector import RefusalInjector
from agentfield_local.http.access import AccessControl, ClientSecret, without_credentials
from agentfield_local.http.bodies import json_object, read_body, read_form, read_model
from agentfield_local.realtime.configuration.beta_shape import beta_refusal
from agentfield_local.realtime.configuration.session_config import SessionConfig
from agentfield_local.realtime.transport.calls import CallRegistry
from agentfield_local.realtime.transport.websockets import WebSocketSessions
from agentfield_local.runtime.clock import Clock
from agentfield_local.webrtc.sdp import MAX_SDP, check_offer
from agentfield_local.wire.ids import new_id
from agentfield_local.wire.refusals import Refusal
from agentfield_local.wire.validation import StrictModel

__all__ = ["RealtimeRoutes"]

_MAX_SESSION_BYTES = 512 * 1024
_BETA_PATHS = ("/v1/realtime", "/v1/realtime/sessions", "/v1/realtime/transcription_sessions")
_CALL = "/v1/realtime/calls/{call_id}"


class _ExpiresAfter(StrictModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class _SecretRequest(StrictModel):
    expires_after: _ExpiresAfter = _ExpiresAfter()
    session: dict[str, Any] | None = None


class _Reject(StrictModel):
    status_code: Annotated[int, Field(ge=300, le=699)] = 603


class _Refer(StrictModel):
    target_uri: Annotated[str, Field(min_length=1, max_length=2048)]


class RealtimeRoutes:
    """Handlers of the routes under `/v1/realtime`.

    Args:
        calls: The WebRTC calls.
        sockets: The WebSocket sessions.
        access: Access control.
        behaviour: Returns the current behaviour.
        refusals: Injected refusals; checked after the credentials.
        clock: Clock of client secrets.
        voices: Voices of the speech engine.
        loopback: Whether media is bound to loopback.
    """

    def __init__(
        self,
        calls: CallRegistry,
        sockets: WebSocketSessions,
        *,
        access: AccessControl,
        behaviour: Callable[[], Behaviour],
        refusals: RefusalInjector,
        clock: Clock,
        voices: tuple[str, ...],
        loopback: bool,
    ) -> None:
        self._calls = calls
        self._sockets = sockets
        self._access = access
        self._behaviour = behaviour
        self._refusals = refusals
        self._clock = clock
        self._voices = voices
        self._loopback = loopback

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes."""
        return (
            web.get("/v1/realtime", self._socket),
            web.post("/v1/realtime/calls", self._create_call),
            web.post(f"{_CALL}/hangup", self._hang_up),
            web.post(f"{_CALL}/accept", self._accept),
            web.post(f"{_CALL}/reject", self._reject),
            web.post(f"{_CALL}/refer", self._refer),
            web.post("/v1/realtime/client_secrets", self._client_secret),
            *(web.post(path, self._refuse_beta) for path in _BETA_PATHS),
        )

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        known = {"model", "call_id", "intent"}.intersection(request.query)
        if "call_id" in known and len(known) > 1:
            raise Refusal("Pass either 'call_id' or 'model' or 'intent'.", code="invalid_value", param="call_id")
        if "call_id" in known:
            self._access.identify(request, client_secret=False)
            self._refusals.check("sideband")
            return await self._sockets.serve_sideband(request, request.query["call_id"])
        secret = self._access.identify(request, client_secret=True)
        self._refusals.check("socket")
        session = _session_of(secret)
        if "intent" in known:
            # Stock clients add `model` beside the intent; a transcription session has none, so that it has no effect.
            session = _transcription_session(request.query["intent"], session)
        return await self._sockets.serve_session(request, request.query.get("model"), session)

    async def _refuse_beta(self, request: web.Request) -> web.StreamResponse:
        self._access.identify(request, client_secret=True)
        raise beta_refusal()

    async def _create_call(self, request: web.Request) -> web.Response:
        secret = self._access.identify(request, client_secret=True)
        self._refusals.check("calls")
        if request.query:
            raise Refusal("Unknown parameter in the query; put the model into 'session'.", code="unknown_parameter")
        offer, session = await self._read_offer(request)
        payload = {**_session_of(secret), **session}
        checked = check_offer(offer, loopback=self._loopback)
        call, answer = await self._calls.create(checked, payload, without_credentials(request.headers))
        headers = _location(call.id, self._behaviour().location)
        return web.Response(status=HTTPStatus.CREATED, text=answer, content_type="application/sdp", headers=headers)

    async def _read_offer(self, request: web.Request) -> tuple[bytes, dict[str, Any]]:
        match request.content_type:
            case "application/sdp":
                return await read_body(request, MAX_SDP), {}
            case "multipart/form-data":
                form = await read_form(request, {"sdp": MAX_SDP, "session": _MAX_SESSION_BYTES})
            case _:
                raise Refusal("Send application/sdp or multipart/form-data.", code="invalid_content_type")
        if "sdp" not in form:
            raise Refusal("Missing required parameter: 'sdp'.", code="missing_required_parameter", param="sdp")
        return form["sdp"], json_object(form.get("session", b"{}"), "session")

    async def _hang_up(self, request: web.Request) -> web.Response:
        self._access.identify(request, client_secret=False)
        self._refusals.check("hangup")
        await self._calls.hang_up(request.match_info["call_id"])
        return web.Response()

    async def _accept(self, request: web.Request) -> web.Response:
        self._require_call(request)
        session = json_object(await read_body(request, _MAX_SESSION_BYTES), "body")
        self._config(session).update(session, root=())
        raise _no_sip("accepted")

    async def _reject(self, request: web.Request) -> web.Response:
        self._require_call(request)
        await read_model(request, _Reject, _MAX_SESSION_BYTES, empty=b"{}")
        raise _no_sip("rejected")

    async def _refer(self, request: web.Request) -> web.Response:
        self._require_call(request)
        await read_model(request, _Refer, _MAX_SESSION_BYTES, empty=b"{}")
        raise _no_sip("referred")

    def _require_call(self, request: web.Request) -> None:
        self._access.identify(request, client_secret=False)
        self._calls.find(request.match_info["call_id"])

    async def _client_secret(self, request: web.Request) -> web.Response:
        self._access.identify(request, client_secret=False)
        self._refusals.check("secrets")
        asked = await read_model(request, _SecretRequest, _MAX_SESSION_BYTES, empty=b"{}")
        session = asked.session or {}
        config = self._config(session, seconds=asked.expires_after.seconds)
        if session:
            config.update(session)
        secret = self._access.mint(session, asked.expires_after.seconds)
        return web.json_response({"value": secret.value, "expires_at": secret.expires_at, "session": config.view()})

    def _config(self, session: dict[str, Any], *, seconds: int = 0) -> SessionConfig:
        model = session.get("model")
        return SessionConfig(
            model=model if isinstance(model, str) else None,
            session_id=new_id("sess"),
            expires_at=int(self._clock.now()) + seconds,
            voices=self._voices,
            transcription=session.get("type") == "transcription",
        )


def _location(call_id: str, form: str) -> dict[str, str]:
    match form:
        case "absent":
            return {}
        case "doubled":
            return {"Location": f"/v1/realtime/calls/calls/{call_id}"}
        case "query":
            return {"Location": f"/v1/realtime/calls/{call_id}?model=gpt-realtime"}
        case _:
            return {"Location": f"/v1/realtime/calls/{call_id}"}


def _no_sip(verb: str) -> Refusal:
    return Refusal(
        f"Only an incoming SIP call can be {verb}; this one is a WebRTC call.", code="unsupported_call_type", param=None
    )


def _session_of(secret: ClientSecret | None) -> dict[str, Any]:
    return {} if secret is None else dict(secret.session)


def _transcription_session(intent: str, session: dict[str, Any]) -> dict[str, Any]:
    """Return the session of `?intent=transcription`.

    Raises:
        Refusal: The intent is unknown, or the client secret is for a conversation.
    """
    if intent != "transcription":
        raise Refusal(
            f"Invalid value: {intent!r:.200}. Supported values are: 'transcription'.",
            code="invalid_value",
            param="intent",
        )
    if session.get("type", "transcription") != "transcription":
        raise Refusal("The client secret is for another type of session.", code="invalid_value", param="intent")
    return {"type": "transcription", **session}
