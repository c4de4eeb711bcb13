"""The `openai/websocket` adapter against a server of the protocol: audio, barge-in, exact say and faults."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from agentfield.errors import CapabilityMissing, InvalidInput, ProviderError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
)
from agentfield_local.brain import ObedientBrain, ScriptedBrain
from agentfield_local.brain.protocol import Brain, CallFunction, Speak
from agentfield_local.faults.behaviour import Behaviour, DisconnectFaults, RefusalShape
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS, HARMLESS_VARIANTS
from agentfield_local.realtime.conversation.items import Item
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_openai.websocket_adapter import FORMATS, WebSocketAdapter, websocket
from support.audio import silence, tone
from support.providers.local_server import FakeClock
from support.providers.openai import CANARY, PCM, Runtime, Seen, config, tool
from support.waiting import until

LONG = "one two three four five six seven eight nine ten " * 6
SLOW = Behaviour(generation_speed=2.0)


@asynccontextmanager
async def serving(brain: Brain | None = None, **options: Any) -> AsyncIterator[tuple[LocalServer, WebSocketAdapter]]:
    async with (
        LocalServer(synthetic_engines(), brain or ObedientBrain(), key=CANARY, **options) as server,
        websocket(Runtime(server.base_url, SecretStr(CANARY))) as adapter,
    ):
        yield server, adapter


@asynccontextmanager
async def talking(
    adapter: WebSocketAdapter, settings: SessionConfig | None = None, audio: AudioFormat = PCM
) -> AsyncIterator[Seen]:
    session = await adapter.open(settings or config(), audio)
    seen = Seen(session)
    try:
        yield seen
    finally:
        await session.close()
        async with asyncio.timeout(60):
            await seen.task
    assert isinstance(seen.events[-1], SessionClosed)


def items(server: LocalServer) -> list[Item]:
    """Return the conversation as the provider holds it."""
    (live,) = server.sessions
    return list(live.conversation._items)


def heard(seen: Seen, reply: str) -> int:
    """Return the received bytes of audio of a reply."""
    return sum(len(event.data) for event in seen.events if isinstance(event, ReplyAudio) and event.reply == reply)


def spoken(audio: AudioFormat) -> bytes:
    """Return speech and silence in a format: a tone, then silence."""
    if audio.codec == "pcm16":
        return tone(600, audio.rate) + silence(900, audio.rate)
    loud, quiet = (b"\x90\x10", b"\xff\xff") if audio.codec == "pcmu" else (b"\xa5\x25", b"\xd5\xd5")
    return loud * (audio.size(600) // 2) + quiet * (audio.size(900) // 2)


async def say_aloud(seen: Seen, audio: AudioFormat = PCM) -> None:
    data = spoken(audio)
    step = audio.size(100)
    for start in range(0, len(data), step):
        await seen.send(AppendAudioCommand(data=data[start : start + step]))


@pytest.mark.parametrize("audio", FORMATS, ids=lambda audio: audio.name)
async def test_a_spoken_turn_is_answered_with_audio_in_the_format_of_the_session(audio: AudioFormat) -> None:
    """Appended audio becomes a turn with a transcript; the reply has the same format, and its length is reported."""
    async with serving() as (server, adapter), talking(adapter, audio=audio) as seen:
        ready = await seen.wait(SessionReady)
        assert (ready.model, ready.voice) == ("gpt-realtime-2", "marin")
        assert (await seen.wait(SessionUpdated)).drift == ()
        assert server.sessions
        await say_aloud(seen, audio)
        started, committed = await seen.wait(TurnStarted), await seen.wait(TurnCommitted)
        words = await seen.wait(TurnTranscript, lambda e: e.final)
        assert started.item == committed.item == words.item
        await seen.send(ReplyCommand(id="spk_1"))
        ended = await seen.wait(ReplyEnded)
        assert (ended.command, ended.status, ended.audio) == ("spk_1", "completed", True)
        assert ended.audio_ms == int(audio.ms(heard(seen, ended.reply)))
        assert ended.audio_ms > 0


@pytest.mark.parametrize("position", sorted(HARMLESS_VARIANTS))
async def test_a_conversation_is_the_same_with_every_harmless_variant(position: str) -> None:
    """With every permitted behaviour variant of the provider, a turn, a tool call and two replies are reported once each."""
    brain = ScriptedBrain([[CallFunction("shop__cancel", '{"order_id": "7"}')], [Speak("It is done.")]])
    settings = config(floor="model", tools=[tool("shop.cancel")])
    async with (
        serving(brain, behaviour=BEHAVIOUR_VARIANTS[position]) as (_, adapter),
        talking(adapter, settings) as seen,
    ):
        await say_aloud(seen)
        asked = await seen.wait(ToolRequested)
        await seen.wait(ReplyEnded, lambda e: e.reply == asked.reply)
        await seen.send(ToolResultCommand(call_id=asked.call_id, output='{"status":"ok"}'), ReplyCommand(id="spk_1"))
        ended = await seen.wait(ReplyEnded, lambda e: e.command == "spk_1")
        assert (ended.text, ended.status) == ("It is done.", "completed")
        assert ended.audio_ms == int(PCM.ms(heard(seen, ended.reply)))
        await seen.wait(TurnTranscript, lambda e: e.final)
        told = [type(event) for event in seen.events]
        for once in (SessionReady, TurnStarted, TurnCommitted, ToolRequested):
            assert told.count(once) == 1
        assert told.count(ReplyStarted) == told.count(ReplyEnded) == 2
        assert not [e for e in seen.events if isinstance(e, ProviderFault)]


async def test_push_to_talk_commits_the_appended_audio() -> None:
    """Without turn detection the audio is a turn once committed; a commit without audio is a warning."""
    async with serving() as (_, adapter), talking(adapter, config(turn_detection=None)) as seen:
        await seen.send(CommitTurnCommand())
        await say_aloud(seen)
        await seen.send(CommitTurnCommand())
        committed = await seen.wait(TurnCommitted)
        assert (await seen.wait(TurnTranscript, lambda e: e.final)).item == committed.item


@pytest.mark.parametrize("interrupt", [True, False])
async def test_an_interrupted_reply_is_truncated(interrupt: bool) -> None:
    """Barge-in, with or without the provider's own interruption: one end, no fault, and the item is truncated."""
    settings = config(interrupt_after_ms=0 if interrupt else 300)
    async with serving(behaviour=SLOW) as (server, adapter), talking(adapter, settings) as seen:
        await seen.send(SayCommand(id="spk_1", text=LONG))
        started = await seen.wait(ReplyStarted)
        await until(lambda: heard(seen, started.reply) > PCM.size(500))
        await say_aloud(seen)
        await seen.wait(TurnStarted)
        await seen.send(CancelReplyCommand(reply=started.reply, heard_ms=400))
        ended = await seen.wait(ReplyEnded)
        assert (ended.status, ended.audio) == ("cancelled", True)
        received = heard(seen, started.reply)
        await seen.wait(TurnTranscript, lambda e: e.final)
        assert heard(seen, started.reply) == received
        await until(lambda: [item.audio_ms for item in items(server) if item.is_spoken] == [400])
        assert not [e for e in seen.events if isinstance(e, ProviderFault)]


