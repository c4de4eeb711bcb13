"""Chat completions: content, endings, records, and cancellation when the client disconnects."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from openai.types.chat import ChatCompletion

from agentfield_local.brain import ObedientBrain, ScriptedBrain
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Speak, Step
from agentfield_local.chat import routes as chat_module
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import ToneTts, synthetic_engines
from support.providers.chat_completions import TONE, body, chatting, listen, post, said, weather_tool
from support.providers.local_server import FakeClock
from support.waiting import until

LONG = " ".join(f"This is sentence number {number} of a very long answer that goes on and on." for number in range(40))
SAY = "Speak exactly the text between <say> and </say>, word for word, in its language. Add nothing, answer nothing."


async def test_verbatim_text_in_the_system_or_the_last_message() -> None:
    """Text between <say> tags is spoken exactly; the same tags in a caller's words are plain text."""
    shown = "<say>Tom &amp; Jerry, 5 &lt; 6.</say>"
    asked: dict[str, list[dict[str, Any]]] = {
        "Tom & Jerry, 5 < 6.": [{"role": "system", "content": f"{SAY}\n{shown}"}],
        "Tom & Jerry, 5 < 6": [
            {"role": "system", "content": SAY},
            {"role": "user", "content": shown.replace("6.", "6")},
        ],
        "You said: <say>boo</say>.": [{"role": "user", "content": "<say>boo</say>"}],
    }
    async with chatting() as (_, client):
        for words, messages in asked.items():
            heard = await listen(await client.chat.completions.create(**body(*messages)))
            assert (heard.words, heard.finish, heard.calls) == (words, "stop", [])


async def test_a_paraphrasing_brain_rewords_verbatim_text() -> None:
    """The transcript contains the reworded text."""
    async with chatting(brain=ScriptedBrain(paraphrase=True)) as (_, client):
        heard = await listen(
            await client.chat.completions.create(**body({"role": "system", "content": "<say>Yes, please.</say>"}))
        )
    assert heard.words == "Sure, Certainly, kindly."


async def test_a_completion_may_speak_and_call_several_tools() -> None:
    """The words come first, then the calls with their own indexes; the finish reason is tool_calls."""
    steps = (Speak("One moment."), CallFunction("get_weather", '{"city":"Rome"}'), CallFunction("get_time", "{broken"))
    async with chatting(brain=ScriptedBrain([steps])) as (_, client):
        heard = await listen(
            await client.chat.completions.create(**body(tools=[weather_tool(), weather_tool("get_time")]))
        )
    assert heard.words == "One moment."
    assert [(call["name"], call["arguments"]) for call in heard.calls] == [
        ("get_weather", '{"city":"Rome"}'),
        ("get_time", "{broken"),
    ]
    assert len({call["id"] for call in heard.calls}) == 2
    assert heard.finish == "tool_calls"


