"""`local/websocket` and `local/audio_turns`: the production adapters at the local server, started, ended and started again."""

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
from agentfield.realtime.commands import AddText, AppendAudio, Command, CommitTurn, Reply, Say, SendToolResult
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
from agentfield_local.brain.protocol import Call
from agentfield_local.brain.protocol import Say as Speak
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import synthetic_engines
from agentfield_local.supervisor import STATE_FILE, Supervisor
from local_server_kit import tone, until
from openai_kit import Runtime, config, tool
from wer import word_error_rate

PCM = AudioFormat("pcm16", 24_000)
SPOKEN = "Good morning. Your parcel left the warehouse on Monday, and it will arrive before noon."
EventT = TypeVar("EventT", bound=Event)
Factory = Callable[[AdapterRuntime], AbstractAsyncContextManager[BridgedAdapter]]
PAIRS: dict[str, Factory] = {"websocket": adapters.websocket, "audio_turns": adapters.audio_turns}
pair = pytest.mark.parametrize("transport", sorted(PAIRS))


def settings(transport: str, **more: Any) -> SessionConfig:
    """A push-to-talk session of a local pair."""
    usual = {"provider": "local", "model": "local-realtime-1", "voice": "tone", "transcription": "moonshine-tiny-en"}
    return config(**{**usual, "transport": transport, "turn_detection": None, **more})


class Talk:
    """A session and all its events."""

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
        """Return the first event of a kind that fits, once it is there."""
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(10):
            await self._reading


@asynccontextmanager
async def talking(adapter: BridgedAdapter, wanted: SessionConfig) -> AsyncIterator[Talk]:
    """Open a session, and close it at the end."""
    talk = Talk(await adapter.open(wanted, PCM))
    try:
        yield talk
    finally:
        await talk.close()


@asynccontextmanager
async def synthetic(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[BridgedAdapter, Runtime]]:
    """The pair's own adapter, whose server processes have the engines without models."""
    starting = Supervisor.__init__

    def without_models(self: Supervisor, *args: Any, **more: Any) -> None:
        starting(self, *args, **{**more, "engines": "synthetic", "linger": 30})

    monkeypatch.setattr(Supervisor, "__init__", without_models)
    runtime = Runtime("", data_dir=tmp_path, started=[])
    async with PAIRS[transport](runtime) as adapter:
        yield adapter, runtime


