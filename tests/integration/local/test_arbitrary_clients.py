"""Arbitrary client events, bodies and offers at the local server, while a neighbour's call goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import aiohttp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfield_local.brain import ObedientBrain
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import silence, tone
from support.providers.local_server import Caller, b64, check_event
from support.waiting import SECONDS, until

pytestmark = pytest.mark.fuzz

Result = TypeVar("Result")

EFFORT = settings.default.max_examples  # of the loaded profile: a longer one searches deeper everywhere

ODD_TEXTS = st.sampled_from(
    ["", "\ud83d", "\udc00x", "\x00", "x" * 3000, "../..", "function", "audio/pcmu", "true", "٣", "A" * 64 + "-"]
)
TEXTS = ODD_TEXTS | st.text(st.characters(exclude_categories=()), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**53 + 1, -1, 0, 1e400, -1e400, float("nan"), 1e-320, 10**200])
    | st.floats()
    | TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
NESTED = st.integers(1, 3000).map(lambda depth: "[" * depth + "]" * depth)

AUDIO = b64(tone(120, 24_000) + silence(40, 24_000))
MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "where is my order"}]}
TOOL = {"type": "function", "name": "find", "description": "Finds.", "parameters": {"type": "object"}}
SESSION: dict[str, Any] = {
    "type": "realtime",
    "model": "gpt-realtime",
    "output_modalities": ["audio"],
    "instructions": "Be kind.",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "find"},
    "truncation": {"type": "retention_ratio", "retention_ratio": 0.5},
    "tracing": {"metadata": {"a": 1}},
    "prompt": {"id": "pmpt", "variables": {"a": "b"}},
    "max_output_tokens": 50,
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24000},
            "noise_reduction": {"type": "near_field"},
            "transcription": {"model": "gpt-realtime-whisper", "languages": ["en"]},
            "turn_detection": {"type": "server_vad", "threshold": 0.4, "idle_timeout_ms": 5000},
        },
        "output": {"format": {"type": "audio/pcma"}, "voice": {"id": "voice_1"}, "speed": 1.2},
    },
}
EXAMPLES: list[dict[str, Any]] = [
    {"type": "session.update", "session": SESSION},
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": {"type": "transcription", "audio": SESSION["audio"]}},
    {"type": "input_audio_buffer.append", "audio": AUDIO},
    {"type": "input_audio_buffer.append", "audio": "A"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": {"id": "item_a", **MESSAGE}, "previous_item_id": "root"},
    {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": AUDIO}]},
    },
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call", "name": "find", "arguments": "{", "call_id": "call_a"},
    },
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call_output", "call_id": "call_a", "output": '{"a": 1}'},
    },
    {"type": "conversation.item.retrieve", "item_id": "item_a"},
    {"type": "conversation.item.truncate", "item_id": "item_a", "content_index": 0, "audio_end_ms": 10},
    {"type": "conversation.item.delete", "item_id": "item_a"},
    {
        "type": "response.create",
        "response": {
            "conversation": "none",
            "input": [MESSAGE, {"type": "item_reference", "id": "item_a"}],
            "tools": [TOOL],
            "tool_choice": "required",
            "metadata": {"a": "b"},
            "audio": {"output": {"voice": "alloy"}},
        },
    },
    {"type": "response.create"},
    {"type": "response.create", "response": {"output_modalities": ["text"]}},
    {"type": "response.cancel", "response_id": "resp_a"},
    {"type": "response.cancel"},
    {"type": "output_audio_buffer.clear"},
    {"type": "transcription_session.update", "session": {}},
]


@st.composite
def mutated(draw: st.DrawFn, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an example with up to three values replaced, added or removed anywhere in it."""
    event: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(examples))))
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(event))
        parent, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "remove":
                del parent[key]
            case _ if isinstance(parent, dict):
                parent[draw(TEXTS)] = draw(VALUES)
            case _:
                parent.append(draw(VALUES))
        if not event:
            break
    return event


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in list(inner):
        yield value, key
        yield from _places(found)


FRAMES = st.one_of(
    mutated(EXAMPLES).map(json.dumps),
    mutated(EXAMPLES).map(json.dumps),
    VALUES.map(json.dumps),
    NESTED.map(lambda nested: f'{{"type":"session.update","session":{{"type":"realtime","tools":{nested}}}}}'),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    st.binary(max_size=30),
)

