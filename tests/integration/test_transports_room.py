"""Transports that plugins bring, in a control plane that runs: who may, what a session records, what a bad one breaks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agentfield.errors import AgentFieldError, Forbidden, InvalidInput
from agentfield.plugins import Registry
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudio, CancelReply, Say
from agentfield.realtime.events import ReplyAudio, ReplyStarted, TurnStarted
from agentfield.realtime.transport import Evidence
from agentfield.wire.rest import StartRequest
from agentfield_cli.main import run
from agentfield_server.api import transports as routes
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from agentfield_server.transports import host
from unit.booth_kit import BASE, INFO, SECRET, Booth, BoothLeg, BoothPlugin, booth_desk
from unit.media_kit import Caller, House, house
from unit.waiting import until

KEY = "operator-key-0123456789"
WORDS = Path(__file__).parents[1] / "speech_fixtures" / "goforward.wav"
NUMBER = {"X-Booth": "7"}
SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


def installed(home: Path, played: Booth, **changes: Any) -> AbstractAsyncContextManager[House]:
    """Run an installation with the booth."""
    plugin = BoothPlugin(played, **changes)
    return house(home, plugins=[plugin], agent=booth_desk, environ={"BOOTH_SECRET": SECRET})


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


async def ask(it: House, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Ask a route of the booth; return the status and the JSON."""
    async with it.http.request(method, f"{it.plane.url}{BASE}{path}", **options) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else {}


async def ring(it: House, target: str = "desk.booth") -> str:
    """Ring at a session; return its id."""
    status, answer = await ask(it, "POST", f"/ring/{target}", headers=NUMBER)
    assert status == 200, answer
    return str(answer["session_id"])


async def line(it: House, session_id: str) -> Caller:
    """Open the line of a caller."""
    caller = Caller(await it.http.ws_connect(f"{it.plane.url}{BASE}/line/{session_id}", headers=NUMBER))
    it.stack.push_async_callback(caller.leave)
    return caller


# --- a call


async def test_a_caller_of_the_transport_starts_its_session_and_is_carried(it: House, played: Booth) -> None:
    """The first request enters the factory; the session is live once the leg is; keys reach the handler; a bye ends it."""
    assert played.entered == 0
    played.start = {"caller": "7", "metadata": {"booth": "7"}}
    session_id = await ring(it)
    caller = await line(it, session_id)
    provider = await it.adapter.socket()
    assert it.adapter.opened[0][1].name == "pcmu/8000"
    await caller.socket.send_bytes(bytes(160))
    assert (await provider.asked(AppendAudio)).data == bytes(160)
    actor = it.plane.sessions._actors[session_id]
    await until(lambda: actor.machine.board.live and actor._handler.listening)
    await caller.socket.send_str("key 5")
    say = await provider.asked(Say)
    assert say.text == 'Key 5, {"booth": "7"}.'
    provider.tell(ReplyStarted(reply="r1", command=say.id), ReplyAudio(reply="r1", data=b"\x11" * 160_000))
    await until(lambda: len(caller.audio) >= 800)
    provider.tell(TurnStarted(item="i1"))
    assert (await provider.asked(CancelReply)).reply == "r1"
    await caller.frame("clear")
    await caller.socket.send_str("bye")
    await caller.closed()
    assert played.ends == ["gone"]
    view = await it.plane.sessions.settled(session_id)
    assert view is not None
    assert (view.state, view.end_reason, view.principal) == ("ended", "caller_hangup", "transport:booth")
    assert played.entered == 1


async def test_what_is_known_of_the_caller_is_recorded_without_secrets(it: House, played: Booth) -> None:
    """The evidence is in the first event of the session and in its view; a setting of the transport is in neither."""

    async def verify(request: web.Request) -> Evidence:
        return Evidence("booth-number", {"number": "7", "said": f"my word is {SECRET}"})

    played.verify = verify
    session_id = await ring(it)
    evidence = {"method": "booth-number", "facts": {"number": "7", "said": "my word is [redacted]"}}
    assert (await it.client.get_session(session_id)).evidence == evidence
    assert (await it.client.list_sessions())[0].evidence is None
    row = await it.plane.sessions._store.get_session(session_id)
    assert row is not None
    created = await it.plane.sessions._store.last_event(row.run_id, "session.created")
    assert created is not None
    assert json.loads(created.canonical)["body"]["evidence"] == evidence


