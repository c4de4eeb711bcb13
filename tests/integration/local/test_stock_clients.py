"""What unmodified clients of the protocol send to the local server, and get from the provider."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import av
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.audio import TranscriptionStreamEvent, TranscriptionVerbose
from openai.types.chat import ChatCompletion
from pydantic import TypeAdapter

from agentfield.realtime.events import SessionUpdated
from agentfield_local.audio.encodings import encode_file
from agentfield_local.brain import ObedientBrain
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_openai.codec import Codec
from support.audio import silence, tone, wav
from support.providers.local_server import Caller, b64, check_event
from support.providers.openai import PCM, config, decode

TEXT = "Your refund was approved."
SERVER_VAD = {"type": "server_vad"}


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    async with (
        LocalServer(synthetic_engines(["where is my order"]), ObedientBrain(), key="sk-test", **options) as server,
        AsyncOpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0) as client,
    ):
        yield server, client


@asynccontextmanager
async def socket(server: LocalServer, query: str, **headers: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    given = {"Authorization": "Bearer sk-test", **headers}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{server.base_url}/realtime?{query}", headers=given) as connection,
    ):
        yield connection


async def next_event(connection: aiohttp.ClientWebSocketResponse, *kinds: str) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = await connection.receive_json(timeout=20)
        check_event(event)
        if event["type"] in kinds:
            return event


async def updated(client: AsyncOpenAI, session: dict[str, Any]) -> Any:
    """Return the session after an update of the official client; an error fails the test."""
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.session.update(session={"type": "realtime", **session})  # type: ignore[typeddict-item]
        async for event in connection:
            check_event(event.model_dump(mode="json", exclude_unset=True))
            assert event.type != "error", event
            if event.type == "session.updated":
                return event.session
    raise AssertionError


# sessions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detection", [None, SERVER_VAD, {"type": "semantic_vad"}])
@pytest.mark.parametrize("model", ["gpt-realtime-whisper", "gpt-live-transcribe", "gpt-transcribe", "whisper-1"])
async def test_a_conversation_may_combine_any_transcription_model_with_turn_detection(
    model: str, detection: dict[str, Any] | None
) -> None:
    """The whole update is accepted, as clients send it by default."""
    audio: dict[str, Any] = {"input": {"transcription": {"model": model}, "turn_detection": detection}}
    async with serving() as (_, client):
        session = await updated(client, {"audio": audio, "instructions": "Be kind."})
    assert session.audio.input.transcription.model == model
    assert (session.audio.input.turn_detection and session.audio.input.turn_detection.type) == (
        detection and detection["type"]
    )
    assert session.instructions == "Be kind."


async def test_a_transcription_session_of_that_model_has_no_turn_detection() -> None:
    """There the provider refuses turn detection, and so does the server; `null` is accepted."""
    transcription = {"model": "gpt-realtime-whisper"}
    async with serving() as (server, _), socket(server, "intent=transcription") as connection:
        for detection, answer in ((SERVER_VAD, "error"), (None, "session.updated")):
            audio = {"input": {"transcription": transcription, "turn_detection": detection}}
            session = {"type": "transcription", "audio": audio}
            await connection.send_json({"type": "session.update", "session": session})
            event = await next_event(connection, "error", "session.updated")
            assert event["type"] == answer
            if answer == "error":
                assert event["error"]["param"] == "session.audio.input.turn_detection"


async def test_a_model_beside_the_transcription_intent_is_tolerated() -> None:
    """`?intent=transcription&model=…` opens a transcription session, which transcribes."""
    async with serving() as (server, _), socket(server, "intent=transcription&model=gpt-live-transcribe") as connection:
        created = await next_event(connection, "session.created")
        assert created["session"]["type"] == "transcription"
        await connection.send_json(
            {"type": "input_audio_buffer.append", "audio": b64(tone(400, 24_000) + silence(1200, 24_000))}
        )
        await next_event(connection, "input_audio_buffer.committed")


async def test_every_field_of_the_session_is_accepted_and_echoed() -> None:
    """Voice as an object, prompt, tracing, include and all of transcription and noise reduction come back as given."""
    given = {
        "prompt": {
            "id": "pmpt_1",
            "version": "2",
            "variables": {"city": "Ulm", "name": {"type": "input_text", "text": "x"}},
        },
        "tracing": {"workflow_name": "calls", "group_id": "g", "metadata": {"a": 1}},
        "include": ["item.input_audio_transcription.logprobs"],
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {"post_instructions": 900}},
        "audio": {
            "input": {
                "noise_reduction": {"type": "far_field", "strength": 0.5},
                "transcription": {
                    "model": "gpt-live-transcribe",
                    "languages": ["en", "de"],
                    "keywords": ["AgentField"],
                    "prompt": "an order",
                    "delay": "low",
                },
            },
            "output": {"voice": {"id": "voice_1234"}},
        },
    }
    async with serving() as (_, client):
        session = (await updated(client, given)).model_dump(exclude_unset=True)
    for name in ("prompt", "tracing", "include", "truncation"):
        assert session[name] == given[name]
    audio = session["audio"]
    assert audio["output"]["voice"] == {"id": "voice_1234"}
    assert audio["input"]["noise_reduction"] == given["audio"]["input"]["noise_reduction"]  # type: ignore[index]
    assert audio["input"]["transcription"] == given["audio"]["input"]["transcription"]  # type: ignore[index]


async def test_a_custom_voice_speaks_and_is_locked() -> None:
    """A response with a custom voice is spoken; afterwards the voice cannot change, as with a named one."""
    custom = {"id": "voice_1234"}
    async with serving() as (server, _), socket(server, "model=m") as connection:
        output = {"audio": {"output": {"voice": custom}}}
        await connection.send_json({"type": "session.update", "session": {"type": "realtime", **output}})
        response = {**output, "prompt": {"id": "pmpt_1"}, "input": [], "instructions": "Say hello."}
        await connection.send_json({"type": "response.create", "response": response})
        done = await next_event(connection, "response.done", "error")
        assert done["response"]["status"] == "completed"
        assert done["response"]["audio"]["output"]["voice"] == custom["id"]
        for voice, answer in (({"id": "voice_5678"}, "error"), (custom, "session.updated")):
            session = {"type": "realtime", "audio": {"output": {"voice": voice}}}
            await connection.send_json({"type": "session.update", "session": session})
            event = await next_event(connection, "error", "session.updated")
            assert event["type"] == answer
            if answer == "error":
                assert event["error"]["code"] == "cannot_update_voice"


async def test_the_options_of_our_codec_are_applied_without_drift() -> None:
    """A session that our adapters ask for with every option of the protocol is echoed as it was asked for."""
    options = {
        "languages": ["en", "de"],
        "keywords": ["parcel"],
        "transcription_prompt": "a parcel",
        "transcription_delay": "low",
        "include": ["item.input_audio_transcription.logprobs"],
        "noise_reduction": "far_field",
        "noise_reduction_strength": 0.5,
        "prompt": {"id": "pmpt_1", "version": "2"},
        "tracing": "auto",
    }
    codec = Codec(config(options=options, transcription="gpt-realtime-whisper"), audio=PCM)
    async with serving() as (server, _), socket(server, "model=gpt-realtime-2") as connection:
        await connection.send_json(codec.initial_update())
        event = await next_event(connection, "session.updated", "error")
        assert event["session"]["tracing"] == "auto"
        updated_session = decode(codec, event)[-1]
        assert isinstance(updated_session, SessionUpdated)
        assert updated_session.drift == ()


# the retired beta ----------------------------------------------------------------------------------------------------

BETA_EVENTS: dict[str, dict[str, Any]] = {
    "flat session": {"type": "session.update", "session": {"modalities": ["text", "audio"], "voice": "alloy"}},
    "session without a type": {"type": "session.update", "session": {"instructions": "Be kind."}},
    "flat response": {"type": "response.create", "response": {"modalities": ["text"]}},
    "content of a reply": {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "hello"}]},
    },
    "transcription session": {"type": "transcription_session.update", "session": {}},
}


@pytest.mark.parametrize("name", BETA_EVENTS)
async def test_a_beta_client_that_sends_beta_events_is_refused(name: str) -> None:
    """The answer is `beta_api_shape_disabled`, then close code 4000, as of the provider."""
    async with serving() as (server, _), socket(server, "model=m", **{"OpenAI-Beta": "realtime=v1"}) as connection:
        await next_event(connection, "conversation.created")
        await connection.send_json(BETA_EVENTS[name])
        error = await next_event(connection, "error")
        assert error["error"]["code"] == "beta_api_shape_disabled"
        closed = await connection.receive(timeout=20)
        assert closed.type == aiohttp.WSMsgType.CLOSE
        assert (closed.data, closed.extra) == (4000, "invalid_request_error.beta_api_shape_disabled")


async def test_a_leftover_beta_header_does_no_harm() -> None:
    """A client that still sends the header, but the events of today, is served."""
    async with serving() as (server, _), socket(server, "model=m", **{"OpenAI-Beta": "realtime=v1"}) as connection:
        session = {"type": "realtime", "instructions": "Be kind."}
        await connection.send_json({"type": "session.update", "session": session})
        assert (await next_event(connection, "session.updated", "error"))["type"] == "session.updated"


@pytest.mark.parametrize("path", ["/realtime?model=m", "/realtime/sessions", "/realtime/transcription_sessions"])
async def test_the_addresses_of_the_beta_are_refused(path: str) -> None:
    """A POST to an address of the beta is a 400 with the provider's code."""
    async with serving() as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.post(path, body={"model": "m"}, cast_to=object)
        assert refused.value.code == "beta_api_shape_disabled"