SPEECH = {
    "model": "tts",
    "voice": "alloy",
    "input": "Hello.",
    "response_format": "opus",
    "stream_format": "sse",
    "speed": 2.0,
}
RECORDED = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": AUDIO, "format": "pcm16"}}]}
CHAT: dict[str, Any] = {
    "model": "gpt-audio",
    "messages": [{"role": "system", "content": "Be kind."}, RECORDED],
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "flac"},
    "max_tokens": 40,
    "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
}
BODIES: list[tuple[str, list[dict[str, Any]]]] = [
    ("/realtime/client_secrets", [{"session": SESSION, "expires_after": {"anchor": "created_at", "seconds": 60}}]),
    ("/audio/speech", [SPEECH]),
    ("/chat/completions", [CHAT, {**CHAT, "stream": True, "audio": {"voice": "alloy", "format": "pcm16"}}]),
    ("/audio/transcriptions", [{"model": "m", "input_audio": {"data": AUDIO, "format": "pcm16"}}]),
    ("/realtime/calls/rtc_x/refer", [{"target_uri": "tel:+1"}]),
    ("/realtime/sessions", [{"model": "m"}]),
]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes, str]:
    path, examples = draw(st.sampled_from(BODIES))
    body = draw(
        st.one_of(
            mutated(examples).map(lambda found: json.dumps(found).encode()),
            VALUES.map(lambda found: json.dumps(found).encode()),
            NESTED.map(str.encode),
            st.binary(max_size=60),
        )
    )
    kinds = ["application/json"] * 4 + ["multipart/form-data; boundary=x", "text/plain", "application/json; charset=ü"]
    return path, body, draw(st.sampled_from(kinds))


@st.composite
def line_changes(draw: st.DrawFn) -> list[tuple[float, str, str]]:
    """Return changes of lines of an SDP: a relative position, an action, and a text."""
    lines = st.sampled_from(
        [
            "a=fmtp:111 x=\\",
            "a=fmtp:1",
            "a=mid:",
            "a=rtpmap:0 x/y/z",
            "m=audio 9 x",
            "a=ssrc:1 cname",
            "v=1",
            "c=IN IP4 x",
        ]
    )
    texts = lines | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
    change = st.tuples(st.floats(0, 0.999), st.sampled_from(["replace", "insert", "remove", "cut", "append"]), texts)
    return draw(st.lists(change, min_size=1, max_size=3))


