"""Variants of chat completions: each has a visible effect, and harmless ones do not change a completion."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Literal, get_args, get_origin, get_type_hints

import openai
import pytest

from agentfield_local.brain import ScriptedBrain
from agentfield_local.brain.protocol import CallFunction, Speak
from agentfield_local.chat.behaviour import CHAT_VARIANTS, ChatBehaviour
from agentfield_local.chat.chunks import OTHER_MODEL, OTHER_PROVIDER
from agentfield_local.chat.sse import split_writes
from support.providers.chat_completions import Raw, body, chatting, listen, post

WORDS = "Zürich ist schön, and so is Århus. Naïve façade: jalapeño!"
SCRIPT = (Speak(WORDS), CallFunction("get_weather", '{"city": "Zürich"}'))
HARMLESS_VARIANTS = {name: behaviour for name, behaviour in CHAT_VARIANTS.items() if behaviour.harmless}
REFUSED = sorted(get_args(get_args(get_type_hints(ChatBehaviour)["refuse"])[0]))


async def ask(behaviour: ChatBehaviour, **more: object) -> Raw:
    """Request a completion with words and a call."""
    async with chatting(brain=ScriptedBrain([SCRIPT] * 2), behaviour=behaviour) as (server, _):
        return await post(server, "/chat/completions", body(**more))


def test_every_value_of_every_setting_has_a_variant() -> None:
    """The table has every value of every field, and each entry differs from the default in its own field."""
    hints = get_type_hints(ChatBehaviour)
    for switch in fields(ChatBehaviour):
        positions = {getattr(b, switch.name) for name, b in CHAT_VARIANTS.items() if name.startswith(f"{switch.name}=")}
        assert positions
        assert switch.default not in positions
        hint = hints[switch.name]
        if get_origin(hint) is Literal:
            assert positions == set(get_args(hint)) - {switch.default}


@pytest.mark.parametrize("name", sorted(HARMLESS_VARIANTS))
async def test_a_harmless_variant_changes_nothing_for_a_client(name: str) -> None:
    """The official client gets the same words, audio and call in every wire form."""
    async with chatting(brain=ScriptedBrain([SCRIPT] * 2)) as (server, client):
        usual = await listen(await client.chat.completions.create(**body()))
        server.chat.behaviour = HARMLESS_VARIANTS[name]
        heard = await listen(await client.chat.completions.create(**body()))
    words = ("", usual.words) if name == "content=words" else (usual.words, "")
    assert (heard.words, heard.text, heard.audio, heard.finish) == (*words, usual.audio, "tool_calls")
    assert usual.words == WORDS
    assert [(call["name"], call["arguments"]) for call in heard.calls] == [("get_weather", '{"city": "Zürich"}')]


async def test_the_default_stream() -> None:
    """By default: a comment, whole events, whole samples, the role first, words before their audio, usage, [DONE]."""
    raw = await ask(ChatBehaviour())
    assert raw.data.startswith(b": LOCAL PROCESSING\n\ndata: ")
    assert raw.data.count(b": LOCAL PROCESSING") == 1
    assert b"\r" not in raw.data
    assert all(write.endswith(b"\n\n") for write in raw.writes)
    first, *rest = raw.deltas
    assert (first["role"], first["content"]) == ("assistant", "")
    assert first["audio"]["id"].startswith("audio_")
    assert not [delta for delta in rest if "role" in delta]
    assert "transcript" in rest[0]["audio"]
    assert [len(base64.b64decode(data)) for data in raw.audio[:-1]] == [4800] * (len(raw.audio) - 1)
    assert raw.deltas[-1]["audio"]["expires_at"] == raw.chunks[0]["created"] + 3600
    assert raw.chunks[-1]["choices"] == []
    assert raw.chunks[-1]["usage"]["cost"] == 0
    assert raw.events[-1] == "[DONE]"
    assert {(chunk["model"], chunk["provider"]) for chunk in raw.chunks} == {("local-realtime-1", "Local")}
    assert raw.headers["X-Generation-Id"] == raw.chunks[0]["id"]


def _padded(raw: Raw) -> bool:
    return all(data.endswith("=") for data in raw.audio[:-1]) and len(raw.audio) > 2


def _no_word_after_the_first(raw: Raw) -> bool:
    kinds = ["words" if "transcript" in delta["audio"] else "audio" for delta in raw.deltas[1:] if delta.get("audio")]
    return "audio" not in kinds[kinds.index("words") :][:-1]  # the last one is the end of the audio's life


VISIBLE: dict[str, Callable[[Raw], bool]] = {
    "comments=between": lambda raw: raw.data.count(b": LOCAL PROCESSING") == len(raw.events),
    "comments=never": lambda raw: b": LOCAL" not in raw.data,
    "newline=crlf": lambda raw: raw.data.count(b"\r\n\r\n") == len(raw.events) + 1 and raw.data.count(b"\n") % 2 == 0,
    "writes=split_lines": lambda raw: any(
        first.startswith(b"data: {") and not first.endswith(b"\n") for first in raw.writes
    ),
    "writes=split_characters": lambda raw: any(not _is_text(write) for write in raw.writes),
    "audio_split=padded": lambda raw: _padded(raw) and all(len(base64.b64decode(d)) % 2 == 0 for d in raw.audio),
    "audio_split=odd": lambda raw: _padded(raw) and all(len(base64.b64decode(d)) % 2 for d in raw.audio[:-1]),
    "transcript=with_audio": lambda raw: any(
        {"data", "transcript"} <= delta.get("audio", {}).keys() for delta in raw.deltas
    ),
    "transcript=after_audio": _no_word_after_the_first,
    "content=null": lambda raw: all(delta["content"] is None for delta in raw.deltas),
    "content=absent": lambda raw: not [delta for delta in raw.deltas if "content" in delta],
    "content=words": lambda raw: (
        any(delta["content"] for delta in raw.deltas)
        and not any("transcript" in delta.get("audio", {}) for delta in raw.deltas)
    ),
    "role=every": lambda raw: all(delta["role"] == "assistant" for delta in raw.deltas),
    "arguments=whole": lambda raw: (
        [call["function"]["arguments"] for delta in raw.deltas for call in delta.get("tool_calls", ())]
        == ["", '{"city": "Zürich"}']
    ),
    "expires_at=False": lambda raw: not [delta for delta in raw.deltas if "expires_at" in delta.get("audio", {})],
    "usage=silent_choice": lambda raw: bool(raw.chunks[-1]["usage"] and raw.chunks[-1]["choices"]),
    "usage=absent": lambda raw: not [chunk for chunk in raw.chunks if "usage" in chunk],
    "usage_cost=False": lambda raw: "cost" not in raw.chunks[-1]["usage"],
    "unknown_fields=True": lambda raw: "weather" in raw.chunks[0] and "mood" in raw.deltas[0],
    "ending=silent": lambda raw: raw.events[-1] != "[DONE]" and "usage" in raw.chunks[-1] and not raw.broken,
    "ending=broken": lambda raw: raw.broken and not [d for d in raw.chunks if d["choices"][0]["finish_reason"]],
    "stall=before": lambda raw: raw.data.count(b": LOCAL") > 1 and raw.data.startswith(b": LOCAL"),
    "stall=middle": lambda raw: raw.data.count(b": LOCAL") > 2,
    "stall_seconds=0.2": lambda raw: raw.data.count(b": LOCAL") > 2 and raw.events[-1] == "[DONE]",
    "comment_seconds=0.02": lambda raw: raw.data.count(b": LOCAL") > 2 and raw.events[-1] == "[DONE]",
    "switches=provider": lambda raw: {c["provider"] for c in raw.chunks} == {"Local", OTHER_PROVIDER},
    "switches=model": lambda raw: {c["model"] for c in raw.chunks} == {"local-realtime-1", OTHER_MODEL},
    "switches_at=mid_answer": lambda raw: [c["provider"] for c in raw.chunks][:3] == ["Local", "Local", OTHER_PROVIDER],
    "generation_speed=50.0": lambda raw: raw.events[-1] == "[DONE]",
}
"""Checks of the effect of a variant on the wire."""


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", sorted(VISIBLE))
async def test_a_variant_has_a_visible_effect(name: str) -> None:
    """Each variant has its effect on the wire, and the default does not."""
    behaviour = CHAT_VARIANTS[name]
    if behaviour.stall is not None:
        behaviour = replace(behaviour, stall_seconds=0.2, comment_seconds=0.02)
    if name.startswith("switches="):
        behaviour = replace(behaviour, switches_at="mid_answer")
    assert VISIBLE[name](await ask(behaviour))


def test_every_variant_is_checked() -> None:
    """These tests cover all variants."""
    elsewhere = {name for name in CHAT_VARIANTS if name.startswith(("refuse", "retry_after=", "stream_error="))}
    assert set(VISIBLE) | elsewhere == set(CHAT_VARIANTS)


@pytest.mark.parametrize("status", REFUSED)
async def test_a_refusal_has_the_shape_of_the_protocol(status: int) -> None:
    """Status and code agree, and the metadata contains the type of error."""
    raw = await ask(CHAT_VARIANTS[f"refuse={status}"])
    assert raw.status == raw.json["error"]["code"] == status
    assert raw.json["error"]["message"]
    assert raw.json["error"]["metadata"]["error_type"]
    assert "Retry-After" not in raw.headers


async def test_a_moderation_refusal_contains_the_flagged_input() -> None:
    """A moderation refusal contains the caller's words, which clients must not log."""
    raw = await ask(CHAT_VARIANTS["refuse=403"])
    assert raw.json["error"]["metadata"]["flagged_input"]


