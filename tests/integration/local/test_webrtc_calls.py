"""WebRTC calls of the local server, with the official client and a plain WebRTC peer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed

from agentfield_local.brain import ObedientBrain, ScriptedBrain
from agentfield_local.brain.protocol import Brain, Speak
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_local.webrtc.options import MediaOptions
from support.audio import tone
from support.providers.local_server import Caller, check_event
from support.waiting import until

SESSION: dict[str, Any] = {
    "type": "realtime",
    "model": "gpt-realtime",
    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
}


@asynccontextmanager
async def serving(brain: Brain | None = None, **options: Any) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    before = asyncio.all_tasks()
    async with LocalServer(synthetic_engines(), brain or ObedientBrain(), key="sk-test", **options) as server:
        client = AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0)
        async with client:
            yield server, client
    await until(lambda: asyncio.all_tasks() <= before)


@asynccontextmanager
async def calling(client: AsyncOpenAI, session: dict[str, Any] | None = None) -> AsyncIterator[tuple[Caller, str]]:
    caller = Caller()
    try:
        response = await client.realtime.calls.with_raw_response.create(
            sdp=await caller.offer(),
            session=session or SESSION,  # type: ignore[arg-type]
        )
        assert response.status_code == 201
        assert response.headers["content-type"].startswith("application/sdp")
        await caller.accept(response.text)
        await caller.wait("session.created")
        yield caller, response.headers["location"].rpartition("/")[2]
    finally:
        await caller.close()


async def closes(connection: Any) -> ConnectionClosed:
    """Wait until the server closes a WebSocket, and return the exception with its close code."""

    async def read_all() -> None:
        async with asyncio.timeout(60):
            while True:
                await connection.recv()

    with pytest.raises(ConnectionClosed) as closed:
        await read_all()
    return closed.value


async def test_a_call_carries_a_spoken_turn_and_its_reply_and_is_hung_up() -> None:
    """The official client creates a call; the caller speaks and hears the reply; a sideband gets all events and hangs up."""
    async with serving() as (server, client), calling(client) as (caller, call_id):
        async with client.realtime.connect(call_id=call_id) as sideband:
            assert (await sideband.recv()).type == "session.created"
            caller.speak(tone(600, 48_000))
            done = await caller.wait("response.done")
            assert done["response"]["status"] == "completed"
            await caller.hears_sound()
            await caller.wait("output_audio_buffer.stopped")
            seen = []
            async for event in sideband:
                seen.append(event.type)
                if event.type == "output_audio_buffer.stopped":
                    break
            assert "input_audio_buffer.speech_started" in seen
            assert "conversation.item.input_audio_transcription.completed" in seen
            assert "response.output_audio.delta" not in seen
            await client.realtime.calls.hangup(call_id)
            async with asyncio.timeout(60):
                await caller.closed.wait()
        (call,) = server.calls
        assert (call.id, call.state, call.end_reason, call.hangups) == (call_id, "ended", "hangup", 1)
        assert call.session_payload == SESSION
        with pytest.raises(openai.NotFoundError):
            await client.realtime.calls.hangup(call_id)
    for received in caller.events:
        check_event(received)


def objects_of_call(server: LocalServer) -> list[weakref.ref[Any]]:
    """Return weak references to what the latest call consists of: ours, and the peer connection of aiortc."""
    call = server.calls[-1]
    assert call.session is not None
    assert call.connection is not None
    peer = call.connection._connection
    transceivers = peer.getTransceivers()
    transports = [part.sender.transport for part in transceivers] + [peer.sctp.transport]
    owned = [call.session, call.session.conversation, call.connection, call.connection._leg, peer, peer.sctp]
    owned += [part for each in transceivers for part in (each, each.sender, each.receiver)]
    owned += [part for each in transports for part in (each, each.transport, each.transport.iceGatherer)]
    return [weakref.ref(part) for part in owned if part is not None]


@pytest.mark.parametrize("end", ["hangup", "caller"])
async def test_nothing_of_an_ended_call_stays(end: str) -> None:
    """Without any garbage collection, every object of a call is freed when it has ended, and every task has ended."""
    async with serving() as (server, client):
        for _ in range(4):
            gc.collect()
            gc.disable()
            try:
                async with calling(client) as (caller, call_id):
                    caller.speak(tone(400, 48_000))
                    await caller.wait("output_audio_buffer.stopped")
                    kept = objects_of_call(server)
                    if end == "hangup":
                        await client.realtime.calls.hangup(call_id)
                await until(lambda: server.calls[-1].state == "ended" and server.calls[-1].session is None)
                await until(lambda: not [ref() for ref in kept if ref() is not None], "everything is freed")  # noqa: B023
            finally:
                gc.enable()


async def test_speech_interrupts_the_reply() -> None:
    """On barge-in the reply is cleared during playback, and its item is truncated to what was heard."""
    brain = ScriptedBrain([[Speak("This is a very long answer that goes on and on and on for quite a while.")]])
    async with serving(brain) as (_, client), calling(client) as (caller, _):
        caller.speak(tone(400, 48_000))
        await caller.wait("output_audio_buffer.started")
        caller.speak(tone(400, 48_000))
        await caller.wait("output_audio_buffer.cleared")
        truncated = await caller.wait("conversation.item.truncated")
        kinds = [event["type"] for event in caller.events]
        assert kinds.index("output_audio_buffer.cleared") < kinds.index("conversation.item.truncated")
        done = await caller.wait("response.output_item.done")
        assert truncated["item_id"] == done["item"]["id"]
        await caller.wait("response.done", count=2)


async def test_a_sideband_is_not_notified_of_a_lost_caller() -> None:
    """The call has ended and its media is released, but the sideband stays; a new sideband finds no call; a hang-up works."""
    async with (
        serving() as (server, client),
        calling(client) as (caller, call_id),
        client.realtime.connect(call_id=call_id) as sideband,
    ):
        await sideband.recv()
        await caller.close()
        await until(lambda: server.calls[0].state == "ended")
        assert server.calls[0].end_reason == "peer_gone"
        await sideband.input_audio_buffer.clear()
        async with asyncio.timeout(60):
            while (await sideband.recv()).type != "input_audio_buffer.cleared":
                pass
        with pytest.raises(Exception, match="404"):
            async with client.realtime.connect(call_id=call_id):
                pass
        await client.realtime.calls.hangup(call_id)
        await closes(sideband)


async def test_a_sideband_can_be_closed_with_its_caller() -> None:
    """With vanish_notifies_sideband, the sideband is closed when the caller is lost."""
    behaviour = Behaviour(vanish_notifies_sideband=True)
    async with (
        serving(behaviour=behaviour) as (_, client),
        calling(client) as (caller, call_id),
        client.realtime.connect(call_id=call_id) as sideband,
    ):
        await caller.close()
        await closes(sideband)


async def test_a_lost_caller_without_sideband_ends_the_call() -> None:
    """Without a sideband, a call ends with its caller, and the server is idle."""
    async with serving() as (server, client), calling(client) as (caller, call_id):
        await caller.close()
        async with asyncio.timeout(60):
            await server.idle(0.05)
        with pytest.raises(openai.NotFoundError):
            await client.realtime.calls.hangup(call_id)


async def test_a_caller_who_never_connects_is_an_ice_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A call without a media connection ends: a hint is logged, and the sideband is closed with 4408."""
    async with serving(media=MediaOptions(connect_seconds=0.3)) as (server, client):
        caller = Caller()
        try:
            answer = await client.realtime.calls.with_raw_response.create(
                sdp=await caller.offer(),
                session=SESSION,  # type: ignore[arg-type]
            )
            call_id = answer.headers["location"].rpartition("/")[2]
            async with client.realtime.connect(call_id=call_id) as sideband:
                error = await closes(sideband)
            assert error.rcvd is not None
            assert (error.rcvd.code, error.rcvd.reason) == (4408, "ice_failed")
            assert (server.calls[0].state, server.calls[0].end_reason) == ("ended", "ice_failed")
            assert "--udp-ports" in caplog.text
        finally:
            await caller.close()


