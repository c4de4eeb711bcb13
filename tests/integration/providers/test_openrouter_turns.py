"""Audio turns against a provider that plays a script over HTTP: complete conversations and every fault."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI
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
from agentfield.realtime.events import (
    ProviderFault,
    RateLimit,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    ToolRequested,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    UsageReported,
    Warned,
)
from agentfield_openrouter.adapter import FORMAT, audio_turns
from agentfield_openrouter.http_client import Timeouts
from support.providers.openai import Runtime
from support.providers.openrouter import (
    CANARY,
    DONE,
    FLAGGED,
    TIMEOUTS,
    Peer,
    Scene,
    SessionDriver,
    chunk,
    config,
    error,
    opened,
    pcm,
    peer,
    spoken,
    tool_chunk,
)
from support.waiting import until

TURN = (AppendAudioCommand(data=pcm(300)), AppendAudioCommand(data=pcm(300, 9)), CommitTurnCommand(item="item_1"))


@pytest.fixture(autouse=True)
async def nothing_leaks(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Check that no log holds the key or the caller's words."""
    caplog.set_level(logging.DEBUG)
    yield
    assert CANARY not in caplog.text
    assert FLAGGED not in caplog.text
    assert "What time is it" not in caplog.text


def kinds(talk: SessionDriver) -> list[str]:
    """Return the kinds of events in order, consecutive repetitions once."""
    found = [event.type for event in talk.events]
    return [kind for at, kind in enumerate(found) if at == 0 or found[at - 1] != kind]


async def test_a_turn_is_transcribed_and_answered_when_asked() -> None:
    """A handler's turn: the transcript, then a reply with text, audio, usage and cost; routing is pinned."""
    async with peer() as provider, opened(provider) as talk:
        await talk.send(*TURN)
        heard = await talk.until(TurnTranscript)
        assert (heard.text, heard.item, heard.final) == ("What time is it?", "item_1", True)
        assert provider.asked == []
        await talk.send(ReplyCommand(id="spk_1", instructions="Be kind."))
        ended = await talk.until(ReplyEnded)
        assert (ended.command, ended.status, ended.text, ended.tools) == ("spk_1", "completed", "Hello there.", 0)
        assert (ended.audio, ended.audio_ms) == (True, 200)
        assert (ended.usage.cost, ended.usage.input_audio_tokens, ended.usage.input_text_tokens) == (0.0123, 100, 20)
        assert b"".join(event.data for event in talk.of(ReplyAudio)) == pcm(200)
        assert [event.text for event in talk.of(ReplyTranscript)] == ["Hello ", "there.", "Hello there."]
        (spent,) = talk.of(UsageReported)
        assert (spent.kind, spent.item, spent.usage.cost, spent.usage.seconds) == (
            "transcription",
            "item_1",
            0.0004,
            1.5,
        )
        assert talk.of(SessionUpdated) == [SessionUpdated(model="openai/gpt-audio")]
    assert talk.events[0] == SessionReady()
    order = [event for event in talk.events if isinstance(event, TurnStarted | TurnStopped | TurnCommitted)]
    assert order == [
        TurnStarted(item="item_1", at_ms=0),
        TurnStopped(item="item_1", at_ms=600),
        TurnCommitted(item="item_1"),
    ]
    assert provider.asked[0]["provider"] == {"allow_fallbacks": False, "require_parameters": True}
    assert provider.transcribed[0]["model"] == "openai/gpt-4o-mini-transcribe"
    assert all(headers["Authorization"] == f"Bearer {CANARY}" for headers in provider.headers)