async def test_a_call_is_one_session_however_often_it_is_announced(it: House, played: Booth) -> None:
    """A second start with the same key returns the first session, whatever else it says; keys are each transport's own."""
    played.start = {"idempotency_key": "call-1", "metadata": {"attempt": "1"}}
    first = await ring(it)
    played.start = {"idempotency_key": "call-1", "metadata": {"attempt": "2"}}
    assert await ring(it) == first
    played.start = {"idempotency_key": "call-2"}
    assert await ring(it) != first


async def test_what_the_runtime_gives_is_the_transports_own(it: House, played: Booth, tmp_path: Path) -> None:
    """Settings that the manifest names and no other, addresses below its routes, a folder, sessions of its own only."""
    await ring(it)
    runtime = played.runtime
    assert runtime is not None
    found = runtime.setting("BOOTH_SECRET")
    assert found is not None
    assert found.get_secret_value() == SECRET
    assert SECRET not in repr(found)
    with pytest.raises(KeyError, match="does not name OPENAI_API_KEY"):
        runtime.setting("OPENAI_API_KEY")
    assert runtime.url("/line/x") == f"{it.plane.url}{BASE}/line/x"
    assert runtime.data_dir == tmp_path / "transports" / "booth"
    assert runtime.data_dir.is_dir()
    assert runtime.logger.name == "agentfield.transport.booth"
    foreign = await it.start("desk.voice")
    socket = web.WebSocketResponse()
    for use in (
        lambda: runtime.carry(foreign.session_id, BoothLeg(socket)),
        lambda: runtime.end_session(foreign.session_id),
        lambda: runtime.end_session("ses_nobody"),
    ):
        with pytest.raises(AgentFieldError) as caught:
            await use()
        assert caught.value.code == "unknown_session"


async def test_a_leg_in_a_format_that_is_not_declared_is_refused(it: House, played: Booth) -> None:
    """What a transport declares is what its legs speak."""
    session_id = await ring(it)
    runtime = played.runtime
    assert runtime is not None
    with pytest.raises(InvalidInput) as caught:
        await runtime.carry(session_id, BoothLeg(web.WebSocketResponse(), AudioFormat("pcm16", 24000)))
    assert str(caught.value) == (
        "The leg speaks pcm16/24000, which the transport booth does not declare.\n  hint: its manifest names: pcmu/8000"
    )


# --- starts that are refused


async def test_an_operator_cannot_start_or_dial_what_its_transport_starts(it: House, played: Booth) -> None:
    """REST and the media socket are refused with the way in; the session of the transport goes on."""
    with pytest.raises(AgentFieldError) as caught:
        await it.client.start_session(StartRequest(target="desk.booth"))
    assert (caught.value.code, caught.value.status) == ("starts_elsewhere", 409)
    assert str(caught.value) == (
        "desk.booth runs over acme/booth: its sessions begin when a caller comes over booth, and cannot be started from"
        " here.\n  hint: callers come in at POST /api/v1/transports/booth/ring/{target}"
    )
    session_id = await ring(it)
    async with it.http.get(f"{it.plane.url}/api/v1/sessions/{session_id}/media") as response:
        problem = json.loads(await response.text())
    assert (response.status, problem["code"]) == (409, "wrong_media")
    assert problem["detail"] == "The session runs over acme/booth, where audio goes another way."
    assert problem["hint"] == "callers come in at POST /api/v1/transports/booth/ring/{target}"


