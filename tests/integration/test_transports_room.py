"""Transports that plugins bring, in a control plane that runs: their calls, what a session records, what is told of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentfield.errors import AgentFieldError, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudio, CancelReply, Say
from agentfield.realtime.events import ReplyAudio, ReplyStarted, TurnStarted
from agentfield.realtime.transport import Evidence
from agentfield.wire.rest import StartRequest
from agentfield_cli.main import run
from unit.booth_kit import (
    BASE,
    INFO,
    NUMBER,
    SECRET,
    Booth,
    BoothLeg,
    BoothPlugin,
    ask,
    installed,
    line,
    ring,
)
from unit.media_kit import House, house
from unit.waiting import until

WORDS = Path(__file__).parents[1] / "speech_fixtures" / "goforward.wav"


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
    actor = it.plane.sessions._actors.get(session_id)
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
