"""Spoken conversations of the official client with local chat completions, with tones and with real speech."""

from __future__ import annotations

import asyncio
import json
import wave
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentfield_local.audio.resampler import Resampler
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.protocols import SPEECH_RATE
from support.audio import tone
from support.paths import SPEECH_FIXTURES
from support.providers.chat_completions import Heard, body, chatting, listen, post, said, weather_tool
from support.word_error_rate import word_error_rate

FIXTURES = SPEECH_FIXTURES
PERSON = "austen_0870.wav"
SPOKEN = "Good morning. Your parcel left the warehouse on Monday, and it will arrive before noon tomorrow."


async def turn(client: AsyncOpenAI, messages: list[dict[str, Any]], **more: Any) -> Heard:
    """Send one request, and append the answer to the messages."""
    heard = await listen(await client.chat.completions.create(**body(*messages, **more)))
    messages.append(heard.as_message())
    return heard


async def test_a_spoken_conversation_with_a_tool() -> None:
    """A turn is answered, the next calls a tool, its result is spoken, and another turn follows; each has usage."""
    async with chatting(["hello", "what is the weather in Paris", "thank you"]) as (_, client):
        messages: list[dict[str, Any]] = [{"role": "system", "content": "You help."}, said()]
        tools = [weather_tool()]
        first = await turn(client, messages, tools=tools)
        assert first.words.startswith("I heard: hello.")
        messages.append(said(tone(500, 24_000), "wav"))
        second = await turn(client, messages, tools=tools)
        ((name, arguments),) = [(call["name"], call["arguments"]) for call in second.calls]
        assert (name, json.loads(arguments)) == ("get_weather", {"city": "Paris"})
        assert (second.finish, second.audio) == ("tool_calls", b"")
        result = json.dumps({"spoken_response": "It is sunny in Paris."})
        messages.append({"role": "tool", "tool_call_id": second.calls[0]["id"], "content": result})
        third = await turn(client, messages, tools=tools)
        assert (third.words, third.finish) == ("It is sunny in Paris.", "stop")
        messages.append(said(tone(600, 24_000)))
        fourth = await turn(client, messages, tools=tools)
    assert fourth.words.startswith("I heard: thank you.")
    for heard in (first, second, third, fourth):
        assert heard.usage.total_tokens > 0
        assert heard.usage.model_extra["cost"] == 0
        assert heard.chunks[0].model_extra is not None
        assert heard.chunks[0].model_extra["provider"] == "Local"
    for heard in (first, third, fourth):
        assert len(heard.audio) > 24_000
        assert heard.audio_id is not None
    assert fourth.usage.prompt_tokens > first.usage.prompt_tokens


@pytest.mark.speech
@pytest.mark.realtime
async def test_real_speech_is_transcribed_and_answered_intelligibly() -> None:
    """Verbatim speech is transcribed with few errors, and a human recording is repeated."""
    async with chatting(engines=await asyncio.to_thread(load_engines)) as (server, client):
        system = {"role": "system", "content": f"Speak exactly this.\n<say>{SPOKEN}</say>"}
        heard = await listen(await client.chat.completions.create(**body(system)))
        assert heard.words == SPOKEN
        again = await listen(await client.chat.completions.create(**body(said(heard.audio, "wav"))))
        assert again.words.startswith("You said: ")
        assert word_error_rate([(SPOKEN, again.words.removeprefix("You said: "))]) <= 0.2
        pcm, text = _recording()
        person = await listen(await client.chat.completions.create(**body(said(pcm, "wav"))))
        assert word_error_rate([(text, person.words.removeprefix("You said: "))]) <= 0.2
        raw = await post(server, "/audio/transcriptions", {"model": "moonshine-tiny-en", **_as_json(heard.audio)})
        assert word_error_rate([(SPOKEN, raw.json["text"])]) <= 0.2


def _as_json(pcm: bytes) -> dict[str, Any]:
    return {"input_audio": said(pcm)["content"][0]["input_audio"]}


def _recording() -> tuple[bytes, str]:
    """Return a human recording at the protocol's rate, and its words."""
    (found,) = [each for each in json.loads((FIXTURES / "transcripts.json").read_text()) if each["file"] == PERSON]
    with wave.open(str(FIXTURES / PERSON)) as file:
        assert file.getframerate() == SPEECH_RATE
        resampler = Resampler(SPEECH_RATE, 24_000)
        return resampler.feed(file.readframes(file.getnframes())) + resampler.flush(), str(found["transcript"])
