"""Strict bodies, guards and problem documents of the REST interface, over a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import BaseModel

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.principals import PRINCIPAL
from agentfield_server.api.application import build_application
from agentfield_server.api.http.bodies import json_reply, problem_reply, read_model, strict_json
from agentfield_server.api.http.route import Route
from agentfield_server.api.pages import PageRoutes
from agentfield_server.settings import Settings, read_settings
from agentfield_server.store.records import NewExecution, NewSession
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.access import guard_of
from support.waiting import until

KEY = "operator-key-0123456789"


class Clock:
    """A manual clock."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Body(BaseModel):
    text: str
    count: int = 0


async def echo(request: web.Request) -> web.Response:
    return json_reply(await read_model(request, Body, max_bytes=1000))


async def who(request: web.Request) -> web.Response:
    return json_reply({"principal": request[PRINCIPAL].id})


async def explode(_request: web.Request) -> web.Response:
    raise RuntimeError("sk-canary-1234567890 inside")


async def conflict(_request: web.Request) -> web.Response:
    raise Conflict("Taken.", code="taken", hint="wait", retry_after=3)


ROUTES = [
    Route("POST", "/echo", echo, ("operator",), "Echo"),
    Route("GET", "/who/{session_id}", who, ("token", "operator"), "Who", view="caller"),
    Route("GET", "/operator", who, ("operator",), "Who"),
    Route("GET", "/explode", explode, ("public",), "Fail", view="caller"),
    Route("GET", "/conflict", conflict, ("public",), "Conflict", view="caller"),
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "s.db", on_commit=lambda _rows: None, clock=clock)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def tokens(store: SqliteStore, clock: Clock) -> BrowserTokenService:
    return BrowserTokenService(store, clock=clock, code_ttl=600)


async def open_app(
    settings: Settings, tokens: BrowserTokenService, routes: list[Route] = ROUTES
) -> TestClient[Any, Any]:
    store = cast("SqliteStore", tokens._store)
    client = TestClient(TestServer(build_application(routes, await guard_of(settings, tokens, store))))
    await client.start_server()
    return client


@pytest.fixture
async def client(tokens: BrowserTokenService) -> AsyncIterator[TestClient[Any, Any]]:
    client = await open_app(Settings(_env_file=None), tokens)
    yield client
    await client.close()


@pytest.fixture
async def locked(tokens: BrowserTokenService) -> AsyncIterator[TestClient[Any, Any]]:
    client = await open_app(Settings(api_key=KEY), tokens)
    yield client
    await client.close()


async def make_session(store: SqliteStore, name: str = "ses_1") -> None:
    await store.create_session(
        NewSession(
            id=name,
            run_id=f"run_{name}",
            target="a.b",
            node_id="a",
            caller=None,
            metadata={},
            config={},
            declaration_hash="h",
            principal="operator",
        ),
        NewExecution(id=f"exe_{name}", run_id=f"run_{name}", kind="session", target="a.b", input={}, status="running"),
        owner="me",
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"text": "a", "text": "b"}', "malformed_json"),
        ('{"text": NaN}', "unrepresentable"),
        ("[" * 50 + "]" * 50, "unrepresentable"),
        ('{"text"', "malformed_json"),
        ('{"count": 1}', "invalid_input"),
        ('{"text": "a", "count": "many"}', "invalid_input"),
    ],
)
async def test_invalid_bodies_are_refused(client: TestClient[Any, Any], body: str, code: str) -> None:
    """Malformed JSON and invalid fields are typed problems that name the field."""
    async with client.post("/echo", data=body, headers={"Content-Type": "application/json"}) as response:
        problem = await response.json()
        assert response.status == 422
        assert response.content_type == "application/problem+json"
        assert problem["code"] == code
        if code == "invalid_input":
            assert problem["field"] in {"text", "count"}