async def test_typed_text_and_history_are_items_in_their_order() -> None:
    """Earlier conversation is restored as text, and a typed turn follows it under its id."""
    async with serving() as (_, adapter), talking(adapter) as seen:
        await seen.send(
            AddTextCommand(item="old_1", text="Where is order 7?"),
            AddTextCommand(item="old_2", text="On its way.", role="assistant"),
            AddTextCommand(item="evt_" + "0" * 32, text="And order 8?"),
        )
        committed = await seen.wait(TurnCommitted, lambda e: e.text == "And order 8?")
        assert (committed.item, committed.previous) == ("evt_" + "0" * 32, "old_2")


async def test_a_concurrent_reply_is_refused() -> None:
    """The one-reply rule names our command; interruption can be switched meanwhile without drift."""
    async with serving(behaviour=SLOW) as (_, adapter), talking(adapter) as seen:
        await seen.send(
            SayCommand(id="spk_1", text=LONG), SayCommand(id="spk_2", text="Hi."), UpdateCommand(interruptible=False)
        )
        fault = await seen.wait(ProviderFault)
        assert (fault.command, fault.retry, fault.fatal) == ("spk_2", True, False)
        await until(lambda: len([e for e in seen.events if isinstance(e, SessionUpdated)]) == 2)
        assert {e.drift for e in seen.events if isinstance(e, SessionUpdated)} == {()}


# exact speech ---------------------------------------------------------------------------------------------------------

EXACT = config(say="exact")


