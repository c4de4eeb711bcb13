"""The Realtime routes: the WebSocket, calls and what can be done with them, client secrets."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from agentfield_local.access import ClientSecret
from agentfield_local.forms import read_form
from agentfield_local.headers import without_secrets
from agentfield_local.ids import new_id
from agentfield_local.realtime.session_config import SessionConfig, StrictModel
from agentfield_local.refusals import Refusal
from agentfield_local.rooms import Shared, json_object, read_body, read_model
from agentfield_local.webrtc.sdp_gate import MAX_SDP, check_offer

__all__ = ["realtime_room"]

_MAX_SESSION_BYTES = 512 * 1024
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


def realtime_room(shared: Shared) -> Iterable[web.AbstractRouteDef]:
    """Return the routes under `/v1/realtime`."""
    room = _Room(shared)
    return (
        web.get("/v1/realtime", room.socket),
        web.post("/v1/realtime/calls", room.create_call),
        web.post(f"{_CALL}/hangup", room.hang_up),
        web.post(f"{_CALL}/accept", room.accept),
        web.post(f"{_CALL}/reject", room.reject),
        web.post(f"{_CALL}/refer", room.refer),
        web.post("/v1/realtime/client_secrets", room.client_secret),
    )


class _Room:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def socket(self, request: web.Request) -> web.StreamResponse:
        shared = self._shared
        known = {"model", "call_id", "intent"}.intersection(request.query)
        if len(known) > 1:
            raise Refusal("Pass exactly one of 'model', 'call_id' and 'intent'.", code="invalid_value", param="model")
        if "call_id" in known:
            shared.access.identify(request, client_secret=False)
            shared.refuser.check("sideband")
            return await shared.sockets.sideband(request, request.query["call_id"])
        secret = shared.access.identify(request, client_secret=True)
        shared.refuser.check("socket")
        session = _session_of(secret)
        if "intent" in known:
            session = _transcription(request.query["intent"], session)
        return await shared.sockets.conversation(request, request.query.get("model"), session)

    async def create_call(self, request: web.Request) -> web.Response:
        shared = self._shared
        secret = shared.access.identify(request, client_secret=True)
        shared.refuser.check("calls")
        if request.query:
            raise Refusal("Unknown parameter in the query; put the model into 'session'.", code="unknown_parameter")
        offer, session = await self._read_offer(request)
        payload = {**_session_of(secret), **session}
        checked = check_offer(offer, loopback=shared.loopback)
        call, answer = await shared.calls.create(checked, payload, without_secrets(request.headers))
        headers = _location(call.id, shared.behaviour().location)
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

    async def hang_up(self, request: web.Request) -> web.Response:
        self._shared.access.identify(request, client_secret=False)
        self._shared.refuser.check("hangup")
        await self._shared.calls.hang_up(request.match_info["call_id"])
        return web.Response()

    async def accept(self, request: web.Request) -> web.Response:
        self._find(request)
        session = json_object(await read_body(request, _MAX_SESSION_BYTES), "body")
        self._config(session).update(session, root=())
        raise _no_sip("accepted")

    async def reject(self, request: web.Request) -> web.Response:
        self._find(request)
        await read_model(request, _Reject, _MAX_SESSION_BYTES, empty=b"{}")
        raise _no_sip("rejected")

    async def refer(self, request: web.Request) -> web.Response:
        self._find(request)
        await read_model(request, _Refer, _MAX_SESSION_BYTES, empty=b"{}")
        raise _no_sip("referred")

    def _find(self, request: web.Request) -> None:
        self._shared.access.identify(request, client_secret=False)
        self._shared.calls.find(request.match_info["call_id"])

    async def client_secret(self, request: web.Request) -> web.Response:
        shared = self._shared
        shared.access.identify(request, client_secret=False)
        shared.refuser.check("secrets")
        wanted = await read_model(request, _SecretRequest, _MAX_SESSION_BYTES, empty=b"{}")
        session = wanted.session or {}
        config = self._config(session, seconds=wanted.expires_after.seconds)
        if session:
            config.update(session)
        secret = shared.access.mint(session, wanted.expires_after.seconds)
        return web.json_response({"value": secret.value, "expires_at": secret.expires_at, "session": config.view()})

    def _config(self, session: dict[str, Any], *, seconds: int = 0) -> SessionConfig:
        model = session.get("model")
        return SessionConfig(
            model=model if isinstance(model, str) else None,
            session_id=new_id("sess"),
            expires_at=int(self._shared.clock.now()) + seconds,
            voices=self._shared.pool.engines.tts.voices,
            transcription=session.get("type") == "transcription",
        )


def _location(call_id: str, how: str) -> dict[str, str]:
    match how:
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


def _transcription(intent: str, session: dict[str, Any]) -> dict[str, Any]:
    """Return the session of `?intent=transcription`.

    Raises:
        Refusal: There is no such intent, or the client secret is for a conversation.
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
