"""WebSocket sessions of the local server with the official client, and the handshake of third-party clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from websockets.exceptions import ConnectionClosed

from agentfield_local.audio.pcm import alaw_encode, ulaw_encode
from agentfield_local.audio.resampler import Resampler
from agentfield_local.brain import ObedientBrain, ScriptedBrain
from agentfield_local.brain.protocol import Brain, CallFunction, Speak
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import silence, tone
from support.paths import SPEECH_FIXTURES
from support.providers.local_server import FakeClock, b64, check_event
from support.waiting import until
from support.word_error_rate import word_error_rate

FIXTURES = SPEECH_FIXTURES
TEXTS: Any = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}


@asynccontextmanager
async def serving(
    brain: Brain | None = None, *, engines: SpeechEngines | None = None, key: str | None = "sk-test", **options: Any
) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    server = LocalServer(
        engines or synthetic_engines(["where is my order"]), brain or ObedientBrain(), key=key, **options
    )
    async with server, AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0) as client:
        yield server, client


async def read(connection: Any, kind: str) -> tuple[RealtimeServerEvent, list[RealtimeServerEvent]]:
    """Return the next event of a type, and all events before it."""
    passed: list[RealtimeServerEvent] = []
    async with asyncio.timeout(60):
        while True:
            event = await connection.recv()
            check_event(event.model_dump(mode="json", exclude_unset=True))
            if event.type == kind:
                return event, passed
            passed.append(event)


async def test_the_official_client_has_a_spoken_turn() -> None:
    """After an update and appended audio, the words and the audio of the reply arrive, with consistent usage."""
    async with serving() as (_, client), client.realtime.connect(model="gpt-realtime") as connection:
        created, _ = await read(connection, "session.created")
        assert created.session.model == "gpt-realtime"  # type: ignore[union-attr]
        await connection.session.update(session=TEXTS)
        await read(connection, "session.updated")
        await connection.input_audio_buffer.append(audio=b64(tone(500, 24_000) + silence(700, 24_000)))
        done, passed = await read(connection, "response.done")
        assert done.response.status == "completed"  # type: ignore[union-attr]
        words = [e.transcript for e in passed if e.type == "conversation.item.input_audio_transcription.completed"]
        assert words == ["where is my order"]
        audio = [e.delta for e in passed if e.type == "response.output_audio.delta"]
        assert sum(len(piece) for piece in audio) > 10_000


async def test_the_official_client_answers_a_function_call() -> None:
    """The call is complete, its output is accepted, and the next response speaks it."""
    brain = ScriptedBrain([[CallFunction("find_order", '{"order_id": 427}')], [Speak("It was shipped.")]])
    tool = {"type": "function", "name": "find_order", "description": "Finds an order", "parameters": {}}
    async with serving(brain) as (_, client), client.realtime.connect(model="gpt-realtime") as connection:
        session: Any = {"type": "realtime", "tools": [tool], "output_modalities": ["text"]}
        await connection.session.update(session=session)
        content: Any = [{"type": "input_text", "text": "where is order 427"}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create()
        done, _ = await read(connection, "response.done")
        call = done.response.output[0]  # type: ignore[union-attr,index]
        assert (call.name, json.loads(call.arguments)) == ("find_order", {"order_id": 427})  # type: ignore[union-attr]
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "{}"}  # type: ignore[union-attr]
        await connection.conversation.item.create(item=output)
        await connection.response.create()
        text, _ = await read(connection, "response.output_text.done")
        assert text.text == "It was shipped."  # type: ignore[union-attr]


async def test_speech_during_a_slow_reply_cancels_it() -> None:
    """On barge-in during generation, the response is cancelled."""
    brain = ScriptedBrain([[Speak("This is a very long answer that goes on for quite a while, and then some more.")]])
    behaviour = Behaviour(generation_speed=2.0)
    async with serving(brain, behaviour=behaviour) as (_, client), client.realtime.connect(model="m") as connection:
        await connection.input_audio_buffer.append(audio=b64(tone(300, 24_000) + silence(700, 24_000)))
        await read(connection, "response.output_audio.delta")
        await connection.input_audio_buffer.append(audio=b64(tone(300, 24_000)))
        done, _ = await read(connection, "response.done")
        details = done.response.status_details  # type: ignore[union-attr]
        assert details is not None
        assert details.reason == "turn_detected"


async def test_a_client_may_name_its_model_in_session_update() -> None:
    """Without query and subprotocol, the first session.update names the model; partial updates are merged."""
    async with (
        serving(key=None) as (server, _),
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.base_url}/realtime") as socket,
    ):
        parts: list[dict[str, Any]] = [{"model": "gpt-realtime"}, {"instructions": "Be kind."}, {"tools": []}]
        for session in parts:
            await socket.send_json({"type": "session.update", "session": {"type": "realtime", **session}})
        seen = [await socket.receive_json(timeout=10) for _ in range(5)]
        assert [event["type"] for event in seen][2:] == ["session.updated"] * 3
        assert seen[-1]["session"]["model"] == "gpt-realtime"
        assert seen[-1]["session"]["instructions"] == "Be kind."


async def test_a_browser_socket_sends_its_key_as_a_subprotocol() -> None:
    """The key in the subprotocol is accepted and `realtime` selected; a wrong key is refused before the upgrade."""
    async with serving() as (server, _), aiohttp.ClientSession() as http:
        url = f"{server.base_url}/realtime?model=m"
        offered = ("realtime", "openai-insecure-api-key.sk-test", "openai-agents-sdk.0.20.0")
        async with http.ws_connect(url, protocols=offered, compress=15) as socket:
            assert socket.protocol == "realtime"
            assert (await socket.receive_json(timeout=10))["type"] == "session.created"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(url, protocols=("realtime", "openai-insecure-api-key.sk-wrong"))
        assert refused.value.status == 401


@pytest.mark.parametrize(
    ("query", "status"), [("model=m&call_id=rtc_x", 400), ("call_id=rtc_x", 404), ("intent=conversation", 400)]
)
async def test_invalid_queries_are_refused_before_the_upgrade(query: str, status: int) -> None:
    """Contradictory queries, an unknown call and an unknown intent are HTTP errors."""
    async with serving(key=None) as (server, _), aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{server.base_url}/realtime?{query}")
        assert refused.value.status == status
        async with http.get(f"{server.base_url}/realtime?model=m") as response:
            assert response.status == 400


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_telephone_audio_goes_both_ways(kind: str) -> None:
    """G.711 input is transcribed, and G.711 output has one byte per sample at 8 kHz."""
    audio_format = {"type": kind}
    session = {
        "type": "realtime",
        "audio": {"input": {"format": audio_format}, "output": {"format": audio_format}},
    }
    encode = ulaw_encode if kind == "audio/pcmu" else alaw_encode
    brain = ScriptedBrain([[Speak("twenty characters!!!")]])
    async with serving(brain) as (_, client), client.realtime.connect(model="m") as connection:
        await connection.session.update(session=session)  # type: ignore[arg-type]
        await connection.input_audio_buffer.append(audio=b64(encode(tone(400, 8_000) + silence(700, 8_000))))
        _, passed = await read(connection, "response.done")
        assert "input_audio_buffer.speech_stopped" in [event.type for event in passed]
        audio = [event.delta for event in passed if event.type == "response.output_audio.delta"]
        assert 7_000 < sum(len(piece) for piece in audio) * 3 / 4 < 9_600


async def test_a_session_expires_after_an_hour() -> None:
    """After an hour the client gets session_expired, and the socket is closed."""
    clock = FakeClock()
    async with serving(clock=clock) as (server, client), client.realtime.connect(model="m") as connection:
        await read(connection, "session.created")
        clock.advance(3600)
        error, _ = await read(connection, "error")
        assert error.error.code == "session_expired"  # type: ignore[union-attr]
        with pytest.raises(ConnectionClosed):
            await read(connection, "never")
        await until(lambda: server.sessions == [])


async def test_binary_frames_and_oversized_messages() -> None:
    """Binary frames and invalid JSON lead to error events; an oversized message closes only its own socket."""
    async with serving(key=None) as (server, client), aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{server.base_url}/realtime?model=m") as socket:
            await socket.send_bytes(b"\xff\xfe\x00")
            await socket.send_str("{")
            seen = [await socket.receive_json(timeout=10) for _ in range(4)]
            assert [event["type"] for event in seen][2:] == ["error", "error"]
            with contextlib.suppress(ConnectionError):
                await socket.send_str("x" * (25 * 1024 * 1024))
            assert (await socket.receive(timeout=10)).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
        async with client.realtime.connect(model="m") as connection:
            await read(connection, "session.created")


async def test_a_client_secret_expires() -> None:
    """A secret opens sessions until it expires, and is refused elsewhere."""
    clock = FakeClock()
    async with serving(clock=clock) as (server, client):
        expires: Any = {"anchor": "created_at", "seconds": 60}
        secret = await client.realtime.client_secrets.create(session=TEXTS, expires_after=expires)
        assert secret.expires_at == int(clock.now()) + 60
        async with AsyncOpenAI(api_key=secret.value, base_url=server.base_url, max_retries=0) as browser:
            async with browser.realtime.connect(model="m") as connection:
                created, _ = await read(connection, "session.created")
                assert created.session.audio.input.transcription.model == "whisper-1"  # type: ignore[union-attr]
            with pytest.raises(openai.AuthenticationError):
                await browser.realtime.calls.hangup("rtc_x")
            clock.advance(61)
            with pytest.raises(Exception, match="401"):
                async with browser.realtime.connect(model="m"):
                    pass


async def test_stopping_the_server_closes_its_sockets() -> None:
    """Stopping the server closes every client's socket and leaves no task."""
    before = asyncio.all_tasks()
    server = LocalServer(synthetic_engines(), ObedientBrain())
    await server.start()
    async with aiohttp.ClientSession() as http:
        socket = await http.ws_connect(f"{server.base_url}/realtime?model=m")
        await socket.receive_json(timeout=10)
        await server.stop()
        while (await socket.receive(timeout=10)).type == aiohttp.WSMsgType.TEXT:
            pass
        assert socket.closed
    assert asyncio.all_tasks() <= before


