"""Fault injection of the local server on real connections, and the official client in every harmless variant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agentfield_local.brain import ScriptedBrain
from agentfield_local.brain.protocol import CallFunction, Speak
from agentfield_local.faults.behaviour import Behaviour, DisconnectFaults, RefusalShape
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS, HARMLESS_VARIANTS
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import silence, tone
from support.providers.local_server import Caller, FakeClock, b64, check_event
from support.waiting import until

TOOL = {"type": "function", "name": "find_order", "description": "Finds an order", "parameters": {}}
SESSION: dict[str, Any] = {
    "type": "realtime",
    "tools": [TOOL],
    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
}
TURN = b64(tone(300, 24_000) + silence(700, 24_000))


@asynccontextmanager
async def serving(behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    brain = ScriptedBrain(
        [[Speak("One moment."), CallFunction("find_order", '{"order_id": 427}')], [Speak("It was shipped.")]]
    )
    engines = synthetic_engines(["where is my order"])
    async with (
        LocalServer(engines, brain, behaviour=behaviour, key="sk-test", **options) as server,
        AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0) as client,
    ):
        yield server, client


@asynccontextmanager
async def calling(client: AsyncOpenAI) -> AsyncIterator[tuple[Caller, str]]:
    caller = Caller()
    try:
        answer = await client.realtime.calls.with_raw_response.create(
            sdp=await caller.offer(),
            session=SESSION,  # type: ignore[arg-type]
        )
        await caller.accept(answer.text)
        yield caller, answer.headers["location"].rpartition("/")[2].partition("?")[0]
    finally:
        await caller.close()


class Reader:
    """Reads a connection of the official client, checks the type of every event, and drops duplicates."""

    def __init__(self, connection: Any, behaviour: Behaviour) -> None:
        self._connection = connection
        self._lenient = behaviour.unknown_events
        self.seen: dict[str, dict[str, Any]] = {}

    async def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Return all events of a type once `count` have arrived."""
        async with asyncio.timeout(60):
            while len(found := self.of(kind)) < count:
                event = json.loads(await self._connection.recv_bytes())
                if event["type"] != "response.mood.updated" or not self._lenient:
                    check_event(event)
                self.seen.setdefault(event["event_id"], event)
        return found

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.seen.values() if event["type"] == kind]


async def converse(connection: Any, reader: Reader) -> None:
    """Run a spoken turn with a function call, its output, and the reply about it."""
    (done,) = await reader.until("response.done")
    (call,) = [item for item in done["response"]["output"] if item["type"] == "function_call"]
    assert (call["name"], call["arguments"], call["status"]) == ("find_order", '{"order_id": 427}', "completed")
    output: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "{}"}
    await connection.conversation.item.create(item=output)
    await connection.response.create()
    assert (await reader.until("response.done", 2))[1]["response"]["status"] == "completed"
    said = [event["transcript"] for event in reader.of("response.output_audio_transcript.done")]
    assert said == ["One moment.", "It was shipped."]
    kind = "conversation.item.input_audio_transcription.completed"
    assert (await reader.until(kind))[0]["transcript"] == "where is my order"


# the official client's types have the current names of the events only
@pytest.mark.parametrize("name", sorted(HARMLESS_VARIANTS - {"event_names_beta"}))
async def test_the_official_client_works_with_every_harmless_variant(name: str) -> None:
    """A WebSocket session with speech, a tool call and its answer has the same course in every harmless variant."""
    behaviour = BEHAVIOUR_VARIANTS[name]
    async with serving(behaviour) as (_, client), client.realtime.connect(model="m") as connection:
        reader = Reader(connection, behaviour)
        await connection.session.update(session=SESSION)  # type: ignore[arg-type]
        await reader.until("session.updated")
        await connection.input_audio_buffer.append(audio=TURN)
        await converse(connection, reader)
        await connection.input_audio_buffer.clear()
        await connection.input_audio_buffer.commit()
        (error,) = await reader.until("error")
        assert error["error"]["code"] == "input_audio_buffer_commit_empty"


