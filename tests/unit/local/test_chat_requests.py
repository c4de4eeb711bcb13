"""Requests of chat completions: refusals in OpenRouter's shape, accepted fields, and the brain's input."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agentfield_local.brain.protocol import BrainRequest, Message, Speak, Step, ToolResult
from agentfield_local.chat import routes as chat_module
from support.audio import silence, tone, wav
from support.providers.chat_completions import TONE, body, chatting, post, said, weather_tool

HELLO = {"role": "user", "content": "hello"}


def call(call_id: str = "call_1", name: str = "get_weather") -> dict[str, Any]:
    function = {"name": name, "arguments": "{}"}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def result(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "sunny"}


def recorded(data: str, kind: str = "pcm16") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": data, "format": kind}}]}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


DATA = "messages[0].content[0].input_audio.data"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": (body(model=None), "model"),
    "no messages": ({**body(), "messages": []}, "messages"),
    "unknown field": (body(mood="good"), "mood"),
    "several models": (body(models=["a", "b"]), "models"),
    "unknown role": (body({"role": "caller", "content": "x"}), "messages[0].role"),
    "no content": (body({"role": "user"}), "messages[0].content"),
    "an image": (body({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}), "messages[0].content[0].type"),
    "number as text": (body(model=5), "model"),
    "audio alone": (body(modalities=["audio"]), "modalities"),
    "twice text": (body(modalities=["text", "text"]), "modalities"),
    "video": (body(modalities=["text", "video"]), "modalities[1]"),
    "no voice": (body(audio=None), "audio"),
    "audio as wav": (body(audio={"voice": "alloy", "format": "wav"}), "audio.format"),
    "unknown voice": (body(audio={"voice": "caruso", "format": "pcm16"}), "audio.voice"),
    "options without a stream": (body(stream=None, modalities=["text"], audio=None), "stream_options"),
    "data URI": (body(recorded("data:audio/wav;base64,AAAA")), DATA),
    "not base64": (body(recorded("#####")), DATA),
    "empty recording": (body(recorded("")), DATA),
    "half a sample": (body(recorded(b64(b"abc"))), DATA),
    "not a WAV": (body(recorded(b64(TONE), "wav")), DATA),
    "a WAV without sound": (body(recorded(b64(wav(b"")), "wav")), DATA),
    "a WAV cut short": (body(recorded(b64(wav(TONE)[:20]), "wav")), DATA),
    "unknown format": (body(recorded("AAAA", "midi")), "messages[0].content[0].input_audio.format"),
    "eleven minutes": (body(recorded(b64(silence(601_000, 24_000)))), DATA),
    "result without a call": (body(HELLO, result()), "messages[1].tool_call_id"),
    "result twice": (body(HELLO, call(), result(), result()), "messages[3].tool_call_id"),
    "call without a result": (body(HELLO, call(), HELLO), "messages[2]"),
    "call without a result at the end": (body(HELLO, call()), "messages"),
    "empty assistant": (body({"role": "assistant", "content": None}), "messages[0].content"),
    "unknown audio": (body(HELLO, {"role": "assistant", "audio": {"id": "audio_none"}}, HELLO), "messages[1].audio.id"),
    "same tool twice": (body(tools=[weather_tool(), weather_tool()]), "tools"),
    "a dotted tool": (body(tools=[weather_tool("a.b")]), "tools[0].function.name"),
    "choice without tools": (body(tool_choice="auto"), "tool_choice"),
    "choice of another tool": (body(tools=[weather_tool()], tool_choice={"type": "function", "function": {"name": "x"}}), "tool_choice"),
    "several answers": (body(n=2), "n"),
    "no tokens": (body(max_tokens=0), "max_tokens"),
    "hot": (body(temperature=3), "temperature"),
    "json mode": (body(response_format={"type": "json_object"}), "response_format.type"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
async def test_invalid_requests_are_refused_with_the_field(name: str) -> None:
    """The answer is HTTP 400 with the code, the type of error and the path of the field."""
    sent, param = BAD[name]
    async with chatting() as (server, _):
        raw = await post(server, "/chat/completions", sent)
        assert raw.status == 400, raw.data
        error = raw.json["error"]
        assert (error["code"], error["metadata"]["error_type"]) == (400, "invalid_request")
        assert error["metadata"]["param"] == param
        assert len(error["message"]) < 1000
        assert server.chat.generations.all == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe"])
async def test_invalid_bodies_are_refused(data: bytes) -> None:
    """Empty and incomplete bodies, lists, deeply nested brackets and invalid UTF-8 are refused."""
    async with chatting() as (server, _):
        assert (await post(server, "/chat/completions", data)).status == 400


async def test_a_body_of_another_type_is_refused() -> None:
    """Only application/json is accepted."""
    async with chatting() as (server, _):
        raw = await post(server, "/chat/completions", b"model=x", Content_Type="application/x-www-form-urlencoded")
    assert (raw.status, raw.json["error"]["metadata"]["param"]) == (400, "Content-Type")


async def test_a_body_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is HTTP 413 before the whole body is read."""
    monkeypatch.setattr(chat_module, "_MAX_BODY", 1000)
    async with chatting() as (server, _):
        raw = await post(server, "/chat/completions", body(said()))
    assert (raw.status, raw.json["error"]["metadata"]["error_type"]) == (413, "payload_too_large")


