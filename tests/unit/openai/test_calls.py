"""The HTTP client of calls: exact request bytes, and every response is a call or a typed error without secrets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from agentfield.adapterkit.http import http_session
from agentfield.errors import NotFound, ProviderError, ProviderUnavailable
from agentfield_openai.calls import CallsClient, call_id_of
from agentfield_openai.provider import RealtimeProvider
from support.providers.openai import CANARY

OFFER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\n"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def calls(handler: Handler, *, limit: float = 5.0, key: str | None = CANARY) -> AsyncIterator[CallsClient]:
    app = web.Application()
    app.router.add_post("/v1/realtime/calls", handler)
    app.router.add_post("/v1/realtime/calls/{call_id}/hangup", handler)
    async with TestServer(app) as server, http_session() as http:
        provider = RealtimeProvider(
            title="OpenAI",
            base_url=str(server.make_url("/v1")),
            key=None if key is None else SecretStr(key),
            key_setting="OPENAI_API_KEY",
        )
        yield CallsClient(provider, http, create_timeout=limit, hangup_timeout=limit)


def answer(
    status: int = 201, body: str = "v=0\r\n", location: str | None = "/v1/realtime/calls/rtc_1", **headers: str
) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        place = {} if location is None else {"Location": location}
        return web.Response(status=status, text=body, headers={**place, **headers})

    return handler


async def test_a_call_is_created_with_two_parts_in_order_and_nothing_else() -> None:
    """The body is the documented multipart form with the offer byte for byte and without file names."""
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen["body"] = (await request.read()).decode()
        seen["type"] = request.headers["Content-Type"]
        seen.update(
            {name: request.headers.get(name, "") for name in ("Authorization", "Accept", "OpenAI-Safety-Identifier")}
        )
        return web.Response(status=201, text="v=0\r\nanswer", headers={"Location": "/v1/realtime/calls/rtc_abc?x=1"})

    async with calls(handler) as client:
        call = await client.create(OFFER, {"type": "realtime", "instructions": "Grüß Gott"}, safety_id="hash")
    assert (call.sdp, call.call_id) == ("v=0\r\nanswer", "rtc_abc")
    boundary = seen["type"].removeprefix("multipart/form-data; boundary=")
    session = json.dumps({"type": "realtime", "instructions": "Grüß Gott"}, ensure_ascii=False)
    parts = seen["body"].split(f"--{boundary}")
    assert [part.partition("\r\n\r\n")[2] for part in parts[1:3]] == [f"{OFFER}\r\n", f"{session}\r\n"]
    assert parts[3] == "--\r\n"
    for part, name, kind in ((parts[1], "sdp", "application/sdp"), (parts[2], "session", "application/json")):
        headers = dict(line.split(": ", 1) for line in part.partition("\r\n\r\n")[0].strip().split("\r\n"))
        assert headers["Content-Disposition"] == f'form-data; name="{name}"'
        assert headers["Content-Type"].split(";")[0] == kind
    assert (seen["Authorization"], seen["Accept"]) == (f"Bearer {CANARY}", "application/sdp")
    assert seen["OpenAI-Safety-Identifier"] == "hash"


@pytest.mark.parametrize(
    ("location", "call_id"),
    [
        ("/v1/realtime/calls/rtc_1", "rtc_1"),
        ("/v1/realtime/calls/calls/rtc_1?foo=bar", "rtc_1"),
        ("https://api.example/v1/realtime/calls/rtc_a-b_C1", "rtc_a-b_C1"),
        ("/v1/realtime/calls/", None),
        ("/v1/realtime/calls/rtc_../../x", None),
        ("", None),
        ("https://[::1/rtc_1", None),
    ],
)
def test_the_id_of_a_call_is_read_from_every_known_location(location: str, call_id: str | None) -> None:
    """The id is the last path segment with the form of a call id."""
    assert call_id_of(location) == call_id


@pytest.mark.parametrize(
    ("status", "body", "code", "hint"),
    [
        (
            401,
            {"error": {"code": "invalid_api_key", "message": f"Incorrect API key provided: {CANARY}."}},
            "invalid_api_key",
            "OPENAI_API_KEY",
        ),
        (400, {"error": {"code": "invalid_value", "message": "Invalid value: 'x'."}}, "invalid_value", None),
        (
            429,
            {"error": {"type": "insufficient_quota", "code": None, "message": "Pay."}},
            "insufficient_quota",
            "billing",
        ),
        (404, {"error": {"code": "model_not_found", "message": "No."}}, "model_not_found", "model="),
        (403, "<html>" + CANARY, "http_403", "OPENAI_API_KEY"),
        (302, "", "http_302", None),
    ],
)
async def test_a_refusal_has_the_providers_code_and_a_hint_and_no_secret(
    status: int, body: object, code: str, hint: str | None
) -> None:
    """Code and short message are passed on; raw bodies and keys are not."""
    text = body if isinstance(body, str) else json.dumps(body)
    async with calls(answer(status, text, location="http://127.0.0.1:1/elsewhere")) as client:
        with pytest.raises(ProviderError) as caught:
            await client.create(OFFER, {})
    error = caught.value
    assert not isinstance(error, ProviderUnavailable)
    assert (error.data["provider_code"], error.data["provider_status"]) == (code, status)
    assert error.data.get("provider_final", False) == (code in ("invalid_api_key", "insufficient_quota"))
    assert (hint or "") in (error.hint or "")
    assert CANARY not in repr(error) + str(error) + repr(error.to_problem())
    assert "<html>" not in str(error)


async def test_a_server_error_is_unavailable_with_retry_after() -> None:
    """5xx is an error class of its own; Retry-After is passed on as seconds."""
    async with calls(answer(503, "", **{"Retry-After": "7"})) as client:
        with pytest.raises(ProviderUnavailable) as caught:
            await client.create(OFFER, {})
    assert caught.value.data["retry_after"] == 7


@pytest.mark.parametrize(
    ("body", "location"),
    [("v=0\r\n" + "a" * 70_000, "/rtc_1"), ("<html>", "/rtc_1"), ("v=0\r\n", None), ("v=0\r\n", "/nothing")],
)
async def test_an_unusable_response_is_refused(body: str, location: str | None) -> None:
    """A response that is too long, not SDP, or without a call id is a typed error, and a created call is hung up."""
    hung_up: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        if "call_id" in request.match_info:
            hung_up.append(request.match_info["call_id"])
            return web.Response()
        return web.Response(status=201, text=body, headers={} if location is None else {"Location": location})

    async with calls(handler) as client:
        with pytest.raises(ProviderError) as caught:
            await client.create(OFFER, {})
    assert caught.value.data["provider_code"] == "invalid_answer"
    assert hung_up == (["rtc_1"] if location == "/rtc_1" else [])


async def test_a_silent_provider_is_unavailable_in_time() -> None:
    """A silent server and a missing server are the same kind of error with a hint."""
    release = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with calls(silent, limit=0.2) as client:
        with pytest.raises(ProviderUnavailable, match="did not answer in time"):
            await client.create(OFFER, {})
        release.set()
    async with http_session() as http:
        client = CallsClient(
            RealtimeProvider(title="OpenAI", base_url="http://127.0.0.1:9/v1", key=SecretStr(CANARY)), http
        )
        with pytest.raises(ProviderUnavailable, match="could not be reached"):
            await client.create(OFFER, {})


@pytest.mark.parametrize("status", [200, 204, 404])
async def test_hanging_up_an_ended_call_succeeds(status: int) -> None:
    """A call that has already ended counts as hung up."""
    async with calls(answer(status, "")) as client:
        await client.hang_up("rtc_1")


async def test_a_refused_hang_up_is_an_error() -> None:
    """Any other refusal is raised; a malformed id is not sent anywhere."""
    async with calls(answer(401, "")) as client:
        with pytest.raises(ProviderError):
            await client.hang_up("rtc_1")
        with pytest.raises(NotFound):
            await client.hang_up("../../v1/files")


async def test_a_missing_key_is_refused_before_anything_is_sent() -> None:
    """The error names the setting."""
    async with calls(answer(), key=None) as client:
        with pytest.raises(ProviderError) as caught:
            await client.create(OFFER, {})
    assert caught.value.code == "key_missing"
    assert caught.value.hint == "set OPENAI_API_KEY"