# speech ----------------------------------------------------------------------------------------------------------------

MAGIC = {"mp3": b"ID3", "opus": b"OggS", "aac": b"\xff\xf1", "flac": b"fLaC", "wav": b"RIFF"}
TYPES = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}


def decoded(data: bytes, file_format: str) -> np.ndarray[Any, Any]:
    """Return the samples of a file at 24 kHz; `pcm` has no header."""
    if file_format == "pcm":
        return np.frombuffer(data, "<i2")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=24_000)
    with av.open(io.BytesIO(data)) as file:
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def assert_same_speech(data: bytes, file_format: str, pcm: np.ndarray[Any, Any]) -> None:
    """Check length and loudness; codecs add up to a tenth of a second."""
    samples = decoded(data, file_format)
    assert 0 <= samples.size - pcm.size < 2400 + 1200
    assert np.abs(samples).max() == pytest.approx(np.abs(pcm).max(), rel=0.3)


async def spoken(client: AsyncOpenAI, **fields: Any) -> openai.HttpxBinaryResponseContent:
    return await client.audio.speech.create(**{"model": "tts", "voice": "alloy", "input": TEXT, **fields})


@pytest.mark.parametrize("file_format", ["mp3", "opus", "aac", "flac", "wav"])
async def test_speech_comes_in_every_format_of_the_protocol(file_format: str) -> None:
    """Each format is a whole file of the same speech, with its content type; a text without words is a valid file too."""
    async with serving() as (_, client):
        pcm = np.frombuffer((await spoken(client, response_format="pcm")).content, "<i2")
        answer = await spoken(client, response_format=file_format)
        assert answer.response.headers["content-type"] == TYPES[file_format]
        assert answer.content.startswith(MAGIC[file_format])
        assert_same_speech(answer.content, file_format, pcm)
        silent = (await spoken(client, response_format=file_format, input="...")).content
        if file_format != "wav":
            assert np.abs(decoded(silent, file_format)).max() < 100