async def test_refusals_as_html_with_retry_after_or_limited_in_number() -> None:
    """A refusal may be the HTML page of a proxy, carry `Retry-After`, or end after a number of requests."""
    page = await ask(CHAT_VARIANTS["refuse_html=True"])
    assert (page.status, page.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert b"<h1>502 Bad Gateway</h1>" in page.data
    assert (await ask(CHAT_VARIANTS["retry_after=2"])).headers["Retry-After"] == "2"
    async with chatting(behaviour=CHAT_VARIANTS["refuse_count=1"]) as (server, _):
        assert [(await post(server, "/chat/completions", body())).status for _ in range(3)] == [503, 200, 200]


async def test_transcriptions_can_be_refused_separately() -> None:
    """Completions work while transcriptions are refused."""
    async with chatting(behaviour=CHAT_VARIANTS["refuse_at=transcriptions"]) as (server, _):
        assert (await post(server, "/chat/completions", body())).status == 200
        asked = {"model": "moonshine-tiny-en", "input_audio": {"data": "AAAA", "format": "pcm16"}}
        assert (await post(server, "/audio/transcriptions", asked)).status == 503


@pytest.mark.parametrize("code", [402, 403, 408, 429, 502, 503])
async def test_an_error_in_mid_stream_ends_the_completion(code: int) -> None:
    """After HTTP 200 and some words, a chunk with an error and [DONE] follow; the official client raises the error."""
    behaviour = CHAT_VARIANTS[f"stream_error={code}"]
    raw = await ask(behaviour)
    assert raw.status == 200
    assert raw.chunks[-1]["error"]["code"] == code
    assert raw.chunks[-1]["choices"][0]["finish_reason"] == "error"
    assert raw.events[-1] == "[DONE]"
    assert any("transcript" in delta.get("audio", {}) for delta in raw.deltas)
    async with chatting(behaviour=behaviour) as (_, client):
        with pytest.raises(openai.APIError) as caught:
            await listen(await client.chat.completions.create(**body()))
    assert int(caught.value.code or 0) == code


async def test_the_provider_may_change_with_the_second_completion() -> None:
    """The first completion of a conversation names one provider, the second another."""
    again = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    for switch, other in (("provider", OTHER_PROVIDER), ("model", OTHER_MODEL)):
        async with chatting(behaviour=CHAT_VARIANTS[f"switches={switch}"]) as (server, _):
            first = await post(server, "/chat/completions", body())
            second = await post(server, "/chat/completions", body(*again))
        assert other not in {chunk[switch] for chunk in first.chunks}
        assert {chunk[switch] for chunk in second.chunks} == {other}


@pytest.mark.parametrize("mode", ["events", "split_lines", "split_characters"])
def test_split_writes_lose_nothing(mode: str) -> None:
    """The joined pieces are the data; a character is split between its first two bytes."""
    data = 'data: {"a":"ü€😀"}\r\n\r\n'.encode()
    pieces = list(split_writes(data, mode))
    assert b"".join(pieces) == data
    assert (len(pieces) > 1) == (mode != "events")
    if mode == "split_characters":
        assert all(before[-1] >= 0xC0 for before, _ in pairwise(pieces))
