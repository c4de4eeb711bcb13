"""A third-party provider plugin in a real control plane: the caller presses keys, the handler answers in tones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import agentfield_tones.plugin
from agentfield import Agent, Limits
from agentfield.client import ControlPlaneClient
from agentfield.errors import CapabilityMissing
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from agentfield_tones.keys import KeyDetector, keys_of, sound_of, text_of
from agentfield_tones.service import ToneService
from support.server.bridged_calls import Caller
from support.waiting import until

KEY = "canary-of-the-tones"
DECLARED: dict[str, Any] = {
    "provider": "tones",
    "transport": "websocket",
    "modalities": ("audio",),
    "limits": Limits(duration=300),
}


def registry() -> Registry:
    return Registry.of([agentfield_tones.plugin])


@asynccontextmanager
async def calling(
    home: Path, handler: Any, service: ToneService, query: str = ""
) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Run a control plane and an agent with a handler, and call it at 8 kHz."""
    app = Agent("shop", registry=registry())
    app.session("sums", **DECLARED)(handler)
    environ = {"TONES_KEY": KEY, "TONES_URL": f"http://127.0.0.1:{service.port}"}
    settings = Settings(home=home, port=0)
    async with control_plane(settings, registry=registry(), environ=environ) as plane:
        app._url, app._api_key = plane.url, None
        async with app, ControlPlaneClient(plane.url) as client, aiohttp.ClientSession() as http:
            started = await client.start_session(StartRequest(target="shop.sums"))
            headers = {"Authorization": f"Bearer {started.token}"}
            socket = await http.ws_connect(f"{started.media_url}?format=pcm16&rate=8000{query}", headers=headers)
            caller = Caller(socket)
            await until(lambda: caller.of("ready"))
            yield caller, client, started
            await caller.leave()


async def key_in(caller: Caller, text: str, *, pace: float = 0.0) -> None:
    """Press keys, then send silence to end the turn; a pace of 0.1 is real time."""
    sound = b"".join(map(sound_of, keys_of(text))) + bytes(16 * 900)
    for at in range(0, len(sound), 1600):
        await caller.socket.send_bytes(sound[at : at + 1600])
        await asyncio.sleep(pace)  # paces the audio; waits for no event


def heard(caller: Caller) -> str:
    """Return the text of the tones that the caller heard."""
    return text_of(KeyDetector().feed(bytes(caller.audio)))


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Keep the node's key in the test's folder; check that no log line contains the provider's key."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


async def test_a_conversation_in_tones(tmp_path: Path) -> None:
    """Keys become a turn; `reply` and `say` are both heard as tones."""
    turns: list[Any] = []

    async def sums(session: Any) -> None:
        turn = await session.input()
        turns.append(turn.text)
        await session.reply() if turn.text.endswith("#") else await session.say(f"{turn.text}?")

    async with ToneService(KEY) as service, calling(tmp_path, sums, service) as (caller, client, started):
        await key_in(caller, "20*22#")
        await until(lambda: "make 42." in heard(caller))
        caller.audio.clear()
        await key_in(caller, "né")
        await until(lambda: "?" in heard(caller))
        assert heard(caller) == "né?"
        await until(lambda: len(turns) == 2)
        view = await client.get_session(started.session_id)
    assert turns == ["20*22#", "né"]
    assert (view.provider, view.transport, view.model) == ("tones", "websocket", "abacus-1")


async def test_a_caller_interrupts_tones(tmp_path: Path) -> None:
    """Keys during a spoken answer interrupt it, and the caller receives `clear`."""
    spoken: list[Any] = []

    async def sums(session: Any) -> None:
        turn = await session.input()
        text = "this is a long answer that nobody waits for to end " * 2
        spoken.append(await session.say(text if turn.text == "1" else "ok"))

    async with ToneService(KEY) as service, calling(tmp_path, sums, service) as (caller, _, _):
        await key_in(caller, "1")
        await until(lambda: len(caller.audio) > 16_000)
        await key_in(caller, "2")
        await until(lambda: keys_of("ok") in KeyDetector().feed(bytes(caller.audio)))
    assert spoken[0].interrupted
    assert caller.of("clear")


async def test_a_lost_connection_is_reopened(tmp_path: Path) -> None:
    """A lost provider connection is reopened, and the next request carries the history."""

    async def sums(session: Any) -> None:
        await session.input()
        await session.reply()

    async with ToneService(KEY) as service, calling(tmp_path, sums, service) as (caller, client, started):
        await key_in(caller, "7")
        await until(lambda: "I heard 7." in heard(caller))
        opened = sum('"open"' in each for each in service.received)
        service.drop()
        await until(lambda: sum('"open"' in each for each in service.received) > opened)
        caller.audio.clear()
        await key_in(caller, "8", pace=0.1)
        await until(lambda: "I heard 8." in heard(caller))
        last = [each for each in service.received if '"think"' in each][-1]
        assert '["user", "7"]' in last
        assert (await client.get_session(started.session_id)).state == "live"


@pytest.mark.parametrize(
    ("capability", "declared"),
    [
        ("floors", {"floor": "model"}),
        ("modalities", {"modalities": ("text",)}),
        ("tools", {"tools": ["shop.look_up"]}),
        ("turn_detection", {"turn_detection": None}),
        ("limits", {"limits": Limits(duration=300, cost=1.0)}),
        ("max_duration", {"limits": Limits(duration=601)}),
    ],
)
def test_undeclared_capabilities_are_refused(capability: str, declared: dict[str, Any]) -> None:
    """A missing capability is refused by name when the session is declared."""

    async def sums(session: Any) -> None:
        await session.input()

    with pytest.raises(CapabilityMissing) as refused:
        Agent("shop", registry=registry()).session("sums", **{**DECLARED, **declared})(sums)
    assert capability in str(refused.value)