async def test_speech_is_mp3_unless_another_format_is_asked_for() -> None:
    """The default of the protocol."""
    async with serving() as (_, client):
        answer = await spoken(client)
        assert answer.response.headers["content-type"] == "audio/mpeg"
        assert answer.content.startswith(b"ID3")
        custom = await spoken(client, voice={"id": "voice_1234"})
        assert custom.content == answer.content


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


@pytest.mark.parametrize("file_format", ["mp3", "wav", "pcm"])
async def test_speech_as_events(file_format: str) -> None:
    """`stream_format=sse` sends the same file in pieces, then the usage."""
    async with serving() as (_, client):
        pcm = np.frombuffer((await spoken(client, response_format="pcm")).content, "<i2")
        answer = await spoken(client, response_format=file_format, stream_format="sse")
        assert answer.response.headers["content-type"].startswith("text/event-stream")
        *deltas, done = events_of(answer.text)
        assert {event["type"] for event in deltas} == {"speech.audio.delta"}
        assert_same_speech(b"".join(base64.b64decode(event["audio"]) for event in deltas), file_format, pcm)
        assert done["type"] == "speech.audio.done"
        usage = done["usage"]
        assert usage["input_tokens"] > 0
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


# transcriptions ----------------------------------------------------------------------------------------------------------

