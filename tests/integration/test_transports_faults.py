"""Transports that plugins bring, in a control plane that runs: who may use them, how much, and what a bad one breaks."""

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
from agentfield_server.api import transports as routes
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from agentfield_server.transports import host
from unit.booth_kit import (
    BASE,
    NUMBER,
    SECRET,
    Booth,
    BoothPlugin,
    ask,
    installed,
    line,
    ring,
)
from unit.media_kit import House
from unit.waiting import until

KEY = "operator-key-0123456789"
SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


@pytest.fixture
def played() -> Booth:
    """What the booth does."""
    return Booth()


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Booth) -> AsyncIterator[House]:
    """An installation with a scripted provider and the booth."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with installed(tmp_path, played) as made:
        yield made


# --- who may


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
async def test_whoever_is_not_verified_is_refused(
    it: House, played: Booth, verify: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever verify does but return an Evidence, the handler is not reached, and the answer tells nothing of the inside."""
    monkeypatch.setattr(routes, "_VERIFY_WAIT", 0.05)
    played.verify = verify
    for method, path in (("POST", "/ring/desk.booth"), ("GET", "/line/ses_1")):
        status, problem = await ask(it, method, path, headers=NUMBER)
        assert (status, problem["code"]) == (403, "not_verified")
        assert problem["detail"] == "The transport booth does not know who asks."
        assert SECRET not in str(problem)
    assert played.bodies == []
    assert not await it.client.list_sessions()
    assert "verify" in caplog.text or "could not tell who asks" in caplog.text


async def test_the_transports_own_refusal_is_told(it: House, played: Booth) -> None:
    """A Forbidden of verify is passed on with its words."""
    played.verify = forbid
    status, problem = await ask(it, "POST", "/ring/desk.booth", headers=NUMBER)
    assert (status, problem["code"], problem["hint"]) == (403, "unknown_number", "call from another one")


async def test_the_other_routes_ask_for_our_keys(tmp_path: Path, played: Booth) -> None:
    """An operator's route takes the operator's key; a session's route that or the token of that session; no other."""
    plugin = BoothPlugin(played)
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


# --- how much


async def test_a_body_that_is_too_large_reaches_nobody(it: House, played: Booth) -> None:
    """A body is read whole up to the route's limit, before verify; larger ones are 413."""
    status, problem = await ask(it, "POST", "/ring/desk.booth", headers=NUMBER, data=b"x" * 1001)
    assert (status, problem["code"]) == (413, "body_too_large")
    assert played.bodies == []
    status, _ = await ask(it, "POST", "/ring/desk.booth", headers=NUMBER, data=b"x" * 1000)
    assert (status, played.bodies) == (200, [b"x" * 1000])


async def test_more_at_once_than_may_be_are_told_when_to_come_again(it: House, played: Booth) -> None:
    """Requests and sockets are counted by route; one more is 429 with Retry-After, and room is made by those that go."""
    first, second = [await line(it, await ring(it)) for _ in range(2)]
    url = f"{it.plane.url}{BASE}/line/ses_1"
    async with it.http.get(url, headers={**NUMBER, **SOCKET}) as response:
        problem = json.loads(await response.text())
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    assert problem["code"] == "transport_busy"
    assert problem["detail"] == (
        "GET /api/v1/transports/booth/line/{session_id} serves 2 at once, and as many are there."
    )
    assert (await ask(it, "GET", "/status"))[0] == 200
    await first.leave()
    await until(lambda: len(played.ends) == 1)
    await line(it, await ring(it))
    await second.leave()


# --- what a bad one breaks


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
async def test_a_handler_that_fails_fails_its_request_only(
    it: House, played: Booth, monkeypatch: pytest.MonkeyPatch, work: Any, status: int, code: str, detail: str
) -> None:
    """The answer is a problem that tells nothing of the inside; the next request, and every other route, is served."""
    monkeypatch.setattr(routes, "_HANDLER_WAIT", 0.05)
    played.work = work
    found, problem = await ask(it, "GET", "/status")
    assert (found, problem["code"], problem["detail"]) == (status, code, detail)
    assert SECRET not in str(problem)
    played.work = None
    assert await ask(it, "GET", "/status") == (200, {"entered": 1})
    assert (await it.start("desk.voice")).session_id


