"""Calls over a transport plugin in a running control plane: start, media, recorded evidence, refusals."""

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
from agentfield.realtime.commands import AppendAudioCommand, CancelReplyCommand, SayCommand
from agentfield.realtime.events import ReplyAudio, ReplyStarted, TurnStarted
from agentfield.realtime.transport import Evidence
from agentfield.wire.rest import StartRequest
from agentfield_cli.main import run
from support.paths import SPEECH_FIXTURES
from support.server.bridged_calls import Installation, run_installation
from support.server.transport_plugin import (
    BASE,
    INFO,
    NUMBER,
    SECRET,
    ScriptedLeg,
    TransportPlugin,
    TransportScript,
    ask,
    installed,
    line,
    ring,
)
from support.waiting import until

WORDS = SPEECH_FIXTURES / "goforward.wav"


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


# --- a call


async def test_a_caller_of_the_transport_starts_and_carries_its_session(
    it: Installation, played: TransportScript
) -> None:
    """The first request enters the factory, the leg makes the session live, DTMF reaches the handler, `bye` ends the call."""
    assert played.entered == 0
    played.start = {"caller": "7", "metadata": {"booth": "7"}}
    session_id = await ring(it)
    caller = await line(it, session_id)
    provider = await it.adapter.socket()
    assert it.adapter.opened[0][1].name == "pcmu/8000"
    await caller.socket.send_bytes(bytes(160))
    assert (await provider.asked(AppendAudioCommand)).data == bytes(160)
    actor = it.plane.sessions._live.get(session_id)
    await until(lambda: actor.machine.state.live and actor._handler_channel.listening)
    await caller.socket.send_str("key 5")
    say = await provider.asked(SayCommand)
    assert say.text == 'Key 5, {"booth": "7"}.'
    provider.tell(ReplyStarted(reply="r1", command=say.id), ReplyAudio(reply="r1", data=b"\x11" * 160_000))
    await until(lambda: len(caller.audio) >= 800)
    provider.tell(TurnStarted(item="i1", at_ms=60_000))
    assert (await provider.asked(CancelReplyCommand)).reply == "r1"
    await caller.frame("clear")
    await caller.socket.send_str("bye")
    await caller.closed()
    assert played.ends == ["gone"]
    await until(lambda: actor.machine.state.over)
    view = await it.plane.sessions.settled(session_id)
    assert view is not None
    assert (view.state, view.end_reason, view.principal) == ("ended", "caller_hangup", "transport:booth")
    assert played.entered == 1


async def test_evidence_is_recorded_without_secrets(it: Installation, played: TransportScript) -> None:
    """`session.created` and the session's view have the evidence and none of the transport's settings."""

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


async def test_a_repeated_start_of_a_call_is_one_session(it: Installation, played: TransportScript) -> None:
    """A second start with the same key returns the first session, whatever its body; keys are scoped to the transport."""
    played.start = {"idempotency_key": "call-1", "metadata": {"attempt": "1"}}
    first = await ring(it)
    played.start = {"idempotency_key": "call-1", "metadata": {"attempt": "2"}}
    assert await ring(it) == first
    played.start = {"idempotency_key": "call-2"}
    assert await ring(it) != first


async def test_the_runtime_is_restricted_to_its_transport(
    it: Installation, played: TransportScript, tmp_path: Path
) -> None:
    """The runtime gives access only to the manifest's settings, its own routes, directory and sessions."""
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
    foreign = await it.start("shop.voice")
    socket = web.WebSocketResponse()
    for use in (
        lambda: runtime.carry(foreign.session_id, ScriptedLeg(socket)),
        lambda: runtime.end_session(foreign.session_id),
        lambda: runtime.end_session("ses_nobody"),
    ):
        with pytest.raises(AgentFieldError) as caught:
            await use()
        assert caught.value.code == "unknown_session"


async def test_a_leg_with_an_undeclared_format_is_refused(it: Installation, played: TransportScript) -> None:
    """The format of a leg must be in the transport's manifest."""
    session_id = await ring(it)
    runtime = played.runtime
    assert runtime is not None
    with pytest.raises(InvalidInput) as caught:
        await runtime.carry(session_id, ScriptedLeg(web.WebSocketResponse(), AudioFormat("pcm16", 24000)))
    assert str(caught.value) == (
        "The leg's format is pcm16/24000, which the transport booth does not declare.\n  hint: its manifest names: pcmu/8000"
    )


# --- starts that are refused