async def test_a_raw_offer_with_a_client_secret_opens_its_session() -> None:
    """A page posts plain SDP with an `ek_` key; the session has the configuration of the secret."""
    async with serving() as (server, client), aiohttp.ClientSession() as http:
        session: Any = {"type": "realtime", "instructions": "Be kind."}
        secret = await client.realtime.client_secrets.create(session=session)
        assert secret.value.startswith("ek_")
        caller = Caller()
        try:
            headers = {"Authorization": f"Bearer {secret.value}", "Content-Type": "application/sdp"}
            url = f"{server.base_url}/realtime/calls"
            async with http.post(url, data=await caller.offer(), headers=headers) as response:
                assert response.status == 201
                assert response.headers["Location"].startswith("/v1/realtime/calls/rtc_")
                await caller.accept(await response.text())
            created = await caller.wait("session.created")
            assert created["session"]["instructions"] == "Be kind."
        finally:
            await caller.close()


async def test_only_loopback_is_offered() -> None:
    """A server on loopback answers with candidates on 127.0.0.1 only."""
    async with serving() as (_, client):
        caller = Caller()
        try:
            answer = await client.realtime.calls.create(sdp=await caller.offer(), session=SESSION)  # type: ignore[arg-type]
            lines = [line for line in answer.text.splitlines() if line.startswith("a=candidate:")]
            assert lines
            assert {line.split()[4] for line in lines} == {"127.0.0.1"}
        finally:
            await caller.close()


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (401, openai.AuthenticationError, "invalid_api_key"),
        (404, openai.NotFoundError, "model_not_found"),
        (429, openai.RateLimitError, "insufficient_quota"),
        (500, openai.InternalServerError, "server_error"),
    ],
)
async def test_calls_can_be_refused(status: Any, error: type[openai.APIStatusError], code: str) -> None:
    """Injected refusals have the provider's error body, and stop after their count."""
    async with serving(behaviour=Behaviour(refuse_calls=status, refuse_count=1)) as (server, client):
        with pytest.raises(error) as caught:
            await client.realtime.calls.create(sdp="v=0\r\n", session=SESSION)  # type: ignore[arg-type]
        assert caught.value.code == code
        with pytest.raises(openai.BadRequestError):
            await client.realtime.calls.create(sdp="v=0\r\n", session=SESSION)  # type: ignore[arg-type]
        assert server.calls == []