@pytest.mark.parametrize(
    "name", ["unknown_call_window", "sideband_created_never", "duplicate_events", "location_with_query"]
)
async def test_the_official_client_has_a_call_with_a_sideband(name: str) -> None:
    """`calls.create`, a sideband that answers the tool call, audio for the caller, and `calls.hangup`."""
    behaviour = BEHAVIOUR_VARIANTS[name]
    clock = FakeClock()
    async with serving(behaviour, clock=clock) as (server, client), calling(client) as (caller, call_id):
        if behaviour.unknown_call_ms:
            with pytest.raises(InvalidStatus) as unknown:
                await client.realtime.connect(call_id=call_id).enter()
            assert unknown.value.response.status_code == 404
            clock.advance(behaviour.unknown_call_ms / 1000)
        async with client.realtime.connect(call_id=call_id) as sideband:
            reader = Reader(sideband, behaviour)
            await sideband.session.update(session=SESSION)  # type: ignore[arg-type]
            await reader.until("session.updated")
            created = reader.of("session.created")
            assert len(created) == (0 if behaviour.sideband_created == "never" else 1)
            await caller.wait("session.created")
            caller.speak(tone(400, 48_000))
            await converse(sideband, reader)
            await caller.hears_sound()
            await client.realtime.calls.hangup(call_id)
            async with asyncio.timeout(60):
                await caller.closed.wait()
        assert server.calls[0].end_reason == "hangup"


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("refuse_400", openai.BadRequestError, "invalid_value"),
        ("refuse_401", openai.AuthenticationError, "invalid_api_key"),
        ("refuse_402", openai.APIStatusError, "credit_balance_exhausted"),
        ("refuse_403", openai.PermissionDeniedError, "account_deactivated"),
        ("refuse_429_rate", openai.RateLimitError, "rate_limit_exceeded"),
        ("refuse_502_html", openai.InternalServerError, None),
        ("refuse_503", openai.InternalServerError, "overloaded"),
        ("refuse_504", openai.InternalServerError, None),
    ],
)
async def test_refusals_have_the_configured_shape(
    name: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    """Status, code, `Retry-After` and HTML body are the same for calls and before a WebSocket upgrade."""
    behaviour = BEHAVIOUR_VARIANTS[name]
    async with serving(behaviour) as (_, client):
        with pytest.raises(error) as call:
            await client.realtime.calls.create(sdp="v=0\r\n")
        with pytest.raises(InvalidStatus) as socket:
            await client.realtime.connect(model="m").enter()
        assert call.value.status_code == socket.value.response.status_code == behaviour.refuse_calls
        assert call.value.code == code
        for headers in (call.value.response.headers, socket.value.response.headers):
            assert headers.get("Retry-After") == (behaviour.refuse.retry_after and str(behaviour.refuse.retry_after))
            assert headers["Content-Type"].startswith("text/html" if behaviour.refuse.html else "application/json")


async def test_each_endpoint_can_be_refused_separately_and_temporarily() -> None:
    """Every endpoint of the setting refuses; a new behaviour restarts the count."""
    paths = {
        "sideband": ("GET", "/realtime?call_id=rtc_x"),
        "hangup": ("POST", "/realtime/calls/rtc_x/hangup"),
        "speech": ("POST", "/audio/speech"),
        "transcriptions": ("POST", "/audio/transcriptions"),
        "secrets": ("POST", "/realtime/client_secrets"),
        "calls": ("POST", "/realtime/calls"),
        "socket": ("GET", "/realtime?model=m"),
    }
    async with serving(Behaviour()) as (server, _), aiohttp.ClientSession() as http:

        async def status(place: str) -> int:
            method, path = paths[place]
            headers = {"Authorization": "Bearer sk-test"}
            async with http.request(method, f"{server.base_url}{path}", headers=headers) as response:
                return response.status

        for place in paths:
            server.behaviour = Behaviour(
                refuse_calls=504,
                refuse_count=1,
                refuse=RefusalShape(at=frozenset({place})),  # type: ignore[arg-type]
            )
            others = [await status(other) for other in paths if other != place]
            assert 504 not in others
            assert [await status(place), await status(place)].count(504) == 1


async def read_to_the_end(connection: Any) -> tuple[list[str | bytes], ConnectionClosed]:
    """Return every frame until the socket closes, and how it closed."""
    frames: list[str | bytes] = []
    try:
        async with asyncio.timeout(60):
            while True:
                frames.append(await connection._connection.recv())
    except ConnectionClosed as closed:
        return frames, closed


@pytest.mark.parametrize("code", [1001, 1006, 1008, 1011])
async def test_a_websocket_is_dropped_in_mid_stream(code: Any) -> None:
    """After the configured number of events the socket closes with the code, or without a close frame; the next stays open."""
    behaviour = Behaviour(disconnects=DisconnectFaults(drop_after=3, drop_code=code))
    async with serving(behaviour) as (server, client):
        async with client.realtime.connect(model="m") as connection:
            for _ in range(3):
                await connection.input_audio_buffer.clear()
            frames, closed = await read_to_the_end(connection)
            assert len(frames) == 3
            assert (1006 if closed.rcvd is None else closed.rcvd.code) == code
        await until(lambda: server.sessions == [])
        async with client.realtime.connect(model="m") as connection:
            for _ in range(4):
                await connection.input_audio_buffer.clear()
            reader = Reader(connection, behaviour)
            await reader.until("input_audio_buffer.cleared", 4)


@pytest.mark.parametrize("kind", ["text", "binary", "array", "typeless"])
async def test_one_invalid_frame_is_sent(kind: Any) -> None:
    """An invalid frame is sent between complete events."""
    behaviour = Behaviour(disconnects=DisconnectFaults(garbage=kind, garbage_after=2))
    async with serving(behaviour) as (_, client), client.realtime.connect(model="m") as connection:
        await connection.input_audio_buffer.clear()
        async with asyncio.timeout(60):
            frames = [await connection._connection.recv() for _ in range(4)]
        kinds = [_type_of(frame) for frame in frames]
        assert kinds == ["session.created", "conversation.created", None, "input_audio_buffer.cleared"]


def _type_of(frame: str | bytes) -> Any:
    try:
        found = json.loads(frame)
    except ValueError:
        return None
    return found.get("type") if isinstance(found, Mapping) else None


@pytest.mark.parametrize("notified", [False, True])
async def test_a_caller_disconnects_after_some_events(notified: bool) -> None:
    """After the configured number of events the caller's connection ends; the sideband is closed only if so configured."""
    behaviour = Behaviour(disconnects=DisconnectFaults(vanish_after=4), vanish_notifies_sideband=notified)
    async with (
        serving(behaviour) as (server, client),
        calling(client) as (caller, call_id),
        client.realtime.connect(call_id=call_id) as sideband,
    ):
        reader = Reader(sideband, behaviour)
        await caller.wait("conversation.created")
        await sideband.input_audio_buffer.clear()
        await caller.wait("input_audio_buffer.cleared")
        await sideband.input_audio_buffer.clear()
        await until(lambda: server.calls[0].state == "ended")
        assert server.calls[0].end_reason == "peer_gone"
        if notified:
            await read_to_the_end(sideband)
        else:
            await reader.until("input_audio_buffer.cleared", 2)
            await client.realtime.calls.hangup(call_id)


async def test_verbatim_text_can_be_paraphrased() -> None:
    """With paraphrase_says, the reply differs from the verbatim text."""
    async with (
        serving(Behaviour(paraphrase_says=True)) as (_, client),
        client.realtime.connect(model="m") as connection,
    ):
        say: Any = {"instructions": "Speak exactly this.\n<say>Hello, your order was found.</say>", "input": []}
        await connection.response.create(response=say)
        reader = Reader(connection, Behaviour())
        (done,) = await reader.until("response.output_audio_transcript.done")
        assert done["transcript"] == "Sure, Hi, your purchase was located."
        assert (await reader.until("response.done"))[0]["response"]["status"] == "completed"


async def test_a_session_expires_by_the_injected_clock() -> None:
    """The session ends when the test clock passes the configured lifetime."""
    clock = FakeClock()
    behaviour = Behaviour(session_seconds=120)
    async with serving(behaviour, clock=clock) as (_, client), client.realtime.connect(model="m") as connection:
        reader = Reader(connection, behaviour)
        (created,) = await reader.until("session.created")
        assert created["session"]["expires_at"] == int(clock.now()) + 120
        clock.advance(120)
        (error,) = await reader.until("error")
        assert error["error"]["code"] == "session_expired"
        await read_to_the_end(connection)