def history(server: LocalServer) -> list[str]:
    """Return the assistant texts of the provider's conversation."""
    parts = [part for item in items(server) if item.role == "assistant" for part in item.content]
    return [part["text"] for part in parts if part["type"] == "output_text"]


async def test_an_exact_say_is_spoken_word_for_word_and_becomes_history() -> None:
    """The audio comes from the speech endpoint, the text enters the conversation, and the model is not used."""
    text = "Your order <A&B> costs $7.20."
    async with serving() as (server, adapter), talking(adapter, EXACT) as seen:
        await seen.send(SayCommand(id="spk_1", text=text))
        ended = await seen.wait(ReplyEnded)
        assert (ended.command, ended.status, ended.text, ended.usage) == ("spk_1", "completed", text, None)
        assert ended.audio_ms == int(PCM.ms(heard(seen, ended.reply)))
        assert ended.audio_ms > 0
        assert [e.text for e in seen.events if isinstance(e, ReplyTranscript) and e.final] == [text]
        await until(lambda: history(server) == [text])
        await seen.send(ReplyCommand(id="spk_2"))
        assert (await seen.wait(ReplyEnded, lambda e: e.command == "spk_2")).status == "completed"


@pytest.mark.parametrize(("heard_ms", "kept"), [(0, []), (1000, ["one two three four"]), (None, None)])
async def test_an_exact_say_truncated_after_generation_is_replaced(
    heard_ms: int | None, kept: list[str] | None
) -> None:
    """The history holds the heard words, in proportion to the audio; a fully heard text is unchanged."""
    text = "one two three four five six seven eight"
    async with serving() as (server, adapter), talking(adapter, EXACT) as seen:
        await seen.send(SayCommand(id="spk_1", text=text))
        ended = await seen.wait(ReplyEnded)
        await until(lambda: history(server) == [text])
        await seen.send(
            CancelReplyCommand(reply=ended.reply, heard_ms=ended.audio_ms if heard_ms is None else heard_ms)
        )
        await until(lambda: history(server) == ([text] if kept is None else kept))
        assert len([e for e in seen.events if isinstance(e, ReplyEnded)]) == 1


async def test_failed_and_refused_exact_says_name_their_command() -> None:
    """A broken stream ends the reply as failed; a refusal before any audio names the command and whether to retry."""
    text = "First clause, second clause, third clause."
    async with (
        serving(behaviour=Behaviour(disconnects=DisconnectFaults(speech=True))) as (server, adapter),
        talking(adapter, EXACT) as seen,
    ):
        await seen.send(SayCommand(id="spk_1", text=text))
        ended = await seen.wait(ReplyEnded)
        assert (ended.command, ended.status, ended.why) == ("spk_1", "failed", "unreachable")
        server.behaviour = Behaviour(refuse_calls=500, refuse=RefusalShape(at=frozenset({"speech"})))
        await seen.send(SayCommand(id="spk_2", text=text))
        first = await seen.wait(ProviderFault, lambda e: e.command == "spk_2")
        server.behaviour = Behaviour(refuse_calls=401, refuse=RefusalShape(at=frozenset({"speech"})))
        await seen.send(SayCommand(id="spk_3", text=text))
        second = await seen.wait(ProviderFault, lambda e: e.command == "spk_3")
        assert (first.retry, second.retry) == (True, False)
        assert CANARY not in f"{first!r}{second!r}"
        server.behaviour = Behaviour()
        await seen.send(SayCommand(id="spk_9", text="Hello."))
        assert (await seen.wait(ReplyEnded, lambda e: e.command == "spk_9")).text == "Hello."


async def test_an_exact_say_needs_pcm_and_a_voice() -> None:
    """The speech endpoint supports pcm only: other formats are refused before anything is opened."""
    async with serving() as (server, adapter):
        with pytest.raises(CapabilityMissing, match="pcm16/24000"):
            await adapter.open(EXACT, FORMATS[1])
        with pytest.raises(InvalidInput) as caught:
            await adapter.open(config(say="exact", voice=None), PCM)
        assert caught.value.data["field"] == "voice"
        with pytest.raises(CapabilityMissing, match="pcmu/8000"):
            await adapter.open(config(), AudioFormat("pcm16", 16_000))
        assert not [record for record in server.requests if "realtime" in record.path]


