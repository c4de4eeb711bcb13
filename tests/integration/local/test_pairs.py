"""`local/websocket` and `local/audio_turns`: production adapters with a configured, started or restarted server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from agentfield.errors import InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    Command,
    CommitTurnCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
)
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    SessionClosed,
    SessionReady,
    ToolRequested,
    TurnCommitted,
    TurnTranscript,
)
from agentfield.realtime.provider import AdapterRuntime, BridgedAdapter, ProviderSession
from agentfield_local import adapters
from agentfield_local.brain import ScriptedBrain
from agentfield_local.brain.protocol import CallFunction, Speak
from agentfield_local.chat.behaviour import CHAT_VARIANTS
from agentfield_local.process.supervisor import STATE_FILE, Supervisor
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import tone
from support.providers.openai import Runtime, config, tool
from support.waiting import until
from support.word_error_rate import word_error_rate

PCM = AudioFormat("pcm16", 24_000)
SPOKEN = "Good morning. Your parcel left the warehouse on Monday, and it will arrive before noon."
EventT = TypeVar("EventT", bound=Event)
Factory = Callable[[AdapterRuntime], AbstractAsyncContextManager[BridgedAdapter]]
PAIRS: dict[str, Factory] = {"websocket": adapters.websocket, "audio_turns": adapters.audio_turns}
pair = pytest.mark.parametrize("transport", sorted(PAIRS))


def settings(transport: str, **more: Any) -> SessionConfig:
    """Return the configuration of a push-to-driver session of a local pair."""
    usual = {"provider": "local", "model": "local-realtime-1", "voice": "tone", "transcription": "moonshine-tiny-en"}
    return config(**{**usual, "transport": transport, "turn_detection": None, **more})


class SessionDriver:
    """Drives a session and records its events."""

    def __init__(self, session: ProviderSession) -> None:
        self.session = session
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.session.events():
            self.events.append(event)
            self._news.set()

    async def wait(self, kind: type[EventT], fits: Callable[[EventT], bool] = lambda _: True) -> EventT:
        """Return the first matching event of a kind, once it has arrived."""
        async with asyncio.timeout(60):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and fits(event):
                        return event
                assert not self._reading.done(), self.events
                self._news.clear()
                await self._news.wait()

    async def send(self, *commands: Command) -> None:
        for command in commands:
            await self.session.send(command)

    def audio(self, reply: str) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, ReplyAudio) and event.reply == reply)

    async def close(self) -> None:
        await self.session.close()
        async with asyncio.timeout(60):
            await self._reading


@asynccontextmanager
async def talking(adapter: BridgedAdapter, config: SessionConfig) -> AsyncIterator[SessionDriver]:
    """Open a session, and close it at the end."""
    driver = SessionDriver(await adapter.open(config, PCM))
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def synthetic(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[BridgedAdapter, Runtime]]:
    """Yield the adapter of a pair whose server processes have synthetic engines."""
    original = Supervisor.__init__

    def without_models(self: Supervisor, *args: Any, **more: Any) -> None:
        original(self, *args, **{**more, "engines": "synthetic", "linger": 30})

    monkeypatch.setattr(Supervisor, "__init__", without_models)
    runtime = Runtime("", data_dir=tmp_path, started=[])
    async with PAIRS[transport](runtime) as adapter:
        yield adapter, runtime


def speech(ms: int = 400) -> Sequence[Command]:
    """Return the commands of a push-to-driver turn."""
    return [*(AppendAudioCommand(data=tone(100, 24_000)) for _ in range(ms // 100)), CommitTurnCommand()]


@pair
async def test_a_conversation_with_a_tool_at_a_configured_server(transport: str, tmp_path: Path) -> None:
    """A spoken turn, its transcript, a call, its result, a spoken reply and a say work in the session's format."""
    brain = ScriptedBrain([[CallFunction("shop__cancel", '{"order_id": "7"}')], [Speak("It is done.")]])
    async with LocalServer(synthetic_engines(["cancel order seven"]), brain, key="the-key") as server:
        runtime = Runtime(server.url, SecretStr("the-key"), data_dir=tmp_path, started=[])
        wanted = settings(transport, floor="model", tools=[tool("shop.cancel")])
        async with PAIRS[transport](runtime) as adapter, talking(adapter, wanted) as driver:
            await driver.wait(SessionReady)
            await driver.send(*speech())
            committed = await driver.wait(TurnCommitted)
            words = await driver.wait(TurnTranscript, lambda event: event.final)
            assert (words.item, words.text) == (committed.item, "cancel order seven")
            await driver.send(ReplyCommand(id="spk_0"))  # a commit alone starts no reply
            asked = await driver.wait(ToolRequested)
            assert (asked.name, json.loads(asked.arguments)) == ("shop.cancel", {"order_id": "7"})
            await driver.wait(ReplyEnded, lambda event: event.reply == asked.reply)
            await driver.send(
                ToolResultCommand(call_id=asked.call_id, output='{"status":"ok"}'), ReplyCommand(id="spk_1")
            )
            ended = await driver.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.text, ended.status, ended.audio) == ("It is done.", "completed", True)
            assert len(driver.audio(ended.reply)) > PCM.size(300)
            await driver.send(SayCommand(id="spk_2", text="Goodbye & thank <you>."))
            said = await driver.wait(ReplyEnded, lambda event: event.command == "spk_2")
            assert (said.text, said.status) == ("Goodbye & thank <you>.", "completed")
            assert not [event for event in driver.events if isinstance(event, ProviderFault)]
        assert runtime.started == []
        assert isinstance(driver.events[-1], SessionClosed)