async def test_an_operator_cannot_start_or_call_a_session_of_the_transport(
    it: Installation, played: TransportScript
) -> None:
    """REST start and media socket are refused with the entry route; the transport's session continues."""
    with pytest.raises(AgentFieldError) as caught:
        await it.client.start_session(StartRequest(target="shop.booth"))
    assert (caught.value.code, caught.value.status) == ("starts_elsewhere", 409)
    assert str(caught.value) == (
        "shop.booth runs over acme/booth: its sessions start when a caller comes in over booth, and cannot be started from"
        " here.\n  hint: callers come in at POST /api/v1/transports/booth/ring/{target}"
    )
    session_id = await ring(it)
    async with it.http.get(f"{it.plane.url}/api/v1/sessions/{session_id}/media") as response:
        problem = json.loads(await response.text())
    assert (response.status, problem["code"]) == (409, "wrong_media")
    assert problem["detail"] == "The session runs over acme/booth; audio cannot enter it on this route."
    assert problem["hint"] == "callers come in at POST /api/v1/transports/booth/ring/{target}"


@pytest.mark.parametrize(
    "command", [("session", "start", "shop.booth"), ("session", "call", "shop.booth", "--audio", str(WORDS))]
)
async def test_the_command_line_prints_the_entry_route(
    it: Installation, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """`af session start` and `af session call` fail with the entry route."""
    code = await asyncio.to_thread(run, [*command, "--url", it.plane.url])
    told = capsys.readouterr()
    assert code != 0
    assert "its sessions start when a caller comes in over booth" in " ".join(told.err.split())
    assert "POST /api/v1/transports/booth/ring/{target}" in " ".join(told.err.split())


async def test_a_call_for_a_session_of_another_transport_is_refused(it: Installation) -> None:
    """A call for a session of another transport is refused with both names and the line to change."""
    status, problem = await ask(it, "POST", "/ring/shop.voice", headers=NUMBER)
    assert (status, problem["code"]) == (422, "declaration_mismatch")
    assert problem["detail"] == (
        "A call for shop.voice came over booth, but it is registered with transport 'websocket'; nothing is switched"
        " silently."
    )
    assert problem["hint"] == ("declare transport='booth' in @app.session(...), or send the call to another session")
    status, problem = await ask(it, "POST", "/ring/shop.nobody", headers=NUMBER)
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
async def test_a_start_without_valid_evidence_is_refused(
    it: Installation, played: TransportScript, evidence: Any
) -> None:
    """A start needs evidence: a method and a few short facts."""
    await ring(it)
    runtime = played.runtime
    assert runtime is not None
    with pytest.raises(InvalidInput) as caught:
        await runtime.start_session("shop.booth", evidence=evidence)
    assert caught.value.code == "bad_evidence"
    assert str(caught.value) == (
        "Evidence is a method and at most 20 facts, all of them texts.\n"
        "  hint: return agentfield.realtime.transport.Evidence(method, facts) from verify"
    )


async def test_text_before_the_call_is_refused_with_the_entry_route(tmp_path: Path, played: TransportScript) -> None:
    """Text typed before the caller is connected is refused with the entry route."""
    async with installed(tmp_path, played, text_input=True) as it:
        session_id = await ring(it)
        with pytest.raises(AgentFieldError) as caught:
            await it.client.send_input(session_id, "hello")
        assert (caught.value.code, caught.value.hint) == (
            "not_live",
            "callers come in at POST /api/v1/transports/booth/ring/{target}",
        )


# --- routes


async def test_the_routes_are_in_the_openapi_document(it: Installation) -> None:
    """Each route of a transport's manifest is in the OpenAPI document with its access."""
    async with it.http.get(f"{it.plane.url}/api/v1/openapi.json") as response:
        paths = (await response.json())["paths"]
    found = {path.removeprefix(BASE): item for path, item in paths.items() if path.startswith(f"{BASE}/")}
    assert set(found) == {route.path for route in INFO.routes}
    ring_route = found["/ring/{target}"]["post"]
    assert (ring_route["summary"], ring_route["security"]) == ("A caller rings", [])
    assert ring_route["description"].startswith("The transport verifies the request itself")
    assert found["/line/{session_id}"]["get"]["responses"].keys() == {"101", "default"}
    assert {"browserToken": []} in found["/hold/{session_id}"]["post"]["security"]
    assert {"browserToken": []} not in found["/status"]["get"]["security"]


async def test_an_ambiguous_transport_is_not_served(
    tmp_path: Path, played: TransportScript, caplog: pytest.LogCaptureFixture
) -> None:
    """A transport with two different declarations has no routes, and the log has the reason."""
    caplog.set_level(logging.WARNING)

    class OtherPlugin(TransportPlugin):
        """Another plugin with a transport of the same name."""

    twins = [TransportPlugin(played), OtherPlugin(played, dtmf=False)]
    async with run_installation(tmp_path, plugins=twins) as it:
        assert (await ask(it, "GET", "/status"))[0] == 404
    assert (
        "the routes of an ambiguous transport are not served: transport 'booth' is declared differently by 2"
        in caplog.text
    )