async def test_other_media_types_are_refused(client: TestClient[Any, Any]) -> None:
    """A form or plain text is not accepted as a body."""
    async with client.post("/echo", data="text=a", headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 415


async def test_large_bodies_are_refused(client: TestClient[Any, Any]) -> None:
    """A body over the limit is refused while it arrives."""
    async with client.post(
        "/echo", data='{"text":"' + "x" * 5000 + '"}', headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 413
        assert (await response.json())["code"] == "body_too_large"


def test_deep_json_inside_strings_is_only_text() -> None:
    """Brackets in a string do not count as nesting."""
    assert strict_json('{"a": "' + "[" * 100 + '"}') == {"a": "[" * 100}
    with pytest.raises(InvalidInput):
        strict_json("[" * 33 + "]" * 33)


async def test_foreign_origins_and_hosts_are_refused(client: TestClient[Any, Any]) -> None:
    """Pages of other origins, and names that rebind to loopback, are refused."""
    for headers, code in (
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Host": "evil.example"}, "foreign_host"),
    ):
        async with client.get("/operator", headers=headers) as response:
            assert response.status == 403
            assert (await response.json())["code"] == code
    own = f"http://127.0.0.1:{client.port}"
    async with client.get("/operator", headers={"Origin": own}) as response:
        assert response.status == 200


@pytest.mark.parametrize("host", ["evil.example:8443", "evil.example", "["])
async def test_a_foreign_host_is_refused_with_its_port(client: TestClient[Any, Any], host: str) -> None:
    """The error repeats host and port as they were sent, and the hint has the port that the control plane listens on."""
    async with client.get("/operator", headers={"Host": host}) as response:
        problem = await response.json()
    own = f"127.0.0.1:{client.port}"
    assert (response.status, problem["code"]) == (403, "foreign_host")
    assert problem["detail"] == f"This control plane listens on {own} and does not answer for {host!r}."
    assert problem["hint"] == f"use http://{own}, or set AGENTFIELD_PUBLIC_URL to the address that callers use"


async def test_the_hint_of_a_foreign_origin_is_a_setting_that_works(
    client: TestClient[Any, Any], tokens: BrowserTokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control plane that is started with the variable of the hint accepts the page."""
    origin = {"Origin": "http://localhost:5173"}
    async with client.get("/operator", headers=origin) as response:
        hint = (await response.json())["hint"]
    name, _, value = hint.rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, value)
    started = await open_app(read_settings(), tokens)
    try:
        async with started.get("/operator", headers=origin) as response:
            assert response.status == 200
    finally:
        await started.close()


async def test_credentials_that_are_not_ascii_are_refused(locked: TestClient[Any, Any]) -> None:
    """A key or a token with bytes beyond ASCII is a wrong one, not a failure."""
    for value in (b"Bearer \xff", b"Bearer ek_af_\xff", "Bearer gl\u00fcck".encode()):
        reader, writer = await asyncio.open_connection("127.0.0.1", locked.port)
        try:
            host = f"127.0.0.1:{locked.port}".encode()
            writer.write(b"GET /who/ses_1 HTTP/1.1\r\nHost: %b\r\nAuthorization: %b\r\n\r\n" % (host, value))
            assert b" 401 " in await reader.readline()
        finally:
            writer.close()


async def test_allowed_origins_may_preflight(tokens: BrowserTokenService) -> None:
    """An allowed origin is echoed exactly, never as a wildcard."""
    client = await open_app(Settings(allowed_origins=("https://app.example",)), tokens)
    try:
        async with client.options("/operator", headers={"Origin": "https://app.example"}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
        async with client.get("/operator", headers={"Origin": "https://app.example"}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    finally:
        await client.close()


async def test_the_operator_s_key_is_required(locked: TestClient[Any, Any]) -> None:
    """With a key set, operator routes require it, as a bearer token or as X-API-Key."""
    async with locked.get("/operator") as response:
        assert response.status == 401
    async with locked.get("/operator", headers={"Authorization": "Bearer wrong"}) as response:
        assert response.status == 401
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
        async with locked.get("/operator", headers=headers) as response:
            assert (await response.json()) == {"principal": "key:settings"}


async def test_wrong_keys_never_lock_out_a_valid_one(
    locked: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After too many wrong ones from an address the next is refused with 429, and the right key is taken."""
    monkeypatch.setattr("agentfield_server.access.attempts.WRONG_CREDENTIALS", 3)
    statuses = []
    for _ in range(5):
        async with locked.get("/operator", headers={"X-API-Key": "wrong"}) as response:
            statuses.append(response.status)
    assert statuses == [401, 401, 401, 429, 429]
    async with locked.get("/who/ses_1", headers={"Authorization": "Bearer ek_af_wrong"}) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) > 0
    async with locked.get("/operator", headers={"X-API-Key": KEY}) as response:
        assert response.status == 200
    async with locked.get("/operator") as response:
        assert response.status == 401


async def test_a_browser_token_is_valid_for_its_own_session_only(
    locked: TestClient[Any, Any], tokens: BrowserTokenService, store: SqliteStore
) -> None:
    """A token is valid for the session routes of its session, not for another session or an operator route."""
    await make_session(store)
    await make_session(store, "ses_2")
    token = await tokens.issue_token("ses_1")
    headers = {"Authorization": f"Bearer {token}"}
    async with locked.get("/who/ses_1", headers=headers) as response:
        assert (await response.json()) == {"principal": "session:ses_1"}
    async with locked.get("/who/ses_2", headers=headers) as response:
        assert response.status == 403
    async with locked.get("/operator", headers=headers) as response:
        assert response.status == 403
    async with locked.get("/who/ses_1", headers={"Authorization": "Bearer ek_af_unknown"}) as response:
        assert response.status == 401


async def test_internal_errors_reveal_an_incident_number_only(
    client: TestClient[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception becomes a problem with an incident number; its text stays in the log."""
    async with client.get("/explode") as response:
        text = await response.text()
        assert response.status == 500
        assert "canary" not in text
        assert "evt_" in text
    assert "request failed" in caplog.text


async def test_typed_errors_keep_code_hint_and_headers(client: TestClient[Any, Any]) -> None:
    """A typed error keeps its code and hint; `retry_after` is a header, too."""
    async with client.get("/conflict") as response:
        assert response.status == 409
        assert response.headers["Retry-After"] == "3"
        assert (await response.json())["hint"] == "wait"
    async with client.get("/nowhere") as response:
        assert (await response.json())["code"] == "unknown_path"
    async with client.post("/conflict") as response:
        assert response.status == 405
        assert (await response.json())["code"] == "method_not_allowed"


async def test_pages_do_not_shadow_the_rest_interface(tokens: BrowserTokenService) -> None:
    """An unknown API path is 404 with every method, although the pages match any path."""
    client = await open_app(Settings(_env_file=None), tokens, [*ROUTES, *PageRoutes(None).routes()])
    try:
        for method in ("GET", "POST"):
            async with client.request(method, "/api/v1/nowhere") as response:
                assert (response.status, (await response.json())["code"]) == (404, "unknown_path")
    finally:
        await client.close()


async def test_pages_are_served_under_a_strict_policy(tokens: BrowserTokenService, tmp_path: Path) -> None:
    """A project's files are served with the policy; no file outside of the directory, no hidden one, no other type."""
    web_dir = tmp_path / "web"
    web_dir.mkdir()
    (web_dir / "index.html").write_text("<p>mine</p>")
    (web_dir / ".secret.js").write_text("no")
    (web_dir / "agent.py").write_text("no")
    (tmp_path / "outside.js").write_text("no")
    (web_dir / "link.js").symlink_to(tmp_path / "outside.js")
    client = await open_app(Settings(_env_file=None), tokens, PageRoutes(web_dir).routes())
    try:
        async with client.get("/") as response:
            assert await response.text() == "<p>mine</p>"
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        for path in ("/.secret.js", "/agent.py", "/..%2foutside.js", "/%2e%2e/outside.js", "/link.js", "/none.js"):
            async with client.get(path) as response:
                assert response.status == 404, path
    finally:
        await client.close()


def test_a_public_bind_without_a_key_is_refused() -> None:
    """Binding beyond loopback needs a key."""
    with pytest.raises(InvalidInput) as caught:
        Settings(host="0.0.0.0").require_key(ever=False, usable=False)
    assert caught.value.code == "key_required"
    assert "AGENTFIELD_API_KEY" in str(caught.value)
    Settings(host="0.0.0.0", api_key=KEY).require_key(ever=False, usable=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        Settings(host=host).require_key(ever=False, usable=False)
        with pytest.raises(InvalidInput):
            Settings(host=host, public_url="https://voice.example.com").require_key(ever=False, usable=False)
        with pytest.raises(InvalidInput):
            Settings(host=host).require_key(ever=True, usable=False)


@pytest.mark.parametrize("wait", [float("inf"), float("-inf"), float("nan"), "soon", b"3", object(), 10**400, -0.5])
def test_a_retry_after_that_is_no_number_of_seconds_costs_the_header_only(wait: Any) -> None:
    """The problem document is sent without the header."""
    reply = problem_reply(Conflict("Taken.", retry_after=wait))
    assert reply.status == 409
    assert "Retry-After" not in reply.headers


@pytest.mark.parametrize(
    ("line", "status", "code", "template"),
    [
        ("GET /operator", 200, None, "/operator"),
        ("GET /who/ses_1", 200, None, "/who/{session_id}"),
        ("GET /conflict", 409, "taken", "/conflict"),
        ("GET /explode", 500, "internal_error", "/explode"),
        ("GET /nowhere", 404, "unknown_path", "unknown"),
        ("POST /conflict", 405, "method_not_allowed", "unknown"),
        ("OPTIONS /conflict", 405, "method_not_allowed", "unknown"),
        ("OPTIONS *", 404, "unknown_path", "unknown"),
        ("GET /conf%0alict", 404, "unknown_path", "unknown"),
    ],
)
async def test_every_request_is_answered_and_measured_once(
    tokens: BrowserTokenService, store: SqliteStore, line: str, status: int, code: str | None, template: str
) -> None:
    """A request counts under the template of its route, and one without a route gets a problem document as well."""
    seen: list[tuple[str, str, int]] = []
    app = build_application(
        ROUTES,
        await guard_of(Settings(_env_file=None), tokens, store),
        observe=lambda method, route, status, _seconds: seen.append((method, route, status)),
    )
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert int(head.split()[1]) == status
    assert json.loads(body).get("code") == code
    assert seen == [(line.partition(" ")[0], template, status)]


async def test_a_stream_that_fails_is_cut(tokens: BrowserTokenService) -> None:
    """A response that has started gets no problem document behind it: the connection is aborted."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        raise Conflict("too late")

    routes = [Route("GET", "/stream", stream, ("public",), "Stream", view="caller", stream=True)]
    client = await open_app(Settings(_env_file=None), tokens, routes)
    try:
        response = await client.get("/stream")
        with pytest.raises(ClientPayloadError):
            await response.read()
    finally:
        await client.close()


async def test_a_client_that_has_gone_is_no_failure(
    tokens: BrowserTokenService, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that writes to a closed connection leaves a line in the log, not an incident with its traceback."""
    caplog.set_level(logging.INFO)
    here, ended = asyncio.Event(), asyncio.Event()

    async def late(request: web.Request) -> web.Response:
        here.set()
        await until(lambda: request.transport is None or request.transport.is_closing())
        ended.set()
        raise ConnectionResetError("Cannot write to closing transport")

    routes = [Route("GET", "/late", late, ("public",), "Answer too late", view="caller")]
    runner = web.AppRunner(build_application(routes, await guard_of(Settings(_env_file=None), tokens, store)))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /late HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        await here.wait()
        writer.close()
        await ended.wait()
        await until(lambda: "the client has gone: GET /late" in caplog.text)
    finally:
        await runner.cleanup()
    assert "request failed" not in caplog.text