_TRANSCRIPT: TypeAdapter[Any] = TypeAdapter(TranscriptionStreamEvent)


@pytest.mark.parametrize("model", ["gpt-4o-transcribe", "whisper-1"])
async def test_a_transcription_is_streamed(model: str) -> None:
    """`stream=true` sends the words as deltas, then the whole text with usage, in the official types."""
    async with serving() as (_, client):
        stream = await client.audio.transcriptions.create(
            model=model, file=("turn.wav", wav(tone(500), 24_000)), stream=True
        )
        events = [
            _TRANSCRIPT.validate_python(event.model_dump(exclude_unset=True), strict=True) async for event in stream
        ]
    *deltas, done = events
    assert [event.type for event in deltas] == ["transcript.text.delta"] * 4
    assert "".join(event.delta for event in deltas) == done.text == "where is my order"
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens > 0


async def test_a_transcription_without_a_stream_has_usage() -> None:
    """The duration is counted; a file that is not a recording is refused before a stream begins."""
    async with serving() as (_, client):
        answer = await client.audio.transcriptions.create(model="m", file=("turn.wav", wav(tone(500))), stream=False)
        assert answer.text == "where is my order"
        assert answer.usage is not None
        assert answer.usage.seconds == pytest.approx(0.5, abs=0.02)  # type: ignore[union-attr]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.audio.transcriptions.create(model="m", file=("turn.wav", b"hello"), stream=True)
        assert refused.value.param == "file"
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.audio.transcriptions.create(
                model="m", file=("turn.wav", wav(tone(500))), extra_body={"stream": "maybe"}
            )
        assert wrong.value.param == "stream"


SPOKEN_TWICE = silence(400, 24_000) + tone(600) + silence(1200, 24_000) + tone(700) + silence(400, 24_000)
"""Two utterances with a pause: about 0.4 to 1.0 s, and 2.2 to 2.9 s."""


async def transcribed(client: AsyncOpenAI, **fields: Any) -> Any:
    return await client.audio.transcriptions.create(
        **{"model": "whisper-1", "file": ("turn.wav", wav(SPOKEN_TWICE)), **fields}
    )


async def test_a_verbose_transcription_has_the_times_of_its_utterances() -> None:
    """`verbose_json` is the official type: language, duration, and a segment for each utterance."""
    async with serving() as (_, client):
        answer = await transcribed(client, response_format="verbose_json", timestamp_granularities=["segment"])
        verbose = TranscriptionVerbose.model_validate(answer.model_dump(exclude_unset=True), strict=True)
        assert verbose.text == "where is my order where is my order"
        assert verbose.language == "english"
        assert verbose.duration == pytest.approx(3.3, abs=0.02)
        assert verbose.segments is not None
        first, second = verbose.segments
        assert (first.id, second.id, first.text) == (0, 1, "where is my order")
        # the start includes up to 0.3 s before the first sound, the end the half second that ended the utterance
        assert (
            0 <= first.start <= 0.45 < 1.0 <= first.end <= second.start <= 2.25 < 2.9 <= second.end <= verbose.duration
        )


