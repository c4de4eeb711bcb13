"""The official client holds whole spoken conversations with the local chat completions, by tones and by real speech."""

from __future__ import annotations

import asyncio
import json
import wave
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentfield_local.media import Resampler
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.protocols import SPEECH_RATE
from chat_kit import Heard, body, chatting, listen, post, said, weather_tool
from local_server_kit import tone
from wer import word_error_rate

FIXTURES = Path(__file__).parents[1] / "speech_fixtures"
PERSON = "austen_0870.wav"
SPOKEN = "Good morning. Your parcel left the warehouse on Monday, and it will arrive before noon tomorrow."


async def turn(client: AsyncOpenAI, messages: list[dict[str, Any]], **more: Any) -> Heard:
    """One request; the answer is added to the messages."""
    heard = await listen(await client.chat.completions.create(**body(*messages, **more)))
    messages.append(heard.as_message())
    return heard


async def test_a_spoken_conversation_with_a_tool() -> None:
    """A turn that is answered, a turn that calls a tool, its result spoken, and a turn after it; usage at every step."""
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
async def test_real_speech_is_understood_and_its_answer_can_be_understood() -> None:
    """What is said verbatim is heard again by the engine with few errors, and what a person said is repeated."""
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
    """A person's recording, at the rate of the protocol, and its words."""
    (found,) = [each for each in json.loads((FIXTURES / "transcripts.json").read_text()) if each["file"] == PERSON]
    with wave.open(str(FIXTURES / PERSON)) as file:
        assert file.getframerate() == SPEECH_RATE
        resampler = Resampler(SPEECH_RATE, 24_000)
        return resampler.feed(file.readframes(file.getnframes())) + resampler.flush(), str(found["transcript"])
