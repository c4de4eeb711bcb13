"""Every switch of chat completions in every position: what it changes can be seen, and the harmless ones change no answer."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Literal, get_args, get_origin, get_type_hints

import openai
import pytest

from agentfield_local.brain import ScriptedBrain
from agentfield_local.brain.protocol import Call, Say
from agentfield_local.chat.behaviour import CHAT_BEHAVIOURS, ChatBehaviour
from agentfield_local.chat.chunks import OTHER_MODEL, OTHER_PROVIDER
from agentfield_local.chat.wire import pieces
from chat_kit import Raw, body, chatting, listen, post

WORDS = "Zürich ist schön, and so is Århus. Naïve façade: jalapeño!"
SCRIPT = (Say(WORDS), Call("get_weather", '{"city": "Zürich"}'))
HARMLESS = {name: behaviour for name, behaviour in CHAT_BEHAVIOURS.items() if behaviour.harmless}
REFUSED = sorted(get_args(get_args(get_type_hints(ChatBehaviour)["refuse"])[0]))


async def ask(behaviour: ChatBehaviour, **more: object) -> Raw:
    """One answer with words and a call."""
    async with chatting(brain=ScriptedBrain([SCRIPT] * 2), behaviour=behaviour) as (server, _):
        return await post(server, "/chat/completions", body(**more))


def test_every_switch_is_named_in_every_position() -> None:
    """The table misses no value of a switch, and every entry differs from the default in its own switch."""
    hints = get_type_hints(ChatBehaviour)
    for switch in fields(ChatBehaviour):
        positions = {
            getattr(b, switch.name) for name, b in CHAT_BEHAVIOURS.items() if name.startswith(f"{switch.name}=")
        }
        assert positions
        assert switch.default not in positions
        hint = hints[switch.name]
        if get_origin(hint) is Literal:
            assert positions == set(get_args(hint)) - {switch.default}


@pytest.mark.parametrize("name", sorted(HARMLESS))
async def test_a_harmless_position_changes_nothing_for_a_client(name: str) -> None:
    """The official client gets the same words, the same audio and the same call, whatever the wire looks like."""
    async with chatting(brain=ScriptedBrain([SCRIPT] * 2)) as (server, client):
        usual = await listen(await client.chat.completions.create(**body()))
        server.chat.behaviour = HARMLESS[name]
        heard = await listen(await client.chat.completions.create(**body()))
    assert (heard.words, heard.text, heard.audio, heard.finish) == (usual.words, "", usual.audio, "tool_calls")
    assert usual.words == WORDS
    assert [(call["name"], call["arguments"]) for call in heard.calls] == [("get_weather", '{"city": "Zürich"}')]


async def test_the_ordinary_stream() -> None:
    """A comment, whole events, whole samples, role first, words before their audio, usage, [DONE]."""
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


SEEN: dict[str, Callable[[Raw], bool]] = {
    "comments=between": lambda raw: raw.data.count(b": LOCAL PROCESSING") == len(raw.events),
    "comments=never": lambda raw: b": LOCAL" not in raw.data,
    "newline=crlf": lambda raw: raw.data.count(b"\r\n\r\n") == len(raw.events) + 1 and raw.data.count(b"\n") % 2 == 0,
    "writes=split_lines": lambda raw: any(
        first.startswith(b"data: {") and not first.endswith(b"\n") for first in raw.writes
    ),
    "writes=split_characters": lambda raw: any(not _is_text(write) for write in raw.writes),
    "audio_cut=padded": lambda raw: _padded(raw) and all(len(base64.b64decode(d)) % 2 == 0 for d in raw.audio),
    "audio_cut=odd": lambda raw: _padded(raw) and all(len(base64.b64decode(d)) % 2 for d in raw.audio[:-1]),
    "transcript=with_audio": lambda raw: any(
        {"data", "transcript"} <= delta.get("audio", {}).keys() for delta in raw.deltas
    ),
    "transcript=after_audio": _no_word_after_the_first,
    "content=null": lambda raw: all(delta["content"] is None for delta in raw.deltas),
    "content=absent": lambda raw: not [delta for delta in raw.deltas if "content" in delta],
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
"""What of a position can be seen on the line."""


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", sorted(SEEN))
async def test_a_position_can_be_seen(name: str) -> None:
    """On the line each position looks as its name says, and the default does not."""
    behaviour = CHAT_BEHAVIOURS[name]
    if behaviour.stall is not None:
        behaviour = replace(behaviour, stall_seconds=0.2, comment_seconds=0.02)
    if name.startswith("switches="):
        behaviour = replace(behaviour, switches_at="mid_answer")
    assert SEEN[name](await ask(behaviour))


def test_every_position_is_looked_at() -> None:
    """No position of a switch escapes these tests."""
    elsewhere = {name for name in CHAT_BEHAVIOURS if name.startswith(("refuse", "retry_after=", "stream_error="))}
    assert set(SEEN) | elsewhere == set(CHAT_BEHAVIOURS)


@pytest.mark.parametrize("status", REFUSED)
async def test_a_refusal_has_the_shape_of_the_protocol(status: int) -> None:
    """Status and code agree, and the kind of error is told."""
    raw = await ask(CHAT_BEHAVIOURS[f"refuse={status}"])
    assert raw.status == raw.json["error"]["code"] == status
    assert raw.json["error"]["message"]
    assert raw.json["error"]["metadata"]["error_type"]
    assert "Retry-After" not in raw.headers


async def test_a_flagged_input_is_echoed_as_the_provider_does() -> None:
    """A refusal by moderation holds the caller's words, which clients must not log."""
    raw = await ask(CHAT_BEHAVIOURS["refuse=403"])
    assert raw.json["error"]["metadata"]["flagged_input"]


