"""Sessions at the fake of the Live API: what the conformance kit cannot know of this provider."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from agentfield.errors import CapabilityMissing, InvalidInput, NotFound, ProviderError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    BeginTurnCommand,
    CommitTurnCommand,
    EndCommand,
    SayCommand,
    ToolResultCommand,
)
from agentfield.realtime.config import (
    SemanticVad,
    ServerVad,
    SessionConfig,
    SessionDeclaration,
    ToolSpec,
    TurnDetection,
)
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionExpiring,
    SessionResumable,
    ToolCancelled,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
    TurnUnanswered,
    UsageReported,
)
from agentfield_gemini.adapter import GeminiAdapter, websocket
from agentfield_gemini.commands import INPUT
from agentfield_gemini.session import GeminiSession
from agentfield_gemini.testing.live_server import LiveServer
from agentfield_gemini.testing.peer import speech

KEY = "canary-of-gemini"
LOOK_UP = ToolSpec(target="shop.look_up", parameters={"type": "object", "properties": {"number": {"type": "string"}}})
VAD = ServerVad()
LONG = "and then it travels by van and by train and by ship until it arrives at the door of the house"
E_ = TypeVar("E_", bound=Event)


def config(
    *tools: ToolSpec, model: str = "gemini-3.8-live", detection: TurnDetection | None = VAD, **options: Any
) -> SessionConfig:
    declaration = SessionDeclaration(
        name="voice", provider="gemini", transport="websocket", floor="model", options=options, instructions="You help."
    )
    return SessionConfig(
        session_id="ses_1",
        target="shop.voice",
        declaration=declaration,
        model=model,
        voice=None,
        transcription=None,
        turn_detection=detection,
        tools=tools,
    )


class Recorded:
    """A session whose events are kept."""

    def __init__(self, server: LiveServer, session: GeminiSession) -> None:
        self.server = server
        self.session = session
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.session.events():
            self.events.append(event)
            self._changed.set()

    def of(self, kind: type[E_]) -> list[E_]:
        return [event for event in self.events if isinstance(event, kind)]

    async def event(self, kind: type[E_], count: int = 1, where: Callable[[E_], bool] = lambda _: True) -> E_:
        async with asyncio.timeout(15):
            while len(found := [event for event in self.of(kind) if where(event)]) < count:
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]

    async def hear(self, text: str, *, silence_ms: int = 900) -> None:
        """Let the caller say something."""
        self.server.announce(text)
        data, size = speech(text, INPUT, silence_ms=silence_ms), INPUT.size(100)
        for at in range(0, len(data), size):
            await self.session.send(AppendAudioCommand(data=data[at : at + size]))


@asynccontextmanager
async def adapter(server: LiveServer, key: str | None = KEY) -> AsyncIterator[GeminiAdapter]:
    runtime: Any = SimpleNamespace(
        base_url=server.url,
        key=None if key is None else SecretStr(key),
        logger=logging.getLogger("gemini"),
        data_dir=Path(),
        clock=lambda: 1000.0,
    )
    async with websocket(runtime) as entered:
        yield entered


@asynccontextmanager
async def opened_session(
    server: LiveServer, wanted: SessionConfig | None = None, handle: str | None = None
) -> AsyncIterator[Recorded]:
    async with adapter(server) as entered:
        wanted = wanted or config()
        opened = entered.open(wanted, INPUT) if handle is None else entered.resume(wanted, INPUT, handle)
        live = Recorded(server, await opened)
        yield live
        await live.session.close()
        await live.reader
        assert isinstance(live.events[-1], SessionClosed)


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    """Run the fake; no message to it may be invalid."""
    async with LiveServer(KEY) as running:
        yield running
    assert running.faults == []


@pytest.fixture(autouse=True)
def _key_stays_secret(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


@pytest.mark.parametrize("model", ["gemini-3.8-live", "gemini-3.1-flash-live-preview"])
async def test_a_conversation(server: LiveServer, model: str) -> None:
    """With and without voice activity: two turns are understood and answered, and their usage is reported."""
    async with opened_session(server, config(model=model)) as live:
        for number, text in enumerate(("where is my order", "thank you very much"), 1):
            await live.hear(text)
            committed = await live.event(TurnCommitted, number)
            ended = await live.event(ReplyEnded, number)
            assert (ended.status, ended.text) == ("completed", "I heard what you said, thank you.")
            transcript = await live.event(
                TurnTranscript, where=lambda each, item=committed.item: each.final and each.item == item
            )
            assert transcript.text == text
            assert (await live.event(UsageReported, number)).reply == ended.reply
        sound = sum(len(each.data) for each in live.of(ReplyAudio))
        assert AudioFormat("pcm16", 24_000) == live.session.output_format
        assert sum(each.audio_ms or 0 for each in live.of(ReplyEnded)) == live.session.output_format.ms(sound)
        assert len(live.of(TurnStarted)) == 2


async def test_the_caller_interrupts(server: LiveServer) -> None:
    """Speech over a reply interrupts it and is answered; a reply that was generated and not played is interrupted as well."""
    server.model.replies += [LONG, "Short."]
    async with opened_session(server) as live:
        await live.hear("where is my order")
        started = await live.event(ReplyStarted)
        await live.event(ReplyEnded)  # generated; the server assumes that it is played for some seconds more
        await live.hear("stop please")
        assert (await live.event(Interrupted)).reply == started.reply
        assert (await live.event(ReplyEnded, 2)).text == "Short."
        assert len(live.of(TurnCommitted)) == len(live.of(TurnStarted)) == 2


async def test_a_turn_that_is_not_answered(server: LiveServer) -> None:
    """The model may choose silence; the next turn is answered."""
    server.model.silences = 1
    async with opened_session(server) as live:
        await live.hear("one moment please")
        unanswered = await live.event(TurnUnanswered)
        assert unanswered.item == (await live.event(TurnCommitted)).item
        await live.hear("now I am back")
        assert (await live.event(ReplyEnded)).status == "completed"


async def test_tools_of_one_message(server: LiveServer) -> None:
    """Two calls of one message are answered by two results, and the model goes on by itself."""
    server.calls_at_once = 2
    server.model.calls += [("shop__look_up", {"number": "1"}), ("shop__look_up", {"number": "2"})]
    async with opened_session(server, config(LOOK_UP)) as live:
        await live.hear("where are my orders")
        await live.event(ToolRequested, 2)
        first, second = live.of(ToolRequested)
        assert first.reply == second.reply
        await live.session.send(ToolResultCommand(call_id=second.call_id, output='{"found": "walnut"}'))
        await live.session.send(ToolResultCommand(call_id=first.call_id, output="[1]"))
        ended = await live.event(ReplyEnded, 2)
        assert ended.text == "The result of the function is here."


async def test_a_call_is_taken_back(server: LiveServer) -> None:
    """The caller speaks while a tool runs: its call is taken back, and its result is not sent."""
    server.model.calls.append(("shop__look_up", {}))
    async with opened_session(server, config(LOOK_UP)) as live:
        await live.hear("where is my order")
        call = await live.event(ToolRequested)
        await live.hear("never mind")
        assert (await live.event(ToolCancelled)).call_id == call.call_id
        await live.session.send(ToolResultCommand(call_id=call.call_id, output="{}"))
        await live.event(ReplyEnded, 2)
        assert not [each for each in server.received if "toolResponse" in each]


async def test_push_to_talk(server: LiveServer) -> None:
    """The caller begins and ends the turn; the model answers at its end, and noise before is not heard."""
    async with opened_session(server, config(detection=None)) as live:
        await live.hear("noise")
        server.take_announced()
        await live.session.send(BeginTurnCommand())
        await live.hear("where is my order", silence_ms=0)
        await live.session.send(CommitTurnCommand())
        assert (await live.event(ReplyEnded)).status == "completed"
        (transcript,) = [each for each in live.of(TurnTranscript) if each.final]
        assert transcript.text == "where is my order"


async def test_a_conversation_is_resumed(server: LiveServer) -> None:
    """Another adapter continues a conversation by its handle; what the caller said before is not sent again."""
    async with opened_session(server) as live:
        await live.session.send(AddTextCommand(item="item_1", text="my word is walnut"))
        await live.session.send(SayCommand(id="say_1", text="Hello."))
        await live.event(SessionResumable, 2)
        handle = live.of(SessionResumable)[-1].handle
    assert handle is not None
    server.received.clear()
    async with opened_session(server, handle=handle) as live:
        await live.hear("what was my word")
        await live.event(ReplyEnded)
        await live.event(SessionResumable, 2)
        latest = live.of(SessionResumable)[-1].handle
    assert "walnut" in str(server.handles[latest or ""])
    assert not [each for each in server.received if "walnut" in each]


async def test_an_unknown_handle_is_not_found(server: LiveServer) -> None:
    """A conversation that the service does not know is `NotFound`, so that an empty session is opened."""
    async with adapter(server) as entered:
        with pytest.raises(NotFound):
            await entered.resume(config(), INPUT, "handle-unknown")


async def test_the_service_goes_away(server: LiveServer) -> None:
    """The service announces the end of a connection, and ends it: the session is expired and may be resumed."""
    async with opened_session(server) as live:
        await live.event(SessionResumable)
        await server.go_away(30)
        assert (await live.event(SessionExpiring)).expires_at == 1030.0
        await server.expire()
        closed = await live.event(SessionClosed)
        assert (closed.reason, closed.retry) == ("provider_expired", True)


@pytest.mark.parametrize(
    ("code", "reason", "kind", "hint"),
    [
        (1007, f"API key not valid: {KEY}. Please pass a valid API key.", ProviderError, "GEMINI_API_KEY"),
        (1008, "Method doesn't allow unregistered callers.", ProviderError, "GEMINI_API_KEY"),
        (1011, "You exceeded your current quota, please check your plan.", ProviderError, "quota"),
        (1008, "models/x is not found for API version v1beta", ProviderError, "model"),
        (1007, "Request contains an invalid argument.", ProviderError, "options"),
        (1011, "Internal error encountered.", ProviderUnavailable, ""),
    ],
)
async def test_refusals(server: LiveServer, code: int, reason: str, kind: type[ProviderError], hint: str) -> None:
    """The service refuses by close codes: each becomes an error that says what to do, and none shows the key."""
    server.refusals.append((code, reason))
    async with adapter(server) as entered:
        with pytest.raises(kind) as refused:
            await entered.open(config(), INPUT)
    assert type(refused.value) is kind
    assert hint in str(refused.value.hint)
    assert KEY not in f"{refused.value!r} {refused.value} {refused.value.hint}"


async def test_what_cannot_be_opened(server: LiveServer) -> None:
    """Other formats, semantic turn detection, unknown options and models and a missing key are refused by name."""
    async with adapter(server) as entered:
        with pytest.raises(CapabilityMissing, match="24000"):
            await entered.open(config(), AudioFormat("pcm16", 24_000))
        with pytest.raises(CapabilityMissing, match="semantic"):
            await entered.open(config(detection=SemanticVad()), INPUT)
        with pytest.raises(InvalidInput, match="heat"):
            await entered.open(config(heat=2), INPUT)
        with pytest.raises(ProviderError, match="gemini-9"):
            await entered.open(config(model="gemini-9"), INPUT)
    async with adapter(server, key=None) as entered:
        with pytest.raises(ProviderError, match="needs a key"):
            await entered.open(config(), INPUT)


async def test_a_lost_connection(server: LiveServer) -> None:
    """A lost connection ends the session; later commands are refused, and an end is not."""
    async with opened_session(server) as live:
        await live.event(SessionResumable)
        server.drop()
        closed = await live.event(SessionClosed)
        assert (closed.reason, closed.retry) == ("provider_error", True)
        with pytest.raises(ProviderUnavailable):
            await live.session.send(SayCommand(id="say_1", text="Hello."))
        await live.session.send(EndCommand())