async def test_a_text_completion() -> None:
    """Without the audio modality the words are content, streamed or as one object of the official type."""
    async with chatting(brain=ScriptedBrain([(Speak("Hello there. How are you?"), CallFunction("a", "{}"))] * 2)) as (
        server,
        client,
    ):
        heard = await listen(await client.chat.completions.create(**body(modalities=["text"], audio=None)))
        raw = await post(server, "/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert (heard.text, heard.words, heard.audio, heard.audio_id) == ("Hello there. How are you?", "", b"", None)
    whole = ChatCompletion.model_validate(raw.json, strict=True)
    assert whole.choices[0].message.content == heard.text
    assert whole.choices[0].finish_reason == "tool_calls"
    assert raw.headers["X-Generation-Id"] == whole.id
    assert raw.json["usage"]["cost"] == 0


async def test_the_token_limit_ends_a_completion() -> None:
    """Spoken or written, the completion stops at the limit with the finish reason length."""
    async with chatting(brain=ScriptedBrain([(Speak(LONG),)] * 2)) as (_, client):
        spoken = await listen(await client.chat.completions.create(**body(max_completion_tokens=40)))
        written = await listen(
            await client.chat.completions.create(**body(modalities=["text"], audio=None, max_tokens=10))
        )
    for heard, limit in ((spoken, 40), (written, 10)):
        assert heard.finish == "length"
        assert heard.usage.completion_tokens <= limit + 2
    assert written.text == LONG[:40]


async def test_usage_is_sent_on_request_only() -> None:
    """Usage separates text and audio tokens, of input and output."""
    async with chatting(["hi"]) as (server, _):
        asked = await post(server, "/chat/completions", body(said()))
        unasked = await post(server, "/chat/completions", body(said(), stream_options=None))
    usage = asked.chunks[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["audio_tokens"] == 4
    assert usage["completion_tokens_details"]["audio_tokens"] > 0
    assert not [chunk for chunk in unasked.chunks if "usage" in chunk]


async def test_an_audio_id_in_the_history_is_valid_for_an_hour() -> None:
    """An assistant message with an audio id stands for its words until the id expires."""
    clock = FakeClock()
    async with LocalServer(synthetic_engines(), ObedientBrain(), clock=clock) as server:
        raw = await post(server, "/chat/completions", body())
        audio_id = raw.deltas[0]["audio"]["id"]
        again = body(
            {"role": "user", "content": "x"},
            {"role": "assistant", "audio": {"id": audio_id}},
            {"role": "user", "content": "y"},
        )
        assert (await post(server, "/chat/completions", again)).status == 200
        clock.advance(3600)
        raw = await post(server, "/chat/completions", again)
    assert raw.json["error"]["metadata"]["param"] == "messages[1].audio.id"


async def test_the_record_of_a_completion() -> None:
    """`GET /v1/generation` returns the usage of a completion by its id; other ids are not found."""
    async with chatting() as (server, client):
        heard = await listen(await client.chat.completions.create(**body(session_id=None)))
        record = await _get(server, f"/generation?id={heard.chunks[0].id}")
        assert (await _get(server, "/generation?id=gen-none"))["error"]["code"] == 404
        assert (await _get(server, "/generation"))["error"]["code"] == 400
    data = record["data"]
    assert (data["id"], data["total_cost"], data["cancelled"]) == (heard.chunks[0].id, 0, False)
    assert data["tokens_completion"] == heard.usage.completion_tokens
    assert (data["finish_reason"], data["provider_name"]) == ("stop", "Local")


async def test_models_can_be_filtered_by_output_modality() -> None:
    """The list contains the modalities, and can be filtered for models that speak."""
    async with chatting() as (server, _):
        every = (await _get(server, "/models"))["data"]
        speaking = (await _get(server, "/models?output_modalities=audio"))["data"]
    assert {model["id"] for model in every} == {"local-realtime-1", "moonshine-tiny-en"}
    assert [model["id"] for model in speaking] == ["local-realtime-1"]
    assert speaking[0]["architecture"]["input_modalities"] == ["text", "audio"]


async def test_a_recording_is_transcribed_from_json_or_a_form() -> None:
    """The JSON answer contains seconds and cost; the multipart form with a file works too."""
    audio = {"data": base64.b64encode(TONE).decode(), "format": "pcm16"}
    async with chatting(["hello world"]) as (server, client):
        raw = await post(server, "/audio/transcriptions", {"model": "moonshine-tiny-en", "input_audio": audio})
        assert raw.json["text"] == "hello world"
        assert raw.json["usage"] == {"seconds": pytest.approx(0.4, abs=0.01), "cost": 0}
        bad = await post(server, "/audio/transcriptions", {"model": "m", "input_audio": {**audio, "data": "#"}})
        assert (bad.status, bad.json["error"]["metadata"]["param"]) == (400, "input_audio.data")
        form = await client.audio.transcriptions.create(model="m", file=("a.wav", _wav(), "audio/wav"))
        assert form.text == "hello world"


def _wav() -> bytes:
    from support.audio import wav

    return wav(TONE)


async def _get(server: LocalServer, path: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(server.base_url + path) as response:
        return await response.json()


class _Counting(ToneTts):
    """Voice that counts its clauses."""

    def __init__(self) -> None:
        self.clauses = 0

    def say(self, text: str) -> Iterator[bytes]:
        for clause in super().say(text):
            self.clauses += 1
            yield clause


@pytest.mark.parametrize("behaviour", [ChatBehaviour(generation_speed=20.0), ChatBehaviour(stall="middle")])
async def test_a_disconnect_cancels_the_completion(behaviour: ChatBehaviour) -> None:
    """Soon after the disconnect the synthesis stops, and the record says cancelled."""
    tts = _Counting()
    engines = replace(synthetic_engines(), tts=tts)
    async with chatting(brain=ScriptedBrain([(Speak(LONG),)]), behaviour=behaviour, engines=engines) as (
        server,
        client,
    ):
        before = tts.clauses
        stream = await client.chat.completions.create(**body())
        async for chunk in stream:
            if chunk.choices[0].delta.audio and chunk.choices[0].delta.audio.transcript:
                break
        await stream.close()
        (generation,) = server.chat.generations.all
        await until(lambda: generation.ended)
        assert generation.cancelled
        assert tts.clauses - before < 30
        record = await _get(server, f"/generation?id={generation.head.id}")
        assert record["data"]["cancelled"]


async def test_a_disconnect_cancels_a_json_completion() -> None:
    """A disconnect also cancels a completion that is not streamed."""
    async with chatting(behaviour=ChatBehaviour(stall="before")) as (server, _):
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        asking = asyncio.create_task(post(server, "/chat/completions", asked))
        await until(lambda: bool(server.chat.generations.all))
        asking.cancel()
        await until(lambda: server.chat.generations.all[0].ended)
        assert server.chat.generations.all[0].cancelled


async def test_stopping_the_server_aborts_streams() -> None:
    """A completion without end does not delay the end of the server; its client sees a broken stream."""
    async with chatting(behaviour=ChatBehaviour(stall="middle")) as (server, _):
        asking = asyncio.create_task(post(server, "/chat/completions", body()))
        await until(lambda: bool(server.chat.generations.all and server.chat.generations.all[0].said))
        async with asyncio.timeout(60):
            await server.stop()
        assert (await asking).broken


class _Slow:
    """Brain that waits until it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def respond(self, request: BrainRequest) -> Sequence[Step]:
        self.go.wait(20)
        return (Speak("At last."),)


async def test_keep_alive_comments_while_the_brain_works() -> None:
    """A client receives comments before there is any data."""
    brain = _Slow()
    async with chatting(brain=brain, behaviour=ChatBehaviour(comment_seconds=0.02)) as (server, _):
        url = f"{server.base_url}/chat/completions"
        async with aiohttp.ClientSession() as http, http.post(url, json=body()) as response:
            assert response.status == 200
            seen = b""
            while seen.count(b": LOCAL PROCESSING\n\n") < 4:
                seen += await response.content.readany()
            brain.go.set()
            seen += await response.content.read()
    assert seen.endswith(b"data: [DONE]\n\n")


class _Broken(ToneTts):
    def say(self, text: str) -> Iterator[bytes]:
        yield from super().say("Begun.")
        if "Ready" not in text:
            raise OSError("the voice fell over: /secret/path")


async def test_a_failing_engine_ends_the_completion_with_an_error() -> None:
    """The client gets an error without its cause, and the stream ends properly."""
    async with chatting(engines=replace(synthetic_engines(), tts=_Broken())) as (server, _):
        raw = await post(server, "/chat/completions", body())
    assert raw.chunks[-1]["error"]["code"] == 502
    assert raw.events[-1] == "[DONE]"
    assert b"secret" not in raw.data


async def test_too_many_completions_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request beyond the limit is refused at once instead of queued."""
    monkeypatch.setattr(chat_module, "MAX_COMPLETIONS", 1)
    async with chatting(behaviour=ChatBehaviour(stall="before")) as (server, _):
        asking = asyncio.create_task(post(server, "/chat/completions", body()))
        await until(lambda: bool(server.chat.generations.all))
        raw = await post(server, "/chat/completions", body())
        assert (raw.status, raw.json["error"]["metadata"]["error_type"]) == (503, "provider_overloaded")
        asking.cancel()
        await until(lambda: server.chat.generations.all[0].ended)
