"""Gemini Live in a real control plane: a real call at the fake of its Live API, each of whose messages google-genai's types know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import agentfield_gemini.plugin
from agentfield import Agent, Limits
from agentfield.client import ControlPlaneClient
from agentfield.errors import CapabilityMissing
from agentfield.plugins import Registry
from agentfield.realtime.audio import AudioFormat
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_gemini.testing.live_server import LiveServer
from agentfield_gemini.testing.peer import speech
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.server.bridged_calls import Caller
from support.waiting import until

KEY = "canary-of-gemini"
RATE = 24_000
DECLARED: dict[str, Any] = {"provider": "gemini", "transport": "websocket"}
WAITING: list[str] = []
"""What happened to the tool that waits."""


def registry() -> Registry:
    return Registry.of([agentfield_gemini.plugin])


@asynccontextmanager
async def calling(
    home: Path, server: LiveServer, again: StartResponse | None = None, **declared: Any
) -> AsyncIterator[tuple[Caller, Any, StartResponse]]:
    """Run a control plane and an agent whose model answers, and call it at 24 kHz, or go on with a call of an earlier run."""
    app = Agent("shop", registry=registry())

    @app.reasoner()
    async def look_up(number: str) -> dict[str, str]:
        """Look up an order."""
        return {"found": f"walnut-{number}"}

    @app.reasoner(on_interrupt="cancel")
    async def wait() -> None:
        """Wait for somebody."""
        WAITING.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            WAITING.append("cancelled")

    async def voice(session: Any) -> None: ...

    app.session("voice", **{**DECLARED, **declared})(voice)
    environ = {"GEMINI_API_KEY": KEY, "GEMINI_BASE_URL": server.url}
    settings = Settings(home=home, port=0)
    async with control_plane(settings, registry=registry(), environ=environ) as plane:
        app._url, app._api_key = plane.url, None
        async with app, ControlPlaneClient(plane.url) as client, aiohttp.ClientSession() as http:
            started = again or await client.start_session(StartRequest(target="shop.voice"))
            headers = {"Authorization": f"Bearer {started.token}"}
            media = f"{plane.url}/api/v1/sessions/{started.session_id}/media?format=pcm16&rate={RATE}"
            socket = await http.ws_connect(media, headers=headers)
            caller = Caller(socket)
            await until(lambda: caller.of("ready"))
            yield caller, client, started
            await caller.leave()


async def say(caller: Caller, server: LiveServer, text: str) -> None:
    """Let the caller say something, in real time."""
    server.announce(text)
    audio = AudioFormat("pcm16", RATE)
    data, size = speech(text, audio), audio.size(100)
    for at in range(0, len(data), size):
        await caller.socket.send_bytes(data[at : at + size])
        await asyncio.sleep(0.1)  # paces the audio; waits for no event


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    """Run the fake; no message to it may be invalid."""
    async with LiveServer(KEY) as running:
        yield running
    assert running.faults == []


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Keep the node's key in the test's folder; check that no log line contains the provider's key."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    WAITING.clear()
    yield
    assert KEY not in caplog.text


async def test_a_call_with_a_tool(tmp_path: Path, server: LiveServer) -> None:
    """The caller speaks and hears the model's answer; the model calls a tool of the node and speaks its result by itself."""
    async with calling(tmp_path, server, tools=["shop.look_up"]) as (caller, client, started):
        await say(caller, server, "hello there")
        await until(lambda: len(caller.audio) > RATE)
        server.model.calls.append(("shop__look_up", {"number": "7"}))
        await say(caller, server, "where is my order")
        await until(lambda: any("walnut-7" in each for each in server.received))
        heard = len(caller.audio)
        await until(lambda: len(caller.audio) > heard + RATE)
        view = await client.get_session(started.session_id)
    assert (view.provider, view.transport, view.model, view.state) == ("gemini", "websocket", "gemini-3.8-live", "live")
    answers = [each for each in server.received if "toolResponse" in each]
    assert len(answers) == 1
    assert not [each for each in server.received if "clientContent" in each], (
        "nothing was asked of a model that answers by itself"
    )


async def test_the_caller_interrupts(tmp_path: Path, server: LiveServer) -> None:
    """The caller speaks over an answer that is generated and still plays: the caller receives `clear`, and the next answer."""
    server.model.replies += ["and then it travels by van and by train and by ship " * 3, "Short."]
    async with calling(tmp_path, server) as (caller, _, _):
        await say(caller, server, "where is my order")
        await until(lambda: len(caller.audio) > RATE)
        await say(caller, server, "stop please")
        await until(lambda: caller.of("clear"))
        await until(lambda: any("Short." in str(each) for each in server.sent))


async def test_a_greeting(tmp_path: Path, server: LiveServer) -> None:
    """A declared greeting is asked of the model, and heard."""
    async with calling(tmp_path, server, greeting="Welcome to the shop.") as (caller, _, _):
        await until(lambda: len(caller.audio) > RATE)
    asked = [each for each in server.received if "Welcome to the shop." in each]
    assert len(asked) == 1