# faults ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ProviderError),
        (403, ProviderError),
        (404, ProviderError),
        (429, ProviderError),
        (500, ProviderUnavailable),
    ],
)
async def test_refusals_before_the_upgrade_are_typed_and_never_show_the_key(
    status: Any, kind: type[ProviderError], caplog: pytest.LogCaptureFixture
) -> None:
    """Each HTTP refusal is an immediate error with the provider's code; no error and no log shows the key."""
    caplog.set_level(logging.DEBUG)
    async with serving(behaviour=Behaviour(refuse_calls=status)) as (server, adapter):
        with pytest.raises(ProviderError) as caught:
            await adapter.open(config(), PCM)
        assert len([record for record in server.requests if record.path.endswith("/realtime")]) == 1
    error = caught.value
    assert type(error) is kind
    assert error.data["provider_status"] == status
    assert error.data["provider_code"]
    assert CANARY not in f"{error}{error!r}{error.to_problem()}{caplog.text}"


async def test_refused_settings_are_a_typed_error() -> None:
    """An unknown voice refuses the session with the provider's code."""
    async with serving() as (server, adapter):
        with pytest.raises(ProviderError) as caught:
            await adapter.open(config(voice="nobody"), PCM)
        assert caught.value.data["provider_code"] == "invalid_value"
        await until(lambda: not server.sessions)


@pytest.mark.parametrize(("code", "retry"), [(1001, True), (1006, True), (1011, True), (1012, True), (1008, False)])
@pytest.mark.parametrize("exact", [False, True])
async def test_a_broken_socket_ends_its_session(code: int, retry: bool, exact: bool) -> None:
    """The end tells whether another session may take over; later commands fail at once."""
    behaviour = Behaviour(disconnects=DisconnectFaults(drop_after=8, drop_code=code))
    async with serving(behaviour=behaviour) as (_, adapter):
        async with talking(adapter, config(say="exact" if exact else None)) as seen:
            await seen.send(ReplyCommand(id="spk_1"))
            closed = await seen.wait(SessionClosed)
            assert (closed.reason, closed.retry) == ("provider_error", retry)
            await seen.task
            with pytest.raises(ProviderUnavailable):
                await seen.send(ReplyCommand(id="spk_2"))
        async with talking(adapter) as again:
            await again.send(ReplyCommand(id="spk_3"))
            assert (await again.wait(ReplyEnded)).status == "completed"


async def test_an_expired_session_is_reported_as_expired() -> None:
    """The provider's session limit has an end reason of its own."""
    clock = FakeClock()
    async with serving(clock=clock) as (_, adapter), talking(adapter) as seen:
        assert (await seen.wait(SessionReady)).expires_at == clock.now() + 3600
        clock.advance(3601)
        assert (await seen.wait(SessionClosed)).reason == "provider_expired"


@pytest.mark.parametrize("position", ["quota_runs_out", "quota_runs_out_new_code"])
async def test_an_account_without_credit_is_fatal(position: str) -> None:
    """Such an error is fatal in `code` or in `type`."""
    async with serving(behaviour=BEHAVIOUR_VARIANTS[position]) as (_, adapter), talking(adapter) as seen:
        await seen.send(ReplyCommand(id="spk_1"))
        assert (await seen.wait(ProviderFault, lambda e: e.fatal)).retry is False


async def test_ending_and_closing_leave_nothing_behind() -> None:
    """End closes the session at the provider; closing twice, or during speech, is allowed."""
    async with serving() as (server, adapter):
        before = asyncio.all_tasks()
        async with talking(adapter, EXACT) as seen:
            await seen.send(SayCommand(id="spk_1", text=LONG), EndCommand())
            async with asyncio.timeout(60):
                await seen.task
            await seen.session.close()
        await until(lambda: not server.sessions)
        await until(lambda: not [task for task in asyncio.all_tasks() - before if "exact" in repr(task)])


async def test_the_key_and_the_callers_hash_are_headers(caplog: pytest.LogCaptureFixture) -> None:
    """The upgrade carries the key and the caller's hash in headers and no beta header; no log holds the key."""
    caplog.set_level(logging.DEBUG)
    async with serving() as (server, adapter), talking(adapter) as seen:
        await seen.wait(SessionReady)
        (record,) = [each for each in server.requests if each.path.endswith("/realtime")]
        headers = {name.lower(): value for name, value in record.headers.items()}
        assert headers["openai-safety-identifier"] == "hash-of-the-caller"
        assert "openai-beta" not in headers
    assert CANARY not in caplog.text