async def test_a_recording_that_is_too_large_is_refused() -> None:
    """A recording above 25 MiB is refused even if the body is within its limit."""
    async with chatting() as (server, _):
        raw = await post(server, "/chat/completions", body(recorded(b64(bytes(25 * 1024 * 1024 + 2)))))
    assert (raw.status, raw.json["error"]["code"]) == (413, 413)


async def test_the_key_is_required() -> None:
    """Without the key, every route answers with a refusal in this protocol's shape."""
    async with chatting(key="secret-of-the-server") as (server, client):
        for path in ("/chat/completions", "/audio/transcriptions"):
            raw = await post(server, path, body(), Authorization="Bearer wrong")
            assert (raw.status, raw.json["error"]["code"]) == (401, 401)
            assert raw.json["error"]["metadata"]["error_type"] == "authentication"
        assert [model.id for model in (await client.models.list()).data]


async def test_fields_of_common_clients_are_accepted() -> None:
    """Routing preferences, identities and sampling settings are accepted without effect."""
    sent = body(
        provider={"allow_fallbacks": False, "require_parameters": True, "order": ["openai"], "data_collection": "deny"},
        user="hash",
        session_id="ses_1",
        temperature=0.2,
        top_p=1,
        seed=5,
        parallel_tool_calls=True,
        tools=[weather_tool()],
        tool_choice="auto",
        metadata={"a": "b"},
        usage={"include": True},
        model="openai/gpt-audio",
    )
    async with chatting() as (server, _):
        raw = await post(server, "/chat/completions", sent)
    assert raw.status == 200
    assert {chunk["model"] for chunk in raw.chunks} == {"openai/gpt-audio"}


class Reading:
    """Brain that records its requests."""

    def __init__(self) -> None:
        self.requests: list[BrainRequest] = []

    def respond(self, request: BrainRequest) -> list[Step]:
        self.requests.append(request)
        return [Speak("Very well.")]


async def test_the_brain_reads_the_whole_conversation() -> None:
    """System messages become instructions, recordings become words, and results carry the name of their call."""
    brain = Reading()
    messages = (
        {"role": "system", "content": "Be brief."},
        said(tone(300, 24_000)),
        {"role": "assistant", "content": [{"type": "text", "text": "One moment."}], "tool_calls": call()["tool_calls"]},
        result(),
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "and"}, *said(tone(500, 24_000), "wav")["content"]]},
    )
    async with chatting(["what is the weather", "tomorrow"], brain=brain) as (server, _):
        raw = await post(server, "/chat/completions", body(*messages, tools=[weather_tool()]))
    assert raw.status == 200
    (read,) = brain.requests
    assert read.instructions == "Be brief.\n\nBe kind."
    assert list(read.history) == [
        Message("user", "what is the weather"),
        Message("assistant", "One moment."),
        ToolResult("call_1", "get_weather", "sunny"),
        Message("user", "and tomorrow"),
    ]
    assert [tool.name for tool in read.tools] == ["get_weather"]


async def test_a_recording_is_transcribed_once_in_a_conversation() -> None:
    """Recordings in the repeated history keep their words; the same sound at a new position is transcribed again."""
    brain = Reading()
    first = said(TONE)
    async with chatting(["one", "two", "three"], brain=brain) as (server, _):
        await post(server, "/chat/completions", body(first))
        await post(server, "/chat/completions", body(first, {"role": "assistant", "content": "Very well."}, said(TONE)))
        await post(server, "/chat/completions", body(first, session_id="ses_2"))
    heard = [[entry.text for entry in read.history if isinstance(entry, Message)] for read in brain.requests]
    assert heard == [["one"], ["one", "Very well.", "two"], ["three"]]


async def test_silence_has_no_words() -> None:
    """A silent turn is an empty user message, not an error."""
    brain = Reading()
    async with chatting(["never heard"], brain=brain) as (server, _):
        await post(server, "/chat/completions", body(said(silence(500, 24_000))))
    assert list(brain.requests[0].history) == [Message("user", "")]