@pytest.mark.parametrize(
    "command", [("session", "start", "desk.booth"), ("session", "call", "desk.booth", "--audio", str(WORDS))]
)
async def test_the_command_line_says_how_such_a_session_begins(
    it: House, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """`af session start` and `af session call` fail with the way in."""
    code = await asyncio.to_thread(run, [*command, "--url", it.plane.url])
    told = capsys.readouterr()
    assert code != 0
    assert "its sessions begin when a caller comes over booth" in " ".join(told.err.split())
    assert "POST /api/v1/transports/booth/ring/{target}" in " ".join(told.err.split())


async def test_a_session_of_another_transport_is_not_switched(it: House) -> None:
    """A call for a session that is declared otherwise is refused with both names and the line to change."""
    status, problem = await ask(it, "POST", "/ring/desk.voice", headers=NUMBER)
    assert (status, problem["code"]) == (422, "declaration_mismatch")
    assert problem["detail"] == (
        "A call for desk.voice came over booth, but it is registered with transport 'websocket'; nothing is switched"
        " silently."
    )
    assert problem["hint"] == ("declare transport='booth' in @app.session(...), or send the call to another session")
    status, problem = await ask(it, "POST", "/ring/desk.nobody", headers=NUMBER)
    assert (status, problem["code"]) == (404, "unknown_session")


@pytest.mark.parametrize(
    "evidence",
    [
        None,
        {"method": "x"},
        Evidence(""),
        Evidence("x", {"n": 1}),  # type: ignore[dict-item]
        Evidence("x", {str(n): "" for n in range(21)}),
    ],
)
async def test_a_start_without_sound_evidence_is_refused(it: House, played: Booth, evidence: Any) -> None:
    """A transport must say why a start is to be believed, in a few short texts."""
    await ring(it)
    runtime = played.runtime
    assert runtime is not None
    with pytest.raises(InvalidInput) as caught:
        await runtime.start_session("desk.booth", evidence=evidence)
    assert caught.value.code == "bad_evidence"
    assert str(caught.value) == (
        "Evidence is a method and at most 20 facts, all of them texts.\n"
        "  hint: return agentfield.realtime.transport.Evidence(method, facts) from verify"
    )


async def test_words_before_the_call_are_refused_with_the_way_in(tmp_path: Path, played: Booth) -> None:
    """Where the callers of a transport can type, words that come before they do are told how they come."""
    async with installed(tmp_path, played, text_input=True) as it:
        session_id = await ring(it)
        with pytest.raises(AgentFieldError) as caught:
            await it.client.send_input(session_id, "hello")
        assert (caught.value.code, caught.value.hint) == (
            "not_live",
            "callers come in at POST /api/v1/transports/booth/ring/{target}",
        )


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


# --- what is told of the routes


async def test_the_routes_are_in_the_document(it: House) -> None:
    """Each route of a transport's manifest is in the OpenAPI document with who may use it."""
    async with it.http.get(f"{it.plane.url}/api/v1/openapi.json") as response:
        paths = (await response.json())["paths"]
    found = {path.removeprefix(BASE): item for path, item in paths.items() if path.startswith(f"{BASE}/")}
    assert set(found) == {route.path for route in INFO.routes}
    ring_route = found["/ring/{target}"]["post"]
    assert (ring_route["summary"], ring_route["security"]) == ("A caller rings", [])
    assert ring_route["description"].startswith("Whoever the transport itself accepts")
    assert found["/line/{session_id}"]["get"]["responses"].keys() == {"101", "default"}
    assert {"browserToken": []} in found["/hold/{session_id}"]["post"]["security"]
    assert {"browserToken": []} not in found["/status"]["get"]["security"]


async def test_a_transport_that_two_plugins_declare_is_served_by_neither(
    tmp_path: Path, played: Booth, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is chosen: there is no route, and the log says why."""
    caplog.set_level(logging.WARNING)

    class OtherPlugin(BoothPlugin):
        """Another plugin with a transport of the same name."""

    twins = [BoothPlugin(played), OtherPlugin(played, dtmf=False)]
    async with house(tmp_path, plugins=twins) as it:
        assert (await ask(it, "GET", "/status"))[0] == 404
    assert "the routes of a transport are not served: transport 'booth' is declared differently by 2" in caplog.text