async def test_subtitles() -> None:
    """SRT and WebVTT have a cue for each utterance, in time order; a recording without speech has none."""
    async with serving() as (_, client):
        srt = await transcribed(client, response_format="srt")
        first, second = srt.strip().split("\n\n")
        for number, cue in ((1, first), (2, second)):
            assert re.fullmatch(rf"{number}\n00:00:0\d,\d{{3}} --> 00:00:0\d,\d{{3}}\nwhere is my order", cue), cue
        vtt = await transcribed(client, response_format="vtt")
        assert vtt == "WEBVTT\n\n" + re.sub(r"^\d\n|(?<=\d),(?=\d{3})", _as_vtt, srt, flags=re.MULTILINE)
        quiet = ("quiet.wav", wav(silence(900, 24_000)))
        assert await transcribed(client, response_format="srt", file=quiet) == ""
        assert await transcribed(client, response_format="vtt", file=quiet) == "WEBVTT\n\n"


def _as_vtt(found: re.Match[str]) -> str:
    return "." if found.group() == "," else ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "response_format"),
        (
            {"response_format": "verbose_json", "timestamp_granularities": ["segment", "word"]},
            "timestamp_granularities[]",
        ),
    ],
    ids=["speakers", "subtitles as a stream", "times of words"],
)
async def test_transcripts_that_the_engine_cannot_give_are_refused(fields: dict[str, Any], param: str) -> None:
    """The refusal names the parameter and the values that are supported."""
    async with serving() as (_, client):
        with pytest.raises(openai.BadRequestError, match=r"Supported values are: '(json|segment)'") as refused:
            await transcribed(client, **fields)
        assert (refused.value.code, refused.value.param) == ("invalid_value", param)


# chat completions --------------------------------------------------------------------------------------------------------


async def completed(client: AsyncOpenAI, content: Any, **fields: Any) -> ChatCompletion:
    answer = await client.chat.completions.create(
        **{"model": "gpt-audio", "messages": [{"role": "user", "content": content}], **fields}
    )
    return ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))


@pytest.mark.parametrize("file_format", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
async def test_a_spoken_completion_without_a_stream(file_format: str) -> None:
    """The message has the speech as one file, its words and its id, which the next request can refer to."""
    speech: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": file_format}}
    async with serving() as (_, client):
        answer = await completed(client, "hello", **speech)
        message = answer.choices[0].message
        assert message.content is None
        assert message.audio is not None
        assert message.audio.transcript.startswith("You said: hello")
        samples = decoded(base64.b64decode(message.audio.data), "pcm" if file_format == "pcm16" else file_format)
        assert samples.size > 15_000
        assert np.abs(samples).max() > 5000
        assert message.audio.expires_at > answer.created
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.audio_tokens
        history: Any = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "audio": {"id": message.audio.id}},
            {"role": "user", "content": "thank you"},
        ]
        again = await client.chat.completions.create(model="gpt-audio", messages=history, **speech)
        assert again.choices[0].message.audio is not None


@pytest.mark.parametrize("file_format", ["wav", "mp3", "flac"])
async def test_a_recorded_message_in_the_formats_of_the_protocol(file_format: str) -> None:
    """The recording is heard, and answered in text."""
    data = b64(encode_file(tone(600), file_format))
    content = [{"type": "input_audio", "input_audio": {"data": data, "format": file_format}}]
    async with serving() as (_, client):
        answer = await completed(client, content)
        assert "where is my order" in (answer.choices[0].message.content or "")
        content[0]["input_audio"] = {"data": b64(b"hello"), "format": file_format}
        with pytest.raises(openai.BadRequestError, match=r"recording|audio file"):
            await completed(client, content)


async def test_a_model_can_be_retrieved() -> None:
    """Each listed model can be retrieved, and an unknown one is a 404 with the provider's code."""
    async with serving() as (_, client):
        listed = [model async for model in client.models.list()]
        for model in listed:
            assert (await client.models.retrieve(model.id)).model_dump() == model.model_dump()
        for unknown in ("gpt-0", "openai/gpt-audio"):
            with pytest.raises(openai.NotFoundError) as refused:
                await client.models.retrieve(unknown)
            assert (refused.value.code, refused.value.type) == ("model_not_found", "invalid_request_error")


# odd input -----------------------------------------------------------------------------------------------------------------