async def test_a_commit_alone_starts_no_reply() -> None:
    """Even on the model's floor a reply needs a command; the second request carries the first turn as text."""
    async with peer() as provider, opened(provider, config(floor="model")) as talk:
        await talk.send(*TURN)
        await talk.until(TurnTranscript)
        assert provider.asked == []
        await talk.send(ReplyCommand(id="spk_1"))
        assert (await talk.until(ReplyEnded)).command == "spk_1"
        await talk.send(AppendAudioCommand(data=pcm(400)), CommitTurnCommand(item="item_2"), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert talk.of(TurnCommitted)[1].previous == "item_1"
    roles = [message["role"] for message in provider.asked[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert provider.asked[1]["messages"][1]["content"] == "What time is it?"
    assert provider.asked[1]["messages"][2]["content"] == "Hello there."
    assert provider.asked[1]["messages"][3]["content"][0]["type"] == "input_audio"


async def test_without_audio_history_the_reply_waits_for_the_transcript() -> None:
    """With `audio_history=0` the reply's request carries the transcript, never the audio."""
    conf = config(floor="model", options={"audio_history": 0})
    async with peer() as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.asked[0]["messages"][-1] == {"role": "user", "content": "What time is it?"}


async def test_parallel_tool_calls_and_their_results() -> None:
    """One reply with text and two tool calls; results follow the calls, names are mapped both ways."""
    calls = [
        *spoken("One moment.", 100)[:-4],
        tool_chunk(0, "call_0", "shop__find_order", '{"order'),
        tool_chunk(1, "call_1", "shop__refund", "{}"),
        tool_chunk(0, None, None, '_id":"7"}'),
        chunk({}, "tool_calls"),
        DONE,
    ]
    conf = config(tools=["shop.find_order", "shop.refund"])
    async with peer(Scene(calls), Scene(spoken()), Scene(calls)) as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        assert ended.tools == 2
        asked = talk.of(ToolRequested)
        assert [(call.call_id, call.name, call.arguments) for call in asked] == [
            ("call_0", "shop.find_order", '{"order_id":"7"}'),
            ("call_1", "shop.refund", "{}"),
        ]
        await talk.send(ToolResultCommand(call_id="call_1", output='{"done":true}'))
        await talk.send(ToolResultCommand(call_id="call_0", output='{"found":7}'), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        await talk.send(ReplyCommand(id="spk_3"))
        await talk.until(ReplyEnded, 3)
        assert len({call.call_id for call in talk.of(ToolRequested)}) == 4  # repeated ids are made unique
    told = provider.asked[1]["messages"][2:]
    assert told[0]["content"] == "One m"
    assert [call["function"]["name"] for call in told[0]["tool_calls"]] == ["shop__find_order", "shop__refund"]
    assert [(each["tool_call_id"], each["content"]) for each in told[1:]] == [
        ("call_0", '{"found":7}'),
        ("call_1", '{"done":true}'),
    ]


async def test_a_say_has_its_own_request_and_enters_the_history() -> None:
    """A say request carries no conversation; the next reply's request holds its text; one request at a time."""
    async with peer(Scene(spoken("Welcome!"))) as provider, opened(provider) as talk:
        await talk.send(AddTextCommand(item="t", text="Earlier words.", role="user"), UpdateCommand())
        await talk.send(SayCommand(id="spk_1", text="Welcome!"), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert [event.command for event in talk.of(ReplyEnded)] == ["spk_1", "spk_2"]
    assert provider.most_streams == 1
    assert [message["role"] for message in provider.asked[0]["messages"]] == ["system", "user"]
    assert provider.asked[1]["messages"][1:] == [
        {"role": "user", "content": "Earlier words."},
        {"role": "assistant", "content": "Welcome!"},
    ]


async def test_an_interruption_cancels_the_request_and_keeps_the_heard_part() -> None:
    """The provider sees the disconnect; the history holds the heard words; the cost is looked up later."""
    first = Scene(spoken("one two three four", 1000)[:-3], hold=True)
    cost = json.dumps({"data": {"id": "gen-1", "total_cost": 0.007, "native_tokens_cached": 3}}).encode()
    async with peer(first) as provider, opened(provider, config(floor="model")) as talk:
        provider.costs.extend([(404, error(404)), (200, cost)])
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        started = await talk.until(ReplyStarted)
        await until(lambda: "".join(event.text for event in talk.of(ReplyTranscript)) == "one two three four")
        await talk.send(AppendAudioCommand(data=pcm(200)), CommitTurnCommand(item="item_2"))
        await talk.send(CancelReplyCommand(reply=started.reply, heard_ms=500), ReplyCommand(id="spk_2"))
        ended = await talk.until(ReplyEnded)
        assert (ended.status, ended.why, ended.audio_ms) == ("cancelled", "asked", 1000)
        async with asyncio.timeout(60):
            await provider.aborted.wait()
        await talk.until(ReplyEnded, 2)
        spent = await until(lambda: [event for event in talk.of(UsageReported) if event.kind == "reply"])
        assert (spent[0].reply, spent[0].usage.cost) == (started.reply, 0.007)
    assert provider.looked_up == ["gen-1", "gen-1"]
    assert {"role": "assistant", "content": "one two …"} in provider.asked[1]["messages"]


async def test_an_unknown_cost_is_a_warning() -> None:
    """After a few lookups a warning says that the total is incomplete."""
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        started = await talk.until(ReplyStarted)
        await talk.until(ReplyAudio)
        await talk.send(CancelReplyCommand(reply=started.reply, heard_ms=0))
        assert (await talk.until(Warned)).code == "cost_unknown"
    assert len(provider.looked_up) == len(TIMEOUTS.lookups)


async def test_an_ended_reply_can_still_be_truncated() -> None:
    """Generation is faster than playout: a truncation may follow the end of the reply, before the next request."""
    first, conf = Scene(spoken("one two three four", 5000)), config(floor="model")
    async with peer(first) as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        await talk.send(AppendAudioCommand(data=pcm(200)), CommitTurnCommand(item="item_2"))
        await talk.send(CancelReplyCommand(reply=ended.reply, heard_ms=0), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
    assert [message["role"] for message in provider.asked[1]["messages"]] == ["system", "user", "user"]
    assert provider.looked_up == []


@pytest.mark.parametrize(
    ("status", "body", "headers", "code", "fatal", "retry"),
    [
        (400, error(400, "bad"), {}, "invalid_request", False, False),
        (401, error(401, f"key {CANARY}"), {}, "invalid_api_key", True, False),
        (402, error(402, "pay"), {}, "payment_required", True, False),
        (403, error(403, FLAGGED, flagged_input=FLAGGED, reasons=["violence"]), {}, "forbidden", False, False),
        (408, error(408), {}, "timeout", False, True),
        (413, error(413), {}, "payload_too_large", False, False),
        (422, error(422), {}, "unprocessable", False, False),
        (429, error(429), {}, "rate_limit_exceeded", False, True),
        (429, error(429), {"Retry-After": "30"}, "rate_limit_exceeded", False, True),
        (502, b"<html>" + CANARY.encode(), {}, "provider_unavailable", False, True),
        (503, error(503, "x", error_type="provider_overloaded"), {}, "provider_overloaded", False, True),
        (200, b"<html>", {}, "invalid_answer", False, True),
        (302, b"", {"Location": "https://elsewhere.example"}, "http_302", False, False),
    ],
)  # fmt: skip
async def test_a_refused_reply_is_a_fault_of_its_command(
    status: int, body: bytes, headers: dict[str, str], code: str, fatal: bool, retry: bool
) -> None:
    """Before the reply starts the fault names the command, whether to retry and whether it is fatal; no secret is shown."""
    scene = Scene([body], status=status, content_type="application/json", headers=headers)
    async with peer(scene) as provider, opened(provider) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal, fault.retry) == (code, fatal, retry)
        assert fault.retry_after == (30.0 if headers.get("Retry-After") else None)
        assert fault.command == (None if fatal else "spk_1")
        assert len(talk.of(ReplyEnded)) == (1 if fatal else 0)
        assert len(talk.of(RateLimit)) == (1 if status == 429 else 0)
        if not fatal:
            await talk.send(ReplyCommand(id="spk_2"))
            assert (await talk.until(ReplyEnded)).status == "completed"
    everything = " ".join(event.model_dump_json() for event in talk.events if not isinstance(event, ReplyAudio))
    assert CANARY not in everything
    assert FLAGGED not in everything
    assert "<html>" not in everything


@pytest.mark.parametrize(
    ("pieces", "drop", "code", "fatal"),
    [
        ([chunk({}, "error", error={"code": 429, "message": "x", "metadata": {"error_type": "rate_limit_exceeded"}}), DONE],
         False, "rate_limit_exceeded", False),
        ([chunk(None, error={"code": 402, "message": "x"}), DONE], False, "payment_required", True),
        ([b"data: {nonsense\n\n"], False, "invalid_answer", False),
        ([b'data: {"choices":[{"delta":{"audio":{"data":"!"}}}]}\n\n'], False, "invalid_answer", False),
        ([], False, "cut_off", False),
        ([], True, "unreachable", False),
        ([chunk({}, provider="Azure"), *spoken()], False, "rerouted", True),
        ([chunk({}, model="openai/gpt-audio-mini"), *spoken()], False, "rerouted", True),
    ],
)  # fmt: skip
async def test_a_fault_during_a_reply_keeps_its_text(pieces: list[bytes], drop: bool, code: str, fatal: bool) -> None:
    """The text so far is kept and reported with the reason; a change of route names both sides."""
    scene = Scene([*spoken("Half an answer.", 100)[:-3], *pieces], drop=drop)
    async with peer(scene) as provider, opened(provider) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        assert (ended.status, ended.why) == ("failed", code)
        assert ended.text is not None
        assert ended.audio_ms == 100
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal, fault.command) == (code, fatal, None)
        if code == "rerouted":
            assert fault.message.count("'") == 4 + 2 * ("upstream" in fault.message)
        await talk.send(ReplyCommand(id="spk_2"))
        assert (await talk.until(ReplyEnded, 2)).status == "completed"
        await until(lambda: provider.looked_up)  # the cost is requested
    assert provider.asked[1]["messages"][-1]["role"] == "assistant"


async def test_a_route_change_between_replies_is_refused() -> None:
    """A change of the upstream provider between replies is refused as one within a reply."""
    other = [piece.replace(b'"OpenAI"', b'"Azure"') for piece in spoken()]
    async with peer(Scene(spoken()), Scene(other)) as provider, opened(provider) as talk:
        await talk.send(ReplyCommand(id="spk_1"), ReplyCommand(id="spk_2"))
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal) == ("rerouted", True)
        assert "'OpenAI'" in fault.message
        assert "'Azure'" in fault.message


async def test_an_unpinned_server_may_change_its_names() -> None:
    """Without pinning the serving model is only reported."""
    other = [piece.replace(b'"OpenAI"', b'"Azure"') for piece in spoken()]
    async with peer(Scene(spoken()), Scene(other)) as provider, opened(provider, pinned=False) as talk:
        await talk.send(ReplyCommand(id="spk_1"), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert talk.of(ProviderFault) == []
    assert "provider" not in provider.asked[0]


async def test_another_model_is_reported_before_its_text() -> None:
    """The serving model comes first, so that the session can be ended before any output is used."""
    other = [piece.replace(b"openai/gpt-audio", b"openai/gpt-other") for piece in spoken()]
    async with peer(Scene(other)) as provider, opened(provider) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        await talk.until(ReplyEnded)
    assert kinds(talk)[:4] == ["session.ready", "reply.started", "session.updated", "reply.transcript"]
    assert talk.of(SessionUpdated)[0].model == "openai/gpt-other"


@pytest.mark.parametrize("keepalive", [True, False])
async def test_comments_do_not_keep_a_stream_alive(keepalive: bool) -> None:
    """A stream that sends only comments is stalled after the idle time."""
    timeouts = replace(TIMEOUTS, idle=0.3)
    async with (
        peer(Scene([chunk({})], hold=True, keepalive=keepalive)) as provider,
        opened(provider, timeouts=timeouts) as talk,
    ):
        await talk.send(ReplyCommand(id="spk_1"))
        assert (await talk.until(ReplyEnded)).why == "stalled"
        async with asyncio.timeout(60):
            await provider.aborted.wait()


async def test_an_endless_reply_is_ended_by_the_limit() -> None:
    """Data that never ends is stopped by the limit for one completion."""
    drip = [piece for _ in range(200) for piece in (chunk({"audio": {"transcript": "na "}}), 0.02)]
    timeouts = Timeouts(idle=5.0, total=0.3, lookups=())
    async with peer(Scene(drip)) as provider, opened(provider, timeouts=timeouts) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        assert (await talk.until(ReplyEnded)).why == "timeout"


async def test_a_refused_connection_is_unreachable() -> None:
    """A refused TCP connection is reported as such, and the command may be retried."""
    gone = Peer(url="http://127.0.0.1:9/api/v1")
    async with opened(gone) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        fault = await until(lambda: [event for event in talk.of(ProviderFault) if event.command == "spk_1"])
        assert (fault[0].code, fault[0].retry) == ("unreachable", True)
        assert (await talk.until(TurnTranscript)).failed == "unreachable"


@pytest.mark.parametrize(
    ("status", "body", "code", "fatal"),
    [
        (401, error(401), "invalid_api_key", True),
        (503, error(503), "provider_overloaded", False),
        (200, b"{}", "invalid_answer", False),
        (200, b'{"text":7}', "invalid_answer", False),
    ],
)
async def test_a_failed_transcription_has_a_reason(status: int, body: bytes, code: str, fatal: bool) -> None:
    """A failed transcription is reported with its reason; the model still hears the turn."""
    async with peer() as provider, opened(provider) as talk:
        provider.words.append((status, body))
        await talk.send(*TURN)
        heard = await talk.until(TurnTranscript)
        assert (heard.text, heard.failed) == ("", code)
        assert (await talk.until(ProviderFault)).fatal is fatal
        await talk.send(ReplyCommand(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.asked[0]["messages"][-1]["content"][0]["type"] == "input_audio"


async def test_turns_are_not_transcribed_without_a_model() -> None:
    """Without a transcription model no turn is transcribed."""
    async with peer() as provider, opened(provider, config(floor="model", transcription=None)) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.transcribed == []


@pytest.mark.parametrize("sound", [b"", pcm(50), bytes(48_000)])
async def test_an_empty_turn_is_discarded(sound: bytes) -> None:
    """No audio, a click or digital silence is discarded and interrupts nothing."""
    async with peer() as provider, opened(provider, config(floor="model")) as talk:
        await talk.send(AppendAudioCommand(data=sound), CommitTurnCommand(item="item_1"))
        assert await talk.until(TurnDiscarded) == TurnDiscarded(item="item_1", why="empty")
        assert talk.of(TurnStarted) == []
    assert provider.asked == provider.transcribed == []


async def test_a_long_turn_is_cut_and_half_samples_are_refused() -> None:
    """The beginning is kept, and a warning has the dropped length."""
    async with peer() as provider, opened(provider, config(options={"max_turn_seconds": 0.5})) as talk:
        with pytest.raises(InvalidInput, match="whole samples"):
            await talk.send(AppendAudioCommand(data=b"\x01"))
        await talk.send(AppendAudioCommand(data=pcm(400)), AppendAudioCommand(data=pcm(400)), CommitTurnCommand())
        assert (await talk.until(Warned)).code == "turn_too_long"
        assert (await talk.until(TurnStopped)).at_ms == 500
        await talk.until(TurnTranscript)


async def test_a_long_answer_waits_for_a_slow_reader() -> None:
    """The event queue stays bounded without a reader, and no event is lost."""
    sound = [chunk({"audio": {"data": "AAAA"}}) for _ in range(2000)]
    async with peer(Scene([*sound, *spoken("End.")[-3:]])) as provider, opened(provider) as talk:
        talk._reader.cancel()
        await asyncio.gather(talk._reader, return_exceptions=True)
        await talk.send(ReplyCommand(id="spk_1"))
        await until(lambda: len(talk.session._out._events) >= 256)
        assert len(talk.session._out._events) < 300
        talk._reader = asyncio.create_task(talk._read())
        ended = await talk.until(ReplyEnded)
        assert ended.audio_ms == round(2000 * 3 / 48)


async def test_ending_during_a_reply_leaves_nothing_behind() -> None:
    """The request is cancelled, the last event arrives, later commands are refused; ending twice is allowed."""
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider) as talk:
        await talk.send(*TURN, ReplyCommand(id="spk_1"))
        await talk.until(ReplyAudio)
        await talk.send(EndCommand(), EndCommand())
        await talk.until(SessionClosed)
        async with asyncio.timeout(60):
            await provider.aborted.wait()
        with pytest.raises(ProviderUnavailable):
            await talk.send(ReplyCommand(id="spk_2"))


async def test_an_undeclared_tool_is_refused_at_once() -> None:
    """A reply cannot offer a tool that the session does not declare."""
    async with peer() as provider, opened(provider) as talk:
        with pytest.raises(InvalidInput, match="none of the session's tools"):
            await talk.send(ReplyCommand(id="spk_1", tools=("a.b",)))


async def test_the_factory_gives_an_adapter_that_needs_a_key() -> None:
    """Address and key come from the control plane; without a key, or with an unknown format, no session opens."""
    runtime: Any = Runtime(base_url="https://openrouter.ai/api/v1")
    async with audio_turns(runtime) as adapter:
        assert adapter.formats == (FORMAT,)
        with pytest.raises(ProviderError, match="OPENROUTER_API_KEY"):
            await adapter.open(config(), FORMAT)
        with pytest.raises(CapabilityMissing, match="pcmu/8000"):
            await adapter.open(config(), AudioFormat("pcmu", 8000))
    keyed: Any = Runtime(base_url="https://openrouter.ai/api/v1", key=SecretStr(CANARY))
    async with audio_turns(keyed) as adapter:
        with pytest.raises(InvalidInput, match="openrouter/auto"):
            await adapter.open(config(model="openrouter/auto"), FORMAT)


async def test_the_official_client_reads_the_same_answer() -> None:
    """The official client understands the scripted bytes alike, so the script can be trusted."""
    async with peer(Scene(spoken("Hello you."))) as provider, AsyncOpenAI(api_key="x", base_url=provider.url) as client:
        stream = await client.chat.completions.create(
            model="openai/gpt-audio", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        text, cost = "", None
        async for part in stream:
            audio = part.choices[0].delta.audio if part.choices else None
            text += (audio.transcript or "") if audio else ""
            cost = part.usage.model_dump()["cost"] if part.usage else cost
    assert (text, cost) == ("Hello you.", 0.0123)


async def test_a_minute_of_speech_arrives_unchanged() -> None:
    """A long turn is encoded off the event loop and arrives as recorded, for the transcription and the reply."""
    async with peer() as provider, opened(provider) as talk:
        await talk.send(
            *(AppendAudioCommand(data=pcm(1000, number + 1)) for number in range(60)),
            CommitTurnCommand(),
            ReplyCommand(id="spk_1"),
        )
        await talk.until(ReplyEnded)
        await talk.until(TurnTranscript)
    heard = provider.asked[0]["messages"][-1]["content"][0]["input_audio"]["data"]
    assert heard == provider.transcribed[0]["input_audio"]["data"]
    assert len(heard) == (44 + 60 * 48_000 + 2) // 3 * 4


async def test_one_reply_hears_consecutive_turns() -> None:
    """A reply that is requested after two turns answers both."""
    conf = config(floor="model", options={"audio_history": 2})
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider, conf) as talk:
        await talk.send(ReplyCommand(id="spk_1"))
        started = await talk.until(ReplyStarted)
        for item in ("item_1", "item_2"):
            await talk.send(AppendAudioCommand(data=pcm(300)), CommitTurnCommand(item=item))
        await talk.send(CancelReplyCommand(reply=started.reply, heard_ms=0), ReplyCommand(id="spk_2"))
        await talk.until(ReplyEnded, 2)
    assert len(provider.asked) == 2
    assert [message["role"] for message in provider.asked[1]["messages"]] == ["system", "user", "user"]


async def test_a_flood_of_turns_is_bounded() -> None:
    """Turns beyond the limit of concurrent transcriptions are discarded with a reason."""
    async with peer() as provider, opened(provider) as talk:
        for number in range(20):
            await talk.send(AppendAudioCommand(data=pcm(200)), CommitTurnCommand(item=f"item_{number}"))
        assert [event.why for event in talk.session._out._events if isinstance(event, TurnDiscarded)] == [
            "too_many"
        ] * 4
        await talk.until(TurnTranscript, 16)