async def test_an_error_of_ours_and_one_of_http_are_the_handlers_to_raise(it: House, played: Booth) -> None:
    """A handler refuses with the errors that everything here refuses with, or with those of its HTTP library."""

    async def ours(_request: web.Request, _evidence: Evidence | None) -> Any:
        raise InvalidInput("No such booth.", code="no_booth")

    async def theirs(_request: web.Request, _evidence: Evidence | None) -> Any:
        raise web.HTTPGone

    played.work = ours
    assert (await ask(it, "GET", "/status"))[1]["code"] == "no_booth"
    played.work = theirs
    assert (await ask(it, "GET", "/status"))[0] == 410


@pytest.mark.parametrize("work", [broken, exits, cancels], ids=lambda each: each.__name__)
async def test_a_socket_whose_handler_fails_is_cut(it: House, played: Booth, work: Any) -> None:
    """Nothing but frames goes over an open socket: it is cut, and its place is free again."""
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
async def test_a_factory_that_fails_is_told_and_tried_again_later(
    it: House,
    played: Booth,
    enter: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All who wait are told 503, nobody tries again at once, and the next try may succeed; others never notice."""
    monkeypatch.setattr(host, "_ENTER_WAIT", 0.1)
    monkeypatch.setattr(host, "_AGAIN", 3600)
    played.enter = enter
    answers = await asyncio.gather(*(ask(it, "POST", "/ring/desk.booth", headers=NUMBER) for _ in range(3)))
    answers.append(await ask(it, "POST", "/ring/desk.booth", headers=NUMBER))
    for status, problem in answers:
        assert (status, problem["code"], problem["retry_after"]) == (503, "transport_not_ready", 3600)
        assert SECRET not in str(problem)
    assert played.entered == 1
    assert (await it.start("desk.voice")).session_id
    assert "the transport booth failed" in caplog.text
    played.enter = Booth().enter
    it.plane.transports["booth"]._not_before = 0.0
    await ring(it)
    assert played.entered == 2


async def test_a_factory_that_cannot_be_imported_is_told(tmp_path: Path, played: Booth) -> None:
    """A module that is not there is a 503 at the first use, and nothing before."""
    async with installed(tmp_path, played, factory="unit.no_such_module:booth") as it:
        status, problem = await ask(it, "GET", "/status")
        assert (status, problem["code"]) == (503, "transport_not_ready")
        assert problem["detail"] == "The transport booth cannot serve: its factory failed."


async def test_the_transport_is_left_at_shutdown_by_the_task_that_entered_it(tmp_path: Path, played: Booth) -> None:
    """Entered once for many requests, left once; a task group of its own works across both."""
    tasks: list[Any] = []

    async def note(_: Any) -> None:
        tasks.append(asyncio.current_task())

    played.enter = played.leave = note
    async with installed(tmp_path, played) as it:
        await asyncio.gather(*(ask(it, "GET", "/status") for _ in range(1)))
        await ring(it)
    assert (played.entered, played.left) == (1, 1)
    assert tasks[0] is tasks[1]


async def test_a_transport_that_nobody_used_is_never_entered(tmp_path: Path, played: Booth) -> None:
    """Starting and stopping runs no code of the plugin."""
    async with installed(tmp_path, played):
        pass
    assert (played.entered, played.left) == (0, 0)


async def test_one_that_does_not_leave_does_not_keep_the_control_plane(
    tmp_path: Path, played: Booth, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leaving has a deadline; whoever ignores that too is left behind, with a line in the log."""
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
    plugin = BoothPlugin(played)
    async with (
        control_plane(Settings(home=tmp_path, port=0), registry=Registry.of([plugin]), environ={}) as plane,
    ):
        await plane.transports["booth"].get()
    assert "the transport booth does not stop; it is left behind" in caplog.text
    done.set()
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "transport booth"])