NESTED = "[" * 2000 + "]" * 2000
DEEP: dict[str, str] = {
    "a tool": f'{{"type":"session.update","session":{{"type":"realtime","tools":{NESTED}}}}}',
    "the session": f'{{"type":"session.update","session":{NESTED}}}',
    "an unknown event": f'{{"type":"x","a":{NESTED}}}',
    "100 levels": f'{{"type":"session.update","session":{{"type":"realtime","tracing":{{"metadata":{{"a":{NESTED[1900:2100]}}}}}}}}}',
}


@pytest.mark.parametrize("name", DEEP)
async def test_deeply_nested_json_is_refused(name: str) -> None:
    """The answer is an error event, and the session goes on, on WebSocket and data channel; over HTTP it is a 400."""
    async with serving() as (server, client):
        async with socket(server, "model=m") as connection:
            await connection.send_str(DEEP[name])
            error = await next_event(connection, "error")
            assert error["error"]["code"] == "invalid_json"
            await connection.send_json({"type": "session.update", "session": {"type": "realtime"}})
            await next_event(connection, "session.updated")
        for path in ("/realtime/client_secrets", "/audio/speech", "/chat/completions", "/audio/transcriptions"):
            with pytest.raises(openai.BadRequestError):
                await client.post(
                    path,
                    content=DEEP[name].encode(),
                    cast_to=object,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        caller = Caller()
        try:
            await caller.accept((await client.realtime.calls.create(sdp=await caller.offer())).text)
            await caller.wait("session.created")
            caller.channel.send(DEEP[name])
            assert (await caller.wait("error"))["error"]["code"] == "invalid_json"
            caller.send({"type": "session.update", "session": {"type": "realtime"}})
            await caller.wait("session.updated")
        finally:
            await caller.close()


@pytest.mark.parametrize("text", ['"\\ud83d"', "NaN", "-Infinity", "1e400"])
async def test_values_that_json_cannot_hold_are_refused(text: str) -> None:
    """The event is refused with its id, nothing of it is applied, and the session goes on."""
    update = f'{{"type":"session.update","event_id":"e1","session":{{"type":"realtime","tracing":{{"metadata":{{"a":{text}}}}}}}}}'
    async with serving() as (server, _), socket(server, "model=m") as connection:
        await connection.send_str(update)
        error = (await next_event(connection, "error"))["error"]
        assert error["code"] == "invalid_json"
        assert error["event_id"] == (None if text in {"NaN", "-Infinity"} else "e1")
        await connection.send_json({"type": "session.update", "session": {"type": "realtime"}})
        assert (await next_event(connection, "session.updated"))["session"]["tracing"] is None


ODD_LINES = (
    *(
        "a=fmtp:111 x=\\",
        "a=fmtp:96",
        "a=fmtp:96 ",
        "a=fmtp:abc x=1",
        "a=fmtp:97 apt=96;;;=",
        "a=fmtp:999999999999 a=b",
    ),
    *("a=mid:", "a=rtpmap:96 opus", "a=ssrc:1", "a=extmap:x y", "a=sctp-port:x", "a=setup:foo", "a=rtcp:x"),
)


@pytest.mark.parametrize("line", ODD_LINES)
@pytest.mark.parametrize("kind", ["audio", "application"])
async def test_an_odd_offer_is_refused(kind: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """An offer that cannot be parsed is answered, or refused with `invalid_offer`; nothing of it stays."""
    async with serving() as (server, _), aiohttp.ClientSession() as http:
        caller = Caller()
        try:
            lines = (await caller.offer()).split("\r\n")
            at = next(index for index, given in enumerate(lines) if given.startswith(f"m={kind}"))
            end = next((i for i, given in enumerate(lines) if i > at and given.startswith("m=")), len(lines) - 1)
            offer = "\r\n".join([*lines[:end], line, *lines[end:]])
            headers = {"Authorization": "Bearer sk-test", "Content-Type": "application/sdp"}
            url = f"{server.base_url}/realtime/calls"
            async with http.post(url, data=offer.encode(), headers=headers) as answer:
                assert answer.status in {201, 400}
                if answer.status == 400:
                    error = (await answer.json())["error"]
                    assert (error["code"], error["param"]) == ("invalid_offer", "sdp")
                    assert server.calls == []
        finally:
            await caller.close()
    assert not [record for record in caplog.records if record.exc_info]
