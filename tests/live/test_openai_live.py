"""OpenAI with a real key: AGENTFIELD_LIVE_OPENAI=1 and OPENAI_API_KEY. Costs a few cents per run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand, ReplyCommand, SayCommand
from agentfield.realtime.events import (
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    TurnCommitted,
    Warned,
)
from agentfield_openai.websocket_adapter import websocket
from support.providers.openai import PCM, Runtime, Seen, config

pytestmark = pytest.mark.live

_URL = "https://api.openai.com/v1"


@asynccontextmanager
async def talking(say: str | None = None) -> AsyncIterator[Seen]:
    runtime = Runtime(os.environ.get("OPENAI_BASE_URL") or _URL, SecretStr(os.environ["OPENAI_API_KEY"]))
    async with websocket(runtime) as adapter:
        session = await adapter.open(config(say=say), PCM)
        seen = Seen(session)
        try:
            yield seen
        finally:
            await session.close()
            async with asyncio.timeout(60):
                await seen.task
    assert isinstance(seen.events[-1], SessionClosed)
    assert not [event for event in seen.events if isinstance(event, ProviderFault) and event.fatal]


def sounded(seen: Seen, reply: str) -> int:
    return sum(len(event.data) for event in seen.events if isinstance(event, ReplyAudio) and event.reply == reply)


async def test_a_session_opens_as_configured() -> None:
    """The provider's echo names the model and the voice and does not differ from our configuration."""
    async with talking() as seen:
        ready = await seen.wait(SessionReady)
        assert (ready.model or "").startswith("gpt-realtime")
        assert ready.voice == "marin"
        assert ready.expires_at is not None
        assert (await seen.wait(SessionUpdated)).drift == ()
        assert not [event for event in seen.events if isinstance(event, Warned)]


async def test_the_model_says_a_sentence_and_answers_a_typed_one() -> None:
    """A say and a reply have audio, text and tokens, and their length is that of the audio."""
    async with talking() as seen:
        await seen.send(SayCommand(id="spk_1", text="Your order is on its way."))
        said = await seen.wait(ReplyEnded, lambda e: e.command == "spk_1", 60.0)
        assert said.status == "completed"
        assert "order" in (said.text or "").lower()
        assert said.audio_ms == int(PCM.ms(sounded(seen, said.reply)))
        assert said.usage is not None
        assert said.usage.output_audio_tokens
        await seen.send(
            AddTextCommand(item="live_1", text="What is two and two? Answer with one word."), ReplyCommand(id="spk_2")
        )
        assert (await seen.wait(TurnCommitted)).item == "live_1"
        answer = await seen.wait(ReplyEnded, lambda e: e.command == "spk_2", 60.0)
        assert "four" in (answer.text or "").lower() or "4" in (answer.text or "")


async def test_a_reply_can_be_truncated_and_the_session_continues() -> None:
    """Cancel and truncate are accepted without a fault, and the next say is spoken."""
    async with talking() as seen:
        await seen.send(
            SayCommand(id="spk_1", text="One, two, three, four, five, six, seven, eight, nine, ten, eleven.")
        )
        started = await seen.wait(ReplyStarted, seconds=30.0)
        await seen.wait(ReplyAudio, lambda e: e.reply == started.reply, 30.0)
        await seen.send(CancelReplyCommand(reply=started.reply, heard_ms=100))
        await seen.wait(ReplyEnded, lambda e: e.reply == started.reply, 30.0)
        await seen.send(SayCommand(id="spk_2", text="Goodbye."))
        assert (await seen.wait(ReplyEnded, lambda e: e.command == "spk_2", 60.0)).status == "completed"
        assert not [event for event in seen.events if isinstance(event, ProviderFault)]


async def test_an_exact_say_is_spoken_by_the_speech_endpoint() -> None:
    """The text is reported as requested, with audio."""
    async with talking(say="exact") as seen:
        await seen.send(SayCommand(id="spk_1", text="Your order costs seven dollars."))
        ended = await seen.wait(ReplyEnded, seconds=60.0)
        assert (ended.status, ended.text) == ("completed", "Your order costs seven dollars.")
        assert ended.audio_ms > 500