def changed(sdp: str, changes: list[tuple[float, str, str]]) -> str:
    lines = sdp.split("\r\n")
    for at, action, text in changes:
        index = int(at * len(lines))
        match action:
            case "replace":
                lines[index] = text
            case "insert":
                lines.insert(index, text)
            case "remove" if len(lines) > 1:
                del lines[index]
            case "cut":
                lines[index] = lines[index][: len(lines[index]) // 2]
            case _:
                lines[index] += text
    return "\r\n".join(lines)


class World:
    """A server with a neighbour's call, on one event loop; it does not run in a thread, since Hypothesis watches `random`."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._ids = itertools.count()
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)

    async def _open(self) -> None:
        self.server = LocalServer(synthetic_engines(["where is my order"]), ObedientBrain())
        await self.server.start()
        self.http = aiohttp.ClientSession()
        self.neighbour = await self._call()
        await self.neighbour.wait("session.created")
        self.neighbour.speak(tone(400, 48_000))
        await self.neighbour.wait("response.done")
        self.tasks = len(asyncio.all_tasks())

    async def _call(self) -> Caller:
        caller = Caller()
        await caller.accept(await self._post_offer(await caller.offer()))
        return caller

    async def _post_offer(self, sdp: str) -> str:
        headers = {"Content-Type": "application/sdp"}
        async with self.http.post(f"{self.server.base_url}/realtime/calls", data=sdp, headers=headers) as answer:
            assert answer.status == 201
            return await answer.text()

    async def socket(self, frames: list[str | bytes], query: str) -> None:
        """Send frames, then an event that is refused with its id: all others were handled, and the session lives."""
        marker = f"marker_{next(self._ids)}"
        async with self.http.ws_connect(f"{self.server.base_url}/realtime?{query}") as connection:
            for frame in frames:
                await (connection.send_bytes(frame) if isinstance(frame, bytes) else connection.send_str(frame))
            await connection.send_json({"type": "none", "event_id": marker})
            async with asyncio.timeout(SECONDS):
                while check(await connection.receive_json()) != marker:
                    pass
        await until(lambda: self.server.sessions == [])

    async def channel(self, frames: list[str | bytes]) -> None:
        """Send frames on the data channel of a call."""
        caller = await self._call()
        try:
            await caller.wait("session.created")
            for frame in frames:
                caller.channel.send(frame)
            caller.send({"type": "none", "event_id": "marker"})
            await caller.until(lambda: [event for event in caller.events if check(event) == "marker"])
        finally:
            await caller.close()
        await until(lambda: len([call for call in self.server.calls if call.state != "ended"]) == 1)

    async def post(self, path: str, body: bytes, kind: str) -> None:
        headers = {"Content-Type": kind}
        async with self.http.post(f"{self.server.base_url}{path}", data=body, headers=headers) as answer:
            data = await answer.read()
            assert answer.status < 500, data
            if answer.status >= 400:
                assert json.loads(data)["error"]["message"]

    async def offer(self, changes: list[tuple[float, str, str]]) -> None:
        caller = Caller()
        try:
            offer = changed(await caller.offer(), changes).encode()
            headers = {"Content-Type": "application/sdp"}
            url = f"{self.server.base_url}/realtime/calls"
            async with self.http.post(url, data=offer, headers=headers) as answer:
                data = await answer.read()
                assert answer.status in {201, 400}, data
                if answer.status == 400:
                    assert json.loads(data)["error"]["message"]
                    return
                call_id = answer.headers["Location"].rpartition("/")[2]
            async with self.http.post(f"{url}/{call_id}/hangup") as answer:
                assert answer.status == 200
        finally:
            await caller.close()

    async def _close(self) -> None:
        await until(lambda: len(asyncio.all_tasks()) <= self.tasks + 1, "the tasks of the other clients have ended")
        before = len([event for event in self.neighbour.events if event["type"] == "response.done"])
        self.neighbour.heard.clear()
        self.neighbour.speak(tone(400, 48_000))
        done = await self.neighbour.wait("response.done", count=before + 1)
        assert done["response"]["status"] == "completed"
        await self.neighbour.hears_sound()
        for event in self.neighbour.events:
            check(event)
        await self.neighbour.close()
        await self.http.close()
        await self.server.stop()

    def close(self) -> None:
        try:
            self.run(self._close())
        finally:
            self._runner.close()


def check(event: dict[str, Any]) -> str | None:
    """Check one server event; return the client's event id of a refusal."""
    check_event(event)
    if event["type"] != "error":
        return None
    assert event["error"]["type"] != "server_error", event
    found: str | None = event["error"]["event_id"]
    return found


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.WARNING)
    world = World()
    try:
        yield world
    finally:
        world.close()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_arbitrary_events_on_a_websocket(world: World) -> None:
    """Each event is handled or refused in the protocol's shape, and the session takes the next one."""

    @settings(max_examples=EFFORT)
    @given(st.lists(FRAMES, min_size=1, max_size=6), st.sampled_from(["model=m", "intent=transcription&model=m"]))
    def attack(frames: list[str | bytes], query: str) -> None:
        world.run(world.socket(frames, query))

    attack()


def test_arbitrary_events_on_a_data_channel(world: World) -> None:
    """The same on the data channel of a call: its media connection stays."""

    @settings(max_examples=EFFORT // 10)
    @given(st.lists(FRAMES.filter(len), min_size=5, max_size=40))
    def attack(frames: list[str | bytes]) -> None:
        world.run(world.channel(frames))

    attack()


def test_arbitrary_bodies(world: World) -> None:
    """Each request is answered below 500; a refusal has a message in the protocol's shape."""

    @settings(max_examples=EFFORT)
    @given(requests())
    def attack(request: tuple[str, bytes, str]) -> None:
        world.run(world.post(*request))

    attack()


def test_arbitrary_offers(world: World) -> None:
    """An offer with changed lines is answered or refused, and nothing of it stays."""

    @settings(max_examples=EFFORT // 2)
    @example([(0.6875, "replace", "a=mid:")])  # the group of the offer then names no m-line
    @given(line_changes())
    def attack(changes: list[tuple[float, str, str]]) -> None:
        world.run(world.offer(changes))

    attack()
