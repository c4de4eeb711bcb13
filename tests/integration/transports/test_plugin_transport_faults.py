"""Faults of a transport plugin in a running control plane: verification, limits, failing handlers and factories."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agentfield.errors import Forbidden, InvalidInput
from agentfield.plugins import Registry
from agentfield.realtime.transport import Evidence
from agentfield_server.api.callers import plugin_transports as routes
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from agentfield_server.transports import host
from support.server.bridged_calls import Installation
from support.server.transport_plugin import (
    BASE,
    NUMBER,
    SECRET,
    TransportPlugin,
    TransportScript,
    ask,
    installed,
    line,
    ring,
)
from support.waiting import until, until_async

KEY = "operator-key-0123456789"
SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


@pytest.fixture
def played() -> TransportScript:
    """The script of the booth transport."""
    return TransportScript()


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: TransportScript) -> AsyncIterator[Installation]:
    """An installation with a scripted provider and the booth transport."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with installed(tmp_path, played) as made:
        yield made


# --- authentication


async def forbid(_: web.Request) -> Any:
    raise Forbidden("The number is not known.", code="unknown_number", hint="call from another one")


async def fail(_: web.Request) -> Any:
    raise RuntimeError(f"broken inside, {SECRET}")


async def leave(_: web.Request) -> Any:
    raise SystemExit(3)


async def cancel(_: web.Request) -> Any:
    raise asyncio.CancelledError


async def hang(_: web.Request) -> Any:
    await asyncio.Event().wait()


async def yes(_: web.Request) -> Any:
    return True


async def nothing(_: web.Request) -> Any:
    return None


