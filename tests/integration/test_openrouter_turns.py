"""Audio turns against a provider that plays a script over HTTP: whole conversations, and every fault on the way."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr

from agentfield.errors import CapabilityMissing, InvalidInput, ProviderError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddText,
    AppendAudio,
    CancelReply,
    CommitTurn,
    End,
    Reply,
    Say,
    SendToolResult,
    Update,
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
from agentfield_openrouter.http import Times
from agentfield_openrouter.turns import FORMAT, audio_turns
from openai_kit import Runtime
from openrouter_kit import (
    CANARY,
    DONE,
    FLAGGED,
    QUICK,
    Peer,
    Scene,
    Talk,
    chunk,
    config,
    error,
    opened,
    pcm,
    peer,
    spoken,
    tool_chunk,
)
from unit.waiting import until

TURN = (AppendAudio(data=pcm(300)), AppendAudio(data=pcm(300, 9)), CommitTurn(item="item_1"))


@pytest.fixture(autouse=True)
async def nothing_leaks(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """In no log is the key, or what a caller said."""
    caplog.set_level(logging.DEBUG)
    yield
    assert CANARY not in caplog.text
    assert FLAGGED not in caplog.text
    assert "What time is it" not in caplog.text


def kinds(talk: Talk) -> list[str]:
    """Return the kinds of events in order, repeated ones once."""
    found = [event.type for event in talk.events]
    return [kind for at, kind in enumerate(found) if at == 0 or found[at - 1] != kind]


async def test_a_turn_is_transcribed_and_answered_when_asked() -> None:
    """A handler's turn: words of the caller, then an answer with words, sound, usage and cost; routing pinned."""
    async with peer() as provider, opened(provider) as talk:
        await talk.send(*TURN)
        heard = await talk.until(TurnTranscript)
        assert (heard.text, heard.item, heard.final) == ("What time is it?", "item_1", True)
        assert provider.asked == []
        await talk.send(Reply(id="spk_1", instructions="Be kind."))
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