async def test_invalid_sessions_and_offers_are_refused_with_the_field() -> None:
    """An invalid field, an unknown voice and an invalid offer are 400 with a code; the server stays usable."""
    async with serving() as (server, client):
        caller = Caller()
        try:
            offer = await caller.offer()
        finally:
            await caller.close()

        async def refused(sdp: str, session: Any) -> openai.BadRequestError:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.realtime.calls.create(sdp=sdp, session=session)
            return caught.value

        assert (await refused(offer, {"type": "realtime", "nonsense": 1})).param == "session.nonsense"
        voice = {"type": "realtime", "audio": {"output": {"voice": "darth"}}}
        assert (await refused(offer, voice)).param == "session.audio.output.voice"
        assert (await refused("hello", SESSION)).code == "invalid_offer"
        with pytest.raises(openai.APIStatusError) as too_large:
            await client.realtime.calls.create(sdp=offer + "a=x\r\n" * 15_000, session=SESSION)  # type: ignore[arg-type]
        assert too_large.value.status_code == 413
        assert (await refused(offer.replace("m=audio", "m=video"), SESSION)).code == "invalid_offer"
        await until(lambda: server.calls == [])


async def test_wrong_keys_origins_and_hosts_are_refused() -> None:
    """The answer is 401 without the key, and 403 for a page of another site and for a rebound host name."""
    async with serving() as (server, _), aiohttp.ClientSession() as http:
        url = f"{server.base_url}/realtime/calls"
        async with http.post(url, data="v=0") as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == "invalid_api_key"
        key = {"Authorization": "Bearer sk-test"}
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
            async with http.post(url, data="v=0", headers={**key, **headers}) as response:
                assert response.status == 403
        async with http.get(f"{server.url}/healthz") as response:
            assert response.status == 200
        assert all("authorization" not in {name.lower() for name in record.headers} for record in server.requests)
