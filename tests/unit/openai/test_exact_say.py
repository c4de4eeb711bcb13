"""Exact say: the speech request, the heard part of a text, and an interruption during generation."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import SpeechCreateParams
from pydantic import SecretStr

from agentfield.adapterkit.http import http_session
from agentfield.errors import ProviderError
from agentfield.realtime.commands import CancelReplyCommand, SayCommand
from agentfield.realtime.events import ProviderFault, ReplyAudio, ReplyEnded, ReplyStarted, SessionClosed
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.speech_endpoint import SpeechEndpoint, SpeechVoice, heard_text, split_text
from agentfield_openai.websocket_adapter import WebSocketAdapter
from support.providers.openai import CANARY, PCM, Seen, check_client_event, config, misfit
from support.waiting import until

TEXT = "one two three four five six seven eight nine ten eleven twelve"
SECOND = bytes(PCM.size(1000))


class Peer:
    """A server with a speech endpoint that sends one second of audio and waits, and a conversation that obeys."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()
        self.answer = web.Response
        self.sockets: list[web.WebSocketResponse] = []
        self.url = ""

    async def speech(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        try:
            await response.write(SECOND[:-1])
            await response.write(SECOND[-1:])
            await self.go_on.wait()
            await response.write(SECOND)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise
        return response

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async def conversation(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            event = json.loads(message.data)
            check_client_event(event)
            if event["type"] == "session.update":
                await socket.send_json({"type": "session.updated", "session": event["session"]})
            else:
                self.items.append(event)
        return socket

    @property
    def provider(self) -> RealtimeProvider:
        return RealtimeProvider(title="OpenAI", base_url=self.url, key=SecretStr(CANARY), key_setting="OPENAI_API_KEY")


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    fake = Peer()
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/audio/speech", fake.speech),
            web.post("/page/audio/speech", fake.page),
            web.get("/v1/realtime", fake.conversation),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield fake
    finally:
        await runner.cleanup()


@asynccontextmanager
async def exact(fake: Peer, **options: Any) -> AsyncIterator[Seen]:
    async with http_session() as http:
        adapter = WebSocketAdapter(fake.provider, http, logging.getLogger("test"), time.time)
        session = await adapter.open(config(say="exact", options=options), PCM)
        seen = Seen(session)
        try:
            yield seen
        finally:
            await session.close()
            async with asyncio.timeout(60):
                await seen.task
        assert isinstance(seen.events[-1], SessionClosed)


async def speaking(seen: Seen) -> ReplyStarted:
    """Say the text and wait for its first second."""
    await seen.send(SayCommand(id="spk_1", text=TEXT))
    await until(lambda: sum(len(e.data) for e in seen.events if isinstance(e, ReplyAudio)) == len(SECOND))
    return await seen.wait(ReplyStarted)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "model", "voice"),
    [
        ({}, "gpt-4o-mini-tts", "marin"),
        (
            {"speech_model": "tts-1", "speech_voice": "nova", "speech_instructions": "Calm.", "speed": 1.2},
            "tts-1",
            "nova",
        ),
    ],
)
async def test_the_speech_request_fits_the_official_type(options: dict[str, Any], model: str, voice: str) -> None:
    """Model and voice come from the session or its options; the audio is pcm in whole samples."""
    async with peer() as fake, exact(fake, **options) as seen:
        await speaking(seen)
        (body,) = fake.bodies
        assert misfit(body, SpeechCreateParams) is None
        assert (body["model"], body["voice"], body["input"], body["response_format"]) == (model, voice, TEXT, "pcm")
        assert all(len(e.data) % 2 == 0 for e in seen.events if isinstance(e, ReplyAudio))
        fake.go_on.set()
        assert (await seen.wait(ReplyEnded)).audio_ms == 2000


async def test_an_interrupted_say_keeps_its_heard_part() -> None:
    """The request is cancelled, the reply ends once with `asked`, and the history gets only the heard words."""
    async with peer() as fake, exact(fake) as seen:
        started = await speaking(seen)
        await seen.send(
            CancelReplyCommand(reply=started.reply, heard_ms=600), CancelReplyCommand(reply=started.reply, heard_ms=100)
        )
        ended = await seen.wait(ReplyEnded)
        assert (ended.command, ended.status, ended.why, ended.audio_ms) == ("spk_1", "cancelled", "asked", 1000)
        assert TEXT.startswith(ended.text)
        assert len(ended.text) < len(TEXT)
        async with asyncio.timeout(60):
            await fake.left.wait()
        await until(lambda: len(fake.items) == 1)
        (part,) = fake.items[0]["item"]["content"]
        assert part["type"] == "output_text"
        assert part["text"]
        assert ended.text.startswith(part["text"])
        await seen.send(SayCommand(id="spk_2", text="Next."))
        await until(lambda: len(fake.bodies) == 2)


async def test_a_concurrent_say_is_refused() -> None:
    """One text is spoken at a time; the refusal names the command and is retryable."""
    async with peer() as fake, exact(fake) as seen:
        await speaking(seen)
        await seen.send(SayCommand(id="spk_2", text="Hi."))
        fault = await seen.wait(ProviderFault)
        assert (fault.command, fault.retry) == ("spk_2", True)
        fake.go_on.set()
        await seen.wait(ReplyEnded)


@pytest.mark.parametrize("how", ["provider", "we"])
async def test_a_closed_session_ends_its_say(how: str) -> None:
    """The reply ends as failed before the session does, and the request is cancelled."""
    async with peer() as fake, exact(fake) as seen:
        await speaking(seen)
        await (fake.sockets[0].close(code=1012) if how == "provider" else seen.session.close())
        ended = await seen.wait(ReplyEnded)
        assert (ended.status, ended.why) == ("failed", "session_closed")
        closed = await seen.wait(SessionClosed)
        assert closed.retry is (how == "provider")
        async with asyncio.timeout(60):
            await fake.left.wait()


async def test_a_response_without_audio_is_refused() -> None:
    """A text response, such as the page of a proxy, is not played to the caller."""
    async with peer() as fake, http_session() as http:
        provider = RealtimeProvider(title="OpenAI", base_url=fake.url.replace("/v1", "/page"), key=SecretStr(CANARY))
        with pytest.raises(ProviderError, match="text/html"):
            await anext(SpeechEndpoint(provider, http, SpeechVoice("m", "v")).stream("Hi."))


@given(text=st.text(alphabet="ab .!\n", max_size=200), longest=st.integers(1, 40))
def test_a_long_text_is_split_completely(text: str, longest: int) -> None:
    """No piece is too long or empty, and together they are the text."""
    found = split_text(text, longest)
    assert all(0 < len(piece) <= longest for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@given(
    text=st.text(alphabet="abc ", max_size=80),
    heard=st.floats(0, 10_000),
    received=st.floats(0, 10_000),
    complete=st.booleans(),
)
def test_the_heard_text_is_a_prefix_of_whole_words(text: str, heard: float, received: float, complete: bool) -> None:
    """The heard text is a prefix without partial words, complete if all was heard, and grows with the heard time."""
    part = heard_text(text, min(heard, received), received, complete=complete)
    assert text.lstrip().startswith(part.lstrip()) or not part
    assert text.split()[: len(part.split())] == part.split()
    assert len(heard_text(text, min(heard, received) / 2, received, complete=complete)) <= len(part)
    if complete and received > 0:
        assert heard_text(text, received, received, complete=True) == text