@pair
async def test_a_server_that_has_ended_is_started_again_for_the_next_session(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first use starts the server; a session after its end starts it again."""
    async with synthetic(transport, tmp_path, monkeypatch) as (adapter, runtime):
        assert PCM in adapter.formats
        for count in (1, 2):
            async with talking(adapter, settings(transport)) as driver:
                await driver.send(SayCommand(id="spk_1", text="Hello."))
                assert (await driver.wait(ReplyEnded)).text == "Hello."
            assert len(runtime.started or ()) == count
            await _end(tmp_path)


async def test_turns_continue_when_the_server_has_ended_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of audio turns needs no server between turns; the next turn starts one at another address."""
    async with synthetic("audio_turns", tmp_path, monkeypatch) as (adapter, runtime):
        async with talking(adapter, settings("audio_turns")) as driver:
            await driver.send(AddTextCommand(item="old_1", text="hello"), *speech())
            await driver.wait(TurnTranscript)
            await _end(tmp_path)
            await driver.send(ReplyCommand(id="spk_1"))
            ended = await driver.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.status, ended.text) == ("completed", "You said: hello.")
        assert len(runtime.started or ()) == 2


async def _end(folder: Path) -> None:
    os.kill(json.loads((folder / STATE_FILE).read_text())["pid"], signal.SIGTERM)
    await until(lambda: not (folder / STATE_FILE).exists())


@pair
async def test_an_invalid_address_is_refused(transport: str, tmp_path: Path) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidInput, match="AGENTFIELD_LOCAL_URL"):
        async with PAIRS[transport](Runtime("http://example.com", data_dir=tmp_path)):
            pass


@pytest.mark.parametrize("name", sorted(name for name, each in CHAT_VARIANTS.items() if each.harmless))
async def test_audio_turns_work_with_every_harmless_variant(name: str, tmp_path: Path) -> None:
    """A turn, a call and a spoken answer have the same words in every harmless variant."""
    brain = ScriptedBrain(
        [[Speak("Ünderstood."), CallFunction("shop__cancel", '{"order_id": "7"}')], [Speak("It is döne.")]]
    )
    async with LocalServer(synthetic_engines(["cancel order seven"]), brain) as server:
        server.chat.behaviour = CHAT_VARIANTS[name]
        wanted = settings("audio_turns", floor="model", tools=[tool("shop.cancel")])
        async with (
            adapters.audio_turns(Runtime(server.base_url, data_dir=tmp_path)) as adapter,
            talking(adapter, wanted) as driver,
        ):
            await driver.send(*speech(), ReplyCommand(id="spk_0"))
            asked = await driver.wait(ToolRequested)
            await driver.wait(ReplyEnded, lambda event: event.reply == asked.reply)
            await driver.send(ToolResultCommand(call_id=asked.call_id, output="done"), ReplyCommand(id="spk_1"))
            ended = await driver.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.text, ended.status) == ("It is döne.", "completed")
            assert len(driver.audio(ended.reply)) % 2 == 0
            assert not [event for event in driver.events if isinstance(event, ProviderFault)]


@pytest.mark.speech
@pytest.mark.realtime
async def test_both_pairs_share_one_server_process(tmp_path: Path) -> None:
    """Exact speech of one pair, with the real voice, is transcribed by the other with few errors."""
    runtime = Runtime("", data_dir=tmp_path, started=[])
    async with adapters.websocket(runtime) as sockets, adapters.audio_turns(runtime) as turns:
        assert len(runtime.started or ()) == 1
        async with talking(sockets, settings("websocket", voice="joe", say="exact")) as driver:
            await driver.send(SayCommand(id="spk_1", text=SPOKEN))
            audio = driver.audio((await driver.wait(ReplyEnded)).reply)
        async with talking(turns, settings("audio_turns", voice="joe")) as driver:
            await driver.send(AppendAudioCommand(data=audio), CommitTurnCommand())
            heard = await driver.wait(TurnTranscript, lambda event: event.final)
        assert word_error_rate([(SPOKEN, heard.text)]) <= 0.2