def speech(ms: int = 400) -> Sequence[Command]:
    """What a caller's turn of push to talk is made of."""
    return [*(AppendAudio(data=tone(100, 24_000)) for _ in range(ms // 100)), CommitTurn()]


@pair
async def test_a_conversation_with_a_tool_at_a_declared_server(transport: str, tmp_path: Path) -> None:
    """A spoken turn, its words, a call, its result, a spoken reply and a say, in the format of the session."""
    brain = ScriptedBrain([[Call("shop__cancel", '{"order_id": "7"}')], [Speak("It is done.")]])
    async with LocalServer(synthetic_engines(["cancel order seven"]), brain, key="the-key") as server:
        runtime = Runtime(server.url, SecretStr("the-key"), data_dir=tmp_path, started=[])
        wanted = settings(transport, floor="model", tools=[tool("shop.cancel")])
        async with PAIRS[transport](runtime) as adapter, talking(adapter, wanted) as talk:
            await talk.wait(SessionReady)
            await talk.send(*speech())
            committed = await talk.wait(TurnCommitted)
            words = await talk.wait(TurnTranscript, lambda event: event.final)
            assert (words.item, words.text) == (committed.item, "cancel order seven")
            await talk.send(Reply(id="spk_0"))  # a commit by itself is answered by nobody
            asked = await talk.wait(ToolRequested)
            assert (asked.name, json.loads(asked.arguments)) == ("shop.cancel", {"order_id": "7"})
            await talk.wait(ReplyEnded, lambda event: event.reply == asked.reply)
            await talk.send(SendToolResult(call_id=asked.call_id, output='{"status":"ok"}'), Reply(id="spk_1"))
            ended = await talk.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.text, ended.status, ended.audio) == ("It is done.", "completed", True)
            assert len(talk.audio(ended.reply)) > PCM.size(300)
            await talk.send(Say(id="spk_2", text="Goodbye & thank <you>."))
            said = await talk.wait(ReplyEnded, lambda event: event.command == "spk_2")
            assert (said.text, said.status) == ("Goodbye & thank <you>.", "completed")
            assert not [event for event in talk.events if isinstance(event, ProviderFault)]
        assert runtime.started == []
        assert isinstance(talk.events[-1], SessionClosed)


@pair
async def test_a_server_that_has_ended_is_started_again_for_the_next_session(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first use starts it, an end between two sessions is not noticed by the second."""
    async with synthetic(transport, tmp_path, monkeypatch) as (adapter, runtime):
        assert PCM in adapter.formats
        for count in (1, 2):
            async with talking(adapter, settings(transport)) as talk:
                await talk.send(Say(id="spk_1", text="Hello."))
                assert (await talk.wait(ReplyEnded)).text == "Hello."
            assert len(runtime.started or ()) == count
            await _end(tmp_path)


async def test_turns_go_on_when_the_server_has_ended_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of audio turns needs no server between turns; the next turn starts one, at another address."""
    async with synthetic("audio_turns", tmp_path, monkeypatch) as (adapter, runtime):
        async with talking(adapter, settings("audio_turns")) as talk:
            await talk.send(AddText(item="old_1", text="hello"), *speech())
            await talk.wait(TurnTranscript)
            await _end(tmp_path)
            await talk.send(Reply(id="spk_1"))
            ended = await talk.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.status, ended.text) == ("completed", "You said: hello.")
        assert len(runtime.started or ()) == 2


async def _end(folder: Path) -> None:
    os.kill(json.loads((folder / STATE_FILE).read_text())["pid"], signal.SIGTERM)
    await until(lambda: not (folder / STATE_FILE).exists())


@pair
async def test_an_address_that_cannot_be_used_is_refused(transport: str, tmp_path: Path) -> None:
    """The error names the setting."""
    with pytest.raises(InvalidInput, match="AGENTFIELD_LOCAL_URL"):
        async with PAIRS[transport](Runtime("http://example.com", data_dir=tmp_path)):
            pass


@pytest.mark.parametrize("name", sorted(name for name, each in CHAT_BEHAVIOURS.items() if each.harmless))
async def test_audio_turns_are_the_same_in_every_harmless_position(name: str, tmp_path: Path) -> None:
    """Whatever a service may do one way or another: a turn, a call, a spoken answer with the same words."""
    brain = ScriptedBrain([[Speak("Ünderstood."), Call("shop__cancel", '{"order_id": "7"}')], [Speak("It is döne.")]])
    async with LocalServer(synthetic_engines(["cancel order seven"]), brain) as server:
        server.chat.behaviour = CHAT_BEHAVIOURS[name]
        wanted = settings("audio_turns", floor="model", tools=[tool("shop.cancel")])
        async with (
            adapters.audio_turns(Runtime(server.base_url, data_dir=tmp_path)) as adapter,
            talking(adapter, wanted) as talk,
        ):
            await talk.send(*speech(), Reply(id="spk_0"))
            asked = await talk.wait(ToolRequested)
            await talk.wait(ReplyEnded, lambda event: event.reply == asked.reply)
            await talk.send(SendToolResult(call_id=asked.call_id, output="done"), Reply(id="spk_1"))
            ended = await talk.wait(ReplyEnded, lambda event: event.command == "spk_1")
            assert (ended.text, ended.status) == ("It is döne.", "completed")
            assert len(talk.audio(ended.reply)) % 2 == 0
            assert not [event for event in talk.events if isinstance(event, ProviderFault)]


@pytest.mark.speech
async def test_both_pairs_share_one_process_and_understand_each_other(tmp_path: Path) -> None:
    """What one pair says exactly, with the real voice, the other one hears with few errors."""
    runtime = Runtime("", data_dir=tmp_path, started=[])
    async with adapters.websocket(runtime) as sockets, adapters.audio_turns(runtime) as turns:
        assert len(runtime.started or ()) == 1
        async with talking(sockets, settings("websocket", voice="joe", say="exact")) as talk:
            await talk.send(Say(id="spk_1", text=SPOKEN))
            audio = talk.audio((await talk.wait(ReplyEnded)).reply)
        async with talking(turns, settings("audio_turns", voice="joe")) as talk:
            await talk.send(AppendAudio(data=audio), CommitTurn())
            heard = await talk.wait(TurnTranscript, lambda event: event.final)
        assert word_error_rate([(SPOKEN, heard.text)]) <= 0.2
