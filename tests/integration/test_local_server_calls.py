"""WebRTC calls of the local server, as the official client and a plain WebRTC peer see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from local_server_kit import Caller, check_event, silence, tone
from openai import AsyncOpenAI

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain import ObedientBrain, ScriptedBrain
from agentfield_local.brain.protocol import Brain, Say
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import synthetic_engines

SESSION: dict[str, Any] = {
    "type": "realtime",
    "model": "gpt-realtime",
    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
}


@asynccontextmanager
async def serving(brain: Brain | None = None, **options: Any) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    async with LocalServer(synthetic_engines(), brain or ObedientBrain(), key="sk-test", **options) as server:
        client = AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0)
        async with client:
            yield server, client


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


async def test_a_call_carries_a_spoken_turn_and_its_reply_and_is_hung_up() -> None:
    """The official client creates a call; the caller speaks, hears the reply, a sideband sees it all and hangs up."""
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
            async with asyncio.timeout(10):
                await caller.closed.wait()
        (call,) = server.calls
        assert (call.id, call.state, call.end_reason, call.hangups) == (call_id, "ended", "hangup", 1)
        assert call.session_payload == SESSION
        with pytest.raises(openai.NotFoundError):
            await client.realtime.calls.hangup(call_id)
    for event in caller.events:
        check_event(event)