def recording(pcm: bytes, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm)
    return out.getvalue()


async def test_a_recording_is_transcribed_and_a_text_file_is_refused() -> None:
    """The transcriptions call of the official client works; a file that is not a recording is a 400."""
    async with serving() as (_, client):
        file = ("turn.wav", recording(tone(500, 44_100), 44_100))
        assert (await client.audio.transcriptions.create(model="whisper-1", file=file)).text == "where is my order"
        for bad in (b"hello", b"", b"RIFF....WAVEnothing", recording(b"", 16_000)[:20]):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.audio.transcriptions.create(model="whisper-1", file=("x.wav", bad))
            assert refused.value.param == "file"


@pytest.mark.speech
@pytest.mark.realtime
async def test_real_speech_is_transcribed_and_answered() -> None:
    """With the default engines, a human clip is transcribed, and the speech of the reply can be transcribed too."""
    with wave.open(str(FIXTURES / "goforward.wav")) as file:
        pcm = file.readframes(file.getnframes())
    engines = await asyncio.to_thread(load_engines, "default")
    brain = ScriptedBrain([[Speak("Your refund was approved by a manager.")]])
    async with serving(brain, engines=engines) as (_, client), client.realtime.connect(model="m") as connection:
        await connection.session.update(session=TEXTS)
        upsampled = Resampler(16_000, 24_000).feed(pcm)
        await connection.input_audio_buffer.append(audio=b64(upsampled + silence(1000, 24_000)))
        _, passed = await read(connection, "response.done")
        words = [e.transcript for e in passed if e.type == "conversation.item.input_audio_transcription.completed"]
        audio = b"".join(base64.b64decode(e.delta) for e in passed if e.type == "response.output_audio.delta")
        reply = await client.audio.transcriptions.create(model="m", file=("r.wav", recording(audio, 24_000)))
    pairs = [("go forward ten meters", words[0]), ("Your refund was approved by a manager", reply.text)]
    assert word_error_rate(pairs) <= 0.15