async def test_the_model_chooses_silence(tmp_path: Path, server: LiveServer) -> None:
    """A turn that the model does not answer holds up nothing: the next one is answered."""
    server.model.silences = 1
    async with calling(tmp_path, server) as (caller, client, started):
        await say(caller, server, "one moment please")
        await until(lambda: server.model.silences == 0)
        await say(caller, server, "now I am back")
        await until(lambda: len(caller.audio) > RATE)
        assert (await client.get_session(started.session_id)).state == "live"


async def test_the_service_takes_a_call_back(tmp_path: Path, server: LiveServer) -> None:
    """The caller speaks while a tool runs: the service takes the call back, the tool is cancelled, and no result is sent."""
    server.model.calls.append(("shop__wait", {}))
    async with calling(tmp_path, server, tools=["shop.wait"]) as (caller, _, _):
        await say(caller, server, "where is my order")
        await until(lambda: WAITING == ["started"])
        await say(caller, server, "never mind")
        await until(lambda: WAITING == ["started", "cancelled"])
        await until(lambda: len(caller.audio) > RATE)
    assert not [each for each in server.received if "toolResponse" in each]


async def test_push_to_talk(tmp_path: Path, server: LiveServer) -> None:
    """The caller begins and commits each turn: the model answers each once, by itself."""
    async with calling(tmp_path, server, turn_detection=None) as (caller, _, _):
        for number, text in enumerate(("where is my order", "thank you"), 1):
            await caller.says(type="begin")
            await say(caller, server, text)
            await caller.says(type="commit")
            await until(lambda number=number: len([each for each in server.sent if "usageMetadata" in each]) == number)
            await until(lambda number=number: len(caller.audio) > number * RATE)
    signals = [each for each in server.received if "activity" in each and "setup" not in each]
    assert signals == ['{"realtimeInput": {"activityStart": {}}}', '{"realtimeInput": {"activityEnd": {}}}'] * 2
    assert not [each for each in server.received if "clientContent" in each]


async def test_typed_text(tmp_path: Path, server: LiveServer) -> None:
    """Typed text is added to the conversation, and the model is asked to answer it once."""
    async with calling(tmp_path, server) as (caller, client, started):
        async with asyncio.timeout(60):
            while (await client.get_session(started.session_id)).state != "live":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await caller.says(type="text", text="my order is number 7")
        await until(lambda: len(caller.audio) > RATE)
    contents = [each for each in server.received if "clientContent" in each]
    assert "my order is number 7" in contents[0]
    assert contents[1:] == ['{"clientContent": {"turnComplete": true}}']


@pytest.mark.parametrize("announced", [False, True])
async def test_a_conversation_is_resumed(tmp_path: Path, server: LiveServer, announced: bool) -> None:
    """A connection that is lost, or that is about to end, is replaced with the handle of the conversation, which goes on."""
    async with calling(tmp_path, server) as (caller, client, started):
        await say(caller, server, "my word is walnut")
        await until(lambda: len(server.handles) > 1)
        if announced:
            await server.go_away(16)
        else:
            server.drop()
        await until(lambda: any('"handle": "handle-' in each for each in server.received))
        await say(caller, server, "what was my word")
        await until(lambda: "what was my word" in str(list(server.handles.values())[-1]))
        assert str(list(server.handles.values())[-1]).count("my word is walnut") == 1
        assert (await client.get_session(started.session_id)).state == "live"


async def test_a_conversation_survives_a_restart(tmp_path: Path, server: LiveServer) -> None:
    """The handle of a conversation outlives the control plane: the next one continues it, and the caller's words are not sent again."""
    async with calling(tmp_path, server) as (caller, _, started):
        await say(caller, server, "my word is walnut")
        await until(lambda: len(server.handles) > 1)
        await say(caller, server, "remember it please")  # by its end, the handle of the first turn is stored
        await until(lambda: len(server.handles) > 2)
    server.received.clear()
    async with calling(tmp_path, server, started) as (caller, client, _):
        await say(caller, server, "what was my word")
        await until(lambda: "what was my word" in str(list(server.handles.values())[-1]))
        assert str(list(server.handles.values())[-1]).count("my word is walnut") == 1
        assert (await client.get_session(started.session_id)).state == "live"
    assert any('"handle": "handle-' in each for each in server.received)
    assert not [each for each in server.received if "walnut" in each]


@pytest.mark.parametrize(
    ("capability", "declared"),
    [
        ("modalities", {"modalities": ("text",)}),
        ("say", {"say": "exact"}),
        ("limits", {"limits": Limits(cost=1.0)}),
    ],
)
def test_undeclared_capabilities_are_refused(capability: str, declared: dict[str, Any]) -> None:
    """A missing capability is refused by name when the session is declared."""

    async def voice(session: Any) -> None: ...

    with pytest.raises(CapabilityMissing) as refused:
        Agent("shop", registry=registry()).session("voice", **{**DECLARED, **declared})(voice)
    assert capability in str(refused.value)


def test_a_handler_cannot_answer() -> None:
    """The model answers each turn by itself, so a handler that answers is refused."""

    async def voice(session: Any) -> None:
        await session.input()

    with pytest.raises(CapabilityMissing, match="floors"):
        Agent("shop", registry=registry()).session("voice", **DECLARED)(voice)