async def test_a_refusal_may_be_a_page_name_a_time_or_stop() -> None:
    """HTML from a proxy, `Retry-After`, and a service that recovers after some refusals."""
    page = await ask(CHAT_BEHAVIOURS["refuse_html=True"])
    assert (page.status, page.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert b"<h1>502 Bad Gateway</h1>" in page.data
    assert (await ask(CHAT_BEHAVIOURS["retry_after=2"])).headers["Retry-After"] == "2"
    async with chatting(behaviour=CHAT_BEHAVIOURS["refuse_count=1"]) as (server, _):
        assert [(await post(server, "/chat/completions", body())).status for _ in range(3)] == [503, 200, 200]


async def test_transcriptions_can_be_refused_alone() -> None:
    """Answers go on while the words of the caller cannot be had."""
    async with chatting(behaviour=CHAT_BEHAVIOURS["refuse_at=transcriptions"]) as (server, _):
        assert (await post(server, "/chat/completions", body())).status == 200
        asked = {"model": "moonshine-tiny-en", "input_audio": {"data": "AAAA", "format": "pcm16"}}
        assert (await post(server, "/audio/transcriptions", asked)).status == 503


@pytest.mark.parametrize("code", [402, 403, 408, 429, 502, 503])
async def test_an_error_in_the_middle_ends_the_answer(code: int) -> None:
    """HTTP 200, some words, then a chunk with an error and [DONE]; the official client raises it."""
    behaviour = CHAT_BEHAVIOURS[f"stream_error={code}"]
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


async def test_a_switch_may_wait_for_the_second_answer() -> None:
    """The first answer of a conversation is by one upstream, the later ones by another."""
    again = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    for switch, other in (("provider", OTHER_PROVIDER), ("model", OTHER_MODEL)):
        async with chatting(behaviour=CHAT_BEHAVIOURS[f"switches={switch}"]) as (server, _):
            first = await post(server, "/chat/completions", body())
            second = await post(server, "/chat/completions", body(*again))
        assert other not in {chunk[switch] for chunk in first.chunks}
        assert {chunk[switch] for chunk in second.chunks} == {other}


@pytest.mark.parametrize("how", ["events", "split_lines", "split_characters"])
def test_cutting_loses_nothing(how: str) -> None:
    """The pieces joined are the data; inside a character means between its first two bytes."""
    data = 'data: {"a":"ü€😀"}\r\n\r\n'.encode()
    cut = list(pieces(data, how))
    assert b"".join(cut) == data
    assert (len(cut) > 1) == (how != "events")
    if how == "split_characters":
        assert all(before[-1] >= 0xC0 for before, _ in pairwise(cut))