async def test_a_commit_is_answered_by_nobody_until_somebody_asks() -> None:
    """Also on the model's floor the session asks, once; the second request carries the first turn as words."""
    async with peer() as provider, opened(provider, config(floor="model")) as talk:
        await talk.send(*TURN)
        await talk.until(TurnTranscript)
        assert provider.asked == []
        await talk.send(Reply(id="spk_1"))
        assert (await talk.until(ReplyEnded)).command == "spk_1"
        await talk.send(AppendAudio(data=pcm(400)), CommitTurn(item="item_2"), Reply(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert talk.of(TurnCommitted)[1].previous == "item_1"
    roles = [message["role"] for message in provider.asked[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert provider.asked[1]["messages"][1]["content"] == "What time is it?"
    assert provider.asked[1]["messages"][2]["content"] == "Hello there."
    assert provider.asked[1]["messages"][3]["content"][0]["type"] == "input_audio"


async def test_without_recorded_turns_the_model_waits_for_the_words() -> None:
    """With `audio_history=0` the answer's request carries the transcript, never the sound."""
    conf = config(floor="model", options={"audio_history": 0})
    async with peer() as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.asked[0]["messages"][-1] == {"role": "user", "content": "What time is it?"}


async def test_parallel_tools_are_requested_and_their_results_told() -> None:
    """Spoken words and two calls in one answer; results go behind the calls, names are translated both ways."""
    calls = [
        *spoken("One moment.", 100)[:-4],
        tool_chunk(0, "call_0", "desk__find_order", '{"order'),
        tool_chunk(1, "call_1", "desk__refund", "{}"),
        tool_chunk(0, None, None, '_id":"7"}'),
        chunk({}, "tool_calls"),
        DONE,
    ]
    conf = config(tools=["desk.find_order", "desk.refund"])
    async with peer(Scene(calls), Scene(spoken()), Scene(calls)) as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        assert ended.tools == 2
        asked = talk.of(ToolRequested)
        assert [(call.call_id, call.name, call.arguments) for call in asked] == [
            ("call_0", "desk.find_order", '{"order_id":"7"}'),
            ("call_1", "desk.refund", "{}"),
        ]
        await talk.send(SendToolResult(call_id="call_1", output='{"done":true}'))
        await talk.send(SendToolResult(call_id="call_0", output='{"found":7}'), Reply(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        await talk.send(Reply(id="spk_3"))
        await talk.until(ReplyEnded, 3)
        assert len({call.call_id for call in talk.of(ToolRequested)}) == 4  # ids that come again are made different
    told = provider.asked[1]["messages"][2:]
    assert told[0]["content"] == "One m"
    assert [call["function"]["name"] for call in told[0]["tool_calls"]] == ["desk__find_order", "desk__refund"]
    assert [(each["tool_call_id"], each["content"]) for each in told[1:]] == [
        ("call_0", '{"found":7}'),
        ("call_1", '{"done":true}'),
    ]


async def test_what_is_said_has_a_request_of_its_own_and_enters_the_history() -> None:
    """A `say` hears nothing of the conversation; the next answer knows that it was said; one request at a time."""
    async with peer(Scene(spoken("Welcome!"))) as provider, opened(provider) as talk:
        await talk.send(AddText(item="t", text="Earlier words.", role="user"), Update())
        await talk.send(Say(id="spk_1", text="Welcome!"), Reply(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert [event.command for event in talk.of(ReplyEnded)] == ["spk_1", "spk_2"]
    assert provider.most_streams == 1
    assert [message["role"] for message in provider.asked[0]["messages"]] == ["system", "user"]
    assert provider.asked[1]["messages"][1:] == [
        {"role": "user", "content": "Earlier words."},
        {"role": "assistant", "content": "Welcome!"},
    ]


async def test_an_interruption_ends_the_request_and_keeps_what_was_heard() -> None:
    """The provider sees us leave; the history holds the words heard; the cost is learned later."""
    first = Scene(spoken("one two three four", 1000)[:-3], hold=True)
    cost = json.dumps({"data": {"id": "gen-1", "total_cost": 0.007, "native_tokens_cached": 3}}).encode()
    async with peer(first) as provider, opened(provider, config(floor="model")) as talk:
        provider.costs.extend([(404, error(404)), (200, cost)])
        await talk.send(*TURN, Reply(id="spk_1"))
        started = await talk.until(ReplyStarted)
        await until(lambda: "".join(event.text for event in talk.of(ReplyTranscript)) == "one two three four")
        await talk.send(AppendAudio(data=pcm(200)), CommitTurn(item="item_2"))
        await talk.send(CancelReply(reply=started.reply, heard_ms=500), Reply(id="spk_2"))
        ended = await talk.until(ReplyEnded)
        assert (ended.status, ended.why, ended.audio_ms) == ("cancelled", "asked", 1000)
        async with asyncio.timeout(2):
            await provider.aborted.wait()
        await talk.until(ReplyEnded, 2)
        spent = await until(lambda: [event for event in talk.of(UsageReported) if event.kind == "reply"])
        assert (spent[0].reply, spent[0].usage.cost) == (started.reply, 0.007)
    assert provider.looked_up == ["gen-1", "gen-1"]
    assert {"role": "assistant", "content": "one two …"} in provider.asked[1]["messages"]


async def test_a_cost_that_nobody_tells_is_a_warning() -> None:
    """After a few attempts it is said that the sum lacks something."""
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"))
        started = await talk.until(ReplyStarted)
        await talk.until(ReplyAudio)
        await talk.send(CancelReply(reply=started.reply, heard_ms=0))
        assert (await talk.until(Warned)).code == "cost_unknown"
    assert len(provider.looked_up) == len(QUICK.lookups)


async def test_an_answer_that_ended_can_still_be_cut_to_what_was_heard() -> None:
    """Generation outruns playback: the cut may come after the end, before the next request."""
    first, conf = Scene(spoken("one two three four", 5000)), config(floor="model")
    async with peer(first) as provider, opened(provider, conf) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        await talk.send(AppendAudio(data=pcm(200)), CommitTurn(item="item_2"))
        await talk.send(CancelReply(reply=ended.reply, heard_ms=0), Reply(id="spk_2"))
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
        (429, error(429), {"Retry-After": "30"}, "rate_limit_exceeded", False, False),
        (502, b"<html>" + CANARY.encode(), {}, "provider_unavailable", False, True),
        (503, error(503, "x", error_type="provider_overloaded"), {}, "provider_overloaded", False, True),
        (200, b"<html>", {}, "invalid_answer", False, True),
        (302, b"", {"Location": "https://elsewhere.example"}, "http_302", False, False),
    ],
)  # fmt: skip
async def test_a_refused_answer_is_a_fault_of_its_command(
    status: int, body: bytes, headers: dict[str, str], code: str, fatal: bool, retry: bool
) -> None:
    """Before anything began, the command may be sent again or not; what is fatal says so; no secret is told."""
    scene = Scene([body], status=status, content_type="application/json", headers=headers)
    async with peer(scene) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"))
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal, fault.retry) == (code, fatal, retry)
        assert fault.command == (None if fatal else "spk_1")
        assert len(talk.of(ReplyEnded)) == (1 if fatal else 0)
        assert len(talk.of(RateLimit)) == (1 if status == 429 else 0)
        if not fatal:
            await talk.send(Reply(id="spk_2"))
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
async def test_a_fault_in_the_middle_ends_the_answer_with_what_there_was(
    pieces: list[bytes], drop: bool, code: str, fatal: bool
) -> None:
    """What was said until then is kept and told, and the reason is named; a change of route names both sides."""
    scene = Scene([*spoken("Half an answer.", 100)[:-3], *pieces], drop=drop)
    async with peer(scene) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"))
        ended = await talk.until(ReplyEnded)
        assert (ended.status, ended.why) == ("failed", code)
        assert ended.text is not None
        assert ended.audio_ms == 100
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal, fault.command) == (code, fatal, None)
        if code == "rerouted":
            assert fault.message.count("'") == 4 + 2 * ("upstream" in fault.message)
        await talk.send(Reply(id="spk_2"))
        assert (await talk.until(ReplyEnded, 2)).status == "completed"
        await until(lambda: provider.looked_up)  # what it cost is asked for
    assert provider.asked[1]["messages"][-1]["role"] == "assistant"


async def test_another_provider_in_the_next_answer_is_a_change_of_route() -> None:
    """Between turns as within one: nobody is switched silently."""
    other = [piece.replace(b'"OpenAI"', b'"Azure"') for piece in spoken()]
    async with peer(Scene(spoken()), Scene(other)) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"), Reply(id="spk_2"))
        fault = await talk.until(ProviderFault)
        assert (fault.code, fault.fatal) == ("rerouted", True)
        assert "'OpenAI'" in fault.message
        assert "'Azure'" in fault.message


async def test_a_server_that_does_not_route_may_change_its_names() -> None:
    """Unpinned, the echo is told and nothing else."""
    other = [piece.replace(b'"OpenAI"', b'"Azure"') for piece in spoken()]
    async with peer(Scene(spoken()), Scene(other)) as provider, opened(provider, pinned=False) as talk:
        await talk.send(Reply(id="spk_1"), Reply(id="spk_2"))
        await talk.until(ReplyEnded, 2)
        assert talk.of(ProviderFault) == []
    assert "provider" not in provider.asked[0]


async def test_another_model_than_asked_for_is_told_before_its_words() -> None:
    """The echo comes first, so that the session can be ended before anything of it is used."""
    other = [piece.replace(b"openai/gpt-audio", b"openai/gpt-other") for piece in spoken()]
    async with peer(Scene(other)) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"))
        await talk.until(ReplyEnded)
    assert kinds(talk)[:4] == ["session.ready", "reply.started", "session.updated", "reply.transcript"]
    assert talk.of(SessionUpdated)[0].model == "openai/gpt-other"


@pytest.mark.parametrize("keepalive", [True, False])
async def test_comments_keep_no_answer_alive(keepalive: bool) -> None:
    """Only data counts: a stream that sends comments alone is stalled after the idle time."""
    async with peer(Scene([chunk({})], hold=True, keepalive=keepalive)) as provider, opened(provider) as talk:
        await talk.send(Reply(id="spk_1"))
        assert (await talk.until(ReplyEnded)).why == "stalled"
        async with asyncio.timeout(2):
            await provider.aborted.wait()


async def test_an_answer_without_end_has_a_hard_limit() -> None:
    """Data that never stops is ended by the limit for one answer."""
    drip = [piece for _ in range(200) for piece in (chunk({"audio": {"transcript": "na "}}), 0.02)]
    times = Times(idle=5.0, total=0.3, lookups=())
    async with peer(Scene(drip)) as provider, opened(provider, times=times) as talk:
        await talk.send(Reply(id="spk_1"))
        assert (await talk.until(ReplyEnded)).why == "timeout"


async def test_nobody_there_is_told_as_unreachable() -> None:
    """A connection that is refused says so, and the command may be sent again."""
    gone = Peer(url="http://127.0.0.1:9/api/v1")
    async with opened(gone) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
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
async def test_a_turn_without_words_says_why(status: int, body: bytes, code: str, fatal: bool) -> None:
    """A transcription that fails is told with its reason; the model still hears the turn."""
    async with peer() as provider, opened(provider) as talk:
        provider.words.append((status, body))
        await talk.send(*TURN)
        heard = await talk.until(TurnTranscript)
        assert (heard.text, heard.failed) == ("", code)
        assert (await talk.until(ProviderFault)).fatal is fatal
        await talk.send(Reply(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.asked[0]["messages"][-1]["content"][0]["type"] == "input_audio"


async def test_nobody_is_asked_for_words_that_nobody_wants() -> None:
    """Without a model for it, turns are not transcribed."""
    async with peer() as provider, opened(provider, config(floor="model", transcription=None)) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
        await talk.until(ReplyEnded)
    assert provider.transcribed == []


@pytest.mark.parametrize("sound", [b"", pcm(50), bytes(48_000)])
async def test_a_turn_of_nothing_is_discarded(sound: bytes) -> None:
    """No sound, a click or digital silence reach nobody, and interrupt nobody."""
    async with peer() as provider, opened(provider, config(floor="model")) as talk:
        await talk.send(AppendAudio(data=sound), CommitTurn(item="item_1"))
        assert await talk.until(TurnDiscarded) == TurnDiscarded(item="item_1", why="empty")
        assert talk.of(TurnStarted) == []
    assert provider.asked == provider.transcribed == []


async def test_a_turn_that_is_too_long_is_cut_with_a_warning_and_half_samples_are_refused() -> None:
    """The beginning counts, and it is told how much was left out."""
    async with peer() as provider, opened(provider, config(options={"max_turn_seconds": 0.5})) as talk:
        with pytest.raises(InvalidInput, match="whole samples"):
            await talk.send(AppendAudio(data=b"\x01"))
        await talk.send(AppendAudio(data=pcm(400)), AppendAudio(data=pcm(400)), CommitTurn())
        assert (await talk.until(Warned)).code == "turn_too_long"
        assert (await talk.until(TurnStopped)).at_ms == 500
        await talk.until(TurnTranscript)


async def test_a_long_answer_waits_for_a_slow_reader() -> None:
    """What is streamed stays bounded when nobody reads, and nothing of it is lost."""
    sound = [chunk({"audio": {"data": "AAAA"}}) for _ in range(2000)]
    async with peer(Scene([*sound, *spoken("End.")[-3:]])) as provider, opened(provider) as talk:
        talk._reader.cancel()
        await asyncio.gather(talk._reader, return_exceptions=True)
        await talk.send(Reply(id="spk_1"))
        await until(lambda: len(talk.session._out._events) >= 256)
        assert len(talk.session._out._events) < 300
        talk._reader = asyncio.create_task(talk._read())
        ended = await talk.until(ReplyEnded)
        assert ended.audio_ms == round(2000 * 3 / 48)


async def test_an_end_in_the_middle_leaves_nothing_behind() -> None:
    """The request is ended, the last event is told, later commands are refused; twice is once."""
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider) as talk:
        await talk.send(*TURN, Reply(id="spk_1"))
        await talk.until(ReplyAudio)
        await talk.send(End(), End())
        await talk.until(SessionClosed)
        async with asyncio.timeout(2):
            await provider.aborted.wait()
        with pytest.raises(ProviderUnavailable):
            await talk.send(Reply(id="spk_2"))


async def test_an_undeclared_tool_is_refused_at_once() -> None:
    """A reply cannot offer what the session does not have."""
    async with peer() as provider, opened(provider) as talk:
        with pytest.raises(InvalidInput, match="none of the session's tools"):
            await talk.send(Reply(id="spk_1", tools=("a.b",)))


async def test_the_factory_gives_an_adapter_that_needs_a_key() -> None:
    """Address and key come from the control plane; without a key nothing is opened, nor with a strange format."""
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


async def test_the_official_client_reads_the_same_answer_out_of_the_same_bytes() -> None:
    """What the script plays is what the official client understands, so that the script can be trusted."""
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


async def test_a_minute_of_speech_goes_through_whole() -> None:
    """A long turn is encoded beside the event loop and arrives as it was recorded, for words and for the answer."""
    async with peer() as provider, opened(provider) as talk:
        await talk.send(
            *(AppendAudio(data=pcm(1000, number + 1)) for number in range(60)), CommitTurn(), Reply(id="spk_1")
        )
        await talk.until(ReplyEnded)
        await talk.until(TurnTranscript)
    heard = provider.asked[0]["messages"][-1]["content"][0]["input_audio"]["data"]
    assert heard == provider.transcribed[0]["input_audio"]["data"]
    assert len(heard) == (44 + 60 * 48_000 + 2) // 3 * 4


async def test_turns_in_a_row_get_one_answer_that_hears_all() -> None:
    """What is asked for after two turns answers both."""
    conf = config(floor="model", options={"audio_history": 2})
    async with peer(Scene(spoken()[:-3], hold=True)) as provider, opened(provider, conf) as talk:
        await talk.send(Reply(id="spk_1"))
        started = await talk.until(ReplyStarted)
        for item in ("item_1", "item_2"):
            await talk.send(AppendAudio(data=pcm(300)), CommitTurn(item=item))
        await talk.send(CancelReply(reply=started.reply, heard_ms=0), Reply(id="spk_2"))
        await talk.until(ReplyEnded, 2)
    assert len(provider.asked) == 2
    assert [message["role"] for message in provider.asked[1]["messages"]] == ["system", "user", "user"]


async def test_a_flood_of_turns_is_bounded() -> None:
    """Turns that wait for words beyond what is sensible are discarded, and told to be."""
    async with peer() as provider, opened(provider) as talk:
        for number in range(20):
            await talk.send(AppendAudio(data=pcm(200)), CommitTurn(item=f"item_{number}"))
        assert [event.why for event in talk.session._out._events if isinstance(event, TurnDiscarded)] == [
            "too_many"
        ] * 4
        await talk.until(TurnTranscript, 16)