@pytest.mark.parametrize("verify", [fail, leave, cancel, hang, yes, nothing], ids=lambda each: each.__name__)
async def test_an_unverified_request_is_refused(
    it: Installation,
    played: TransportScript,
    verify: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Unless `verify` returns Evidence, the handler is not called, and the problem reveals no internals."""
    monkeypatch.setattr(routes, "_VERIFY_WAIT", 0.05)
    played.verify = verify
    for method, path in (("POST", "/ring/shop.booth"), ("GET", "/line/ses_1")):
        status, problem = await ask(it, method, path, headers=NUMBER)
        assert (status, problem["code"]) == (403, "not_verified")
        assert problem["detail"] == "The transport booth could not verify the request."
        assert SECRET not in str(problem)
    assert played.bodies == []
    assert not await it.client.list_sessions()
    assert "verify" in caplog.text or "failed to verify" in caplog.text


async def test_the_transport_s_own_refusal_is_passed_on(it: Installation, played: TransportScript) -> None:
    """A `Forbidden` of `verify` is returned with its message."""
    played.verify = forbid
    status, problem = await ask(it, "POST", "/ring/shop.booth", headers=NUMBER)
    assert (status, problem["code"], problem["hint"]) == (403, "unknown_number", "call from another one")


async def test_routes_without_verify_require_the_control_plane_s_credentials(
    tmp_path: Path, played: TransportScript
) -> None:
    """An operator route needs the operator's key; a session route that key or the session's token."""
    plugin = TransportPlugin(played)
    async with (
        control_plane(
            Settings(home=tmp_path, port=0, api_key=KEY), registry=Registry.of([plugin]), environ={}
        ) as plane,
        aiohttp.ClientSession(trust_env=False) as http,
    ):
        operator, stranger = {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer ek_af_nobody"}
        for method, path, headers, status in (
            ("GET", "/status", {}, 401),
            ("GET", "/status", stranger, 403),
            ("GET", "/status", operator, 200),
            ("POST", "/hold/ses_1", {}, 401),
            ("POST", "/hold/ses_1", stranger, 401),
            ("POST", "/hold/ses_1", operator, 404),
            ("GET", "/nothing", operator, 404),
        ):
            async with http.request(method, f"{plane.url}{BASE}{path}", headers=headers) as response:
                assert (path, response.status) == (path, status)


# --- limits


async def test_an_oversized_body_does_not_reach_the_plugin(it: Installation, played: TransportScript) -> None:
    """A body is read up to the route's limit before `verify`; a larger one is 413."""
    status, problem = await ask(it, "POST", "/ring/shop.booth", headers=NUMBER, data=b"x" * 1001)
    assert (status, problem["code"]) == (413, "body_too_large")
    assert played.bodies == []
    status, _ = await ask(it, "POST", "/ring/shop.booth", headers=NUMBER, data=b"x" * 1000)
    assert (status, played.bodies) == (200, [b"x" * 1000])


async def test_requests_beyond_the_concurrency_limit_are_refused(it: Installation, played: TransportScript) -> None:
    """Requests and sockets hold slots of their route; beyond the limit they get 429 with Retry-After."""
    first, second = [await line(it, await ring(it)) for _ in range(2)]
    url = f"{it.plane.url}{BASE}/line/ses_1"
    async with it.http.get(url, headers={**NUMBER, **SOCKET}) as response:
        problem = json.loads(await response.text())
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    assert problem["code"] == "transport_busy"
    assert problem["detail"] == (
        "GET /api/v1/transports/booth/line/{session_id} serves 2 requests at once, and all slots are in use."
    )
    assert (await ask(it, "GET", "/status"))[0] == 200
    await first.leave()

    async def status() -> int:
        async with it.http.get(url, headers={**NUMBER, **SOCKET}) as response:
            return response.status

    # the slot is released after the transport has handled the end of the connection
    await until_async(status, lambda found: found != 429)
    await line(it, await ring(it))
    await second.leave()


# --- isolation of failures


async def broken(_request: web.Request, _evidence: Evidence | None) -> Any:
    raise RuntimeError(f"broken inside, {SECRET}")


async def exits(_request: web.Request, _evidence: Evidence | None) -> Any:
    raise SystemExit(3)


async def cancels(_request: web.Request, _evidence: Evidence | None) -> Any:
    raise asyncio.CancelledError


async def hangs(_request: web.Request, _evidence: Evidence | None) -> Any:
    await asyncio.Event().wait()


async def no_answer(_request: web.Request, _evidence: Evidence | None) -> Any:
    return {"status": "ok"}


@pytest.mark.parametrize(
    ("work", "status", "code", "detail"),
    [
        (broken, 500, "transport_failed", "The transport booth failed at this request."),
        (exits, 500, "transport_failed", "The transport booth failed at this request."),
        (cancels, 500, "transport_failed", "The transport booth failed at this request."),
        (no_answer, 500, "transport_failed", "The transport booth failed at this request."),
        (hangs, 504, "transport_timeout", "The transport booth did not answer within 0.05 s."),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_a_failing_handler_fails_its_request_only(
    it: Installation,
    played: TransportScript,
    monkeypatch: pytest.MonkeyPatch,
    work: Any,
    status: int,
    code: str,
    detail: str,
) -> None:
    """The problem reveals no internals; the next request, and every other route, is served."""
    monkeypatch.setattr(routes, "_HANDLER_WAIT", 0.05)
    played.work = work
    found, problem = await ask(it, "GET", "/status")
    assert (found, problem["code"], problem["detail"]) == (status, code, detail)
    assert SECRET not in str(problem)
    played.work = None
    assert await ask(it, "GET", "/status") == (200, {"entered": 1})
    assert (await it.start("shop.voice")).session_id


async def test_a_handler_may_raise_agentfield_and_http_errors(it: Installation, played: TransportScript) -> None:
    """A handler may raise `AgentFieldError` or the errors of aiohttp; both are returned as raised."""

    async def ours(_request: web.Request, _evidence: Evidence | None) -> Any:
        raise InvalidInput("No such booth.", code="no_booth")

    async def theirs(_request: web.Request, _evidence: Evidence | None) -> Any:
        raise web.HTTPGone

    played.work = ours
    assert (await ask(it, "GET", "/status"))[1]["code"] == "no_booth"
    played.work = theirs
    assert (await ask(it, "GET", "/status"))[0] == 410


@pytest.mark.parametrize("work", [broken, exits, cancels], ids=lambda each: each.__name__)
async def test_a_socket_whose_handler_fails_is_aborted(it: Installation, played: TransportScript, work: Any) -> None:
    """No problem document is sent on an open socket: it is aborted, and its slot is freed."""
    session_id = await ring(it)
    played.work = work
    caller = await line(it, session_id)
    assert await caller.closed() == 1006
    assert caller.heard == []
    played.work = None
    again = await line(it, session_id)
    await it.adapter.socket()
    await again.leave()


async def explodes(_: Any) -> Any:
    raise RuntimeError(f"no line today, {SECRET}")


async def quits(_: Any) -> Any:
    raise SystemExit(1)


async def waits(_: Any) -> Any:
    await asyncio.Event().wait()


async def incomplete(_: Any) -> Any:
    return object()


@pytest.mark.parametrize("enter", [explodes, quits, waits, incomplete], ids=lambda each: each.__name__)
async def test_a_failing_factory_is_retried_later(
    it: Installation,
    played: TransportScript,
    enter: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All waiting requests get 503, the factory is not retried at once, and a later attempt may succeed."""
    monkeypatch.setattr(host, "_ENTER_WAIT", 0.1)
    monkeypatch.setattr(host, "_RETRY_AFTER", 3600)
    played.enter = enter
    answers = await asyncio.gather(*(ask(it, "POST", "/ring/shop.booth", headers=NUMBER) for _ in range(3)))
    answers.append(await ask(it, "POST", "/ring/shop.booth", headers=NUMBER))
    for status, problem in answers:
        assert (status, problem["code"], problem["retry_after"]) == (503, "transport_not_ready", 3600)
        assert SECRET not in str(problem)
    assert played.entered == 1
    assert (await it.start("shop.voice")).session_id
    assert "the transport booth failed" in caplog.text
    played.enter = TransportScript().enter
    it.plane.transports["booth"]._retry_at = 0.0
    await ring(it)
    assert played.entered == 2


async def test_a_factory_that_cannot_be_imported_is_a_503(tmp_path: Path, played: TransportScript) -> None:
    """A factory in a missing module gives 503 at the first request and no error at start."""
    async with installed(tmp_path, played, factory="support.no_such_module:scripted_transport") as it:
        status, problem = await ask(it, "GET", "/status")
        assert (status, problem["code"]) == (503, "transport_not_ready")
        assert problem["detail"] == "The transport booth cannot serve: its factory failed."


async def test_the_transport_is_exited_at_shutdown_in_the_task_that_entered_it(
    tmp_path: Path, played: TransportScript
) -> None:
    """The transport is entered once for many requests and exited once; a task group may span both."""
    tasks: list[Any] = []

    async def note(_: Any) -> None:
        tasks.append(asyncio.current_task())

    played.enter = played.leave = note
    async with installed(tmp_path, played) as it:
        await asyncio.gather(*(ask(it, "GET", "/status") for _ in range(1)))
        await ring(it)
    assert (played.entered, played.left) == (1, 1)
    assert tasks[0] is tasks[1]


async def test_an_unused_transport_is_never_entered(tmp_path: Path, played: TransportScript) -> None:
    """Start and shutdown run no code of the plugin."""
    async with installed(tmp_path, played):
        pass
    assert (played.entered, played.left) == (0, 0)


async def test_a_transport_that_does_not_exit_cannot_block_the_shutdown(
    tmp_path: Path, played: TransportScript, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exit has a deadline; a transport that ignores its cancellation is left running, with a log line."""
    monkeypatch.setattr(host, "_LEAVE_WAIT", 0.05)
    monkeypatch.setattr(host, "_CANCEL_WAIT", 0.05)
    done = asyncio.Event()

    async def never(_: Any) -> None:
        while not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue

    played.leave = never
    plugin = TransportPlugin(played)
    async with (
        control_plane(Settings(home=tmp_path, port=0), registry=Registry.of([plugin]), environ={}) as plane,
    ):
        await plane.transports["booth"].get()
    assert "the transport booth ignores its cancellation and is left running" in caplog.text
    done.set()
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "transport booth"])
