"""The fast path of audio: same results as the normal path, and never out of order."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AppendAudioCommand
from agentfield.realtime.events import ReplyAudio, ReplyStarted, ReplyTranscript
from agentfield_openai.codec import Codec
from agentfield_openai.codec.audio_fast_path import encode_append
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.session import RealtimeSession
from agentfield_openai.socket import RealtimeSocket
from support.providers.openai import CANARY, PCM, check_client_event, config, decode
from support.waiting import until

CREATED = {"type": "response.created", "response": {"id": "resp_1"}}


def delta(number: int, data: bytes = b"\1\2" * 480, **fields: Any) -> dict[str, Any]:
    place = {"response_id": "resp_1", "item_id": "item_r", "output_index": 0, "content_index": 0}
    audio = base64.b64encode(data).decode()
    return {"type": "response.output_audio.delta", "event_id": f"audio_{number}", "delta": audio, **place, **fields}


def raw(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def speaking(audio: AudioFormat | None = PCM) -> Codec:
    codec = Codec(config(), audio=audio)
    decode(codec, CREATED, delta(0))
    return codec


def test_both_paths_report_the_same_audio() -> None:
    """The fast path returns what the normal path reports, counted once."""
    short, long = speaking(), speaking()
    assert short.take_audio_delta(raw(delta(1))) == ("resp_1", b"\1\2" * 480)
    assert decode(long, delta(1)) == [ReplyAudio(reply="resp_1", data=b"\1\2" * 480)]
    assert short.take_audio_delta(raw(delta(1))) is None
    assert decode(short, delta(1)) == []
    done = {"type": "response.done", "response": {"id": "resp_1", "status": "completed", "output": []}}
    assert decode(short, done) == decode(long, done)


@pytest.mark.parametrize(
    "event",
    [
        delta(1, b"\1"),
        delta(1, item_id="item_other"),
        delta(1, item_id=["item_r"]),
        delta(1, response_id="resp_2"),
        delta(1, response_id=["resp_1"]),
        delta(1, event_id="e" * 600),
        delta(1, event_id="half \ud83d"),
        delta(1, type=["response.output_audio.delta"], text="audio.delta"),
        delta(1, delta="no base64"),
        delta(1, delta=None),
        delta(1, event_id=None),
        delta(1, type="response.output_audio.done"),
        {"type": "response.output_audio_transcript.delta", "delta": "audio.delta", "event_id": "e"},
    ],
    ids=lambda event: str(event.get("type")),
)
def test_other_events_are_left_to_the_normal_path(event: dict[str, Any]) -> None:
    """An event that is not plain audio is not taken, and decoding it afterwards is unaffected."""
    short, long = speaking(), speaking()
    assert short.take_audio_delta(raw(event)) is None
    assert decode(short, event) == decode(long, event)


@pytest.mark.parametrize("text", [b"audio.delta", b'["audio.delta"]', b'{"type": "audio.delta', b"\xffaudio.delta"])
def test_invalid_frames_are_not_taken(text: bytes) -> None:
    """A frame that is not a JSON object is not taken."""
    assert speaking().take_audio_delta(text) is None


def test_a_sideband_takes_no_audio() -> None:
    """On a sideband the audio belongs to the caller."""
    assert speaking(None).take_audio_delta(raw(delta(1))) is None


def test_the_fast_append_equals_the_encoded_event() -> None:
    """The serialised audio event equals the encoder's and fits the protocol."""
    event = json.loads(encode_append(b"\1\2\3\4"))
    assert [event] == Codec(config(), audio=PCM).encode(AppendAudioCommand(data=b"\1\2\3\4"))
    check_client_event(event)


@asynccontextmanager
async def session_with(script: list[dict[str, Any]], received: list[dict[str, Any]]) -> AsyncIterator[RealtimeSession]:
    async def talk(connection: ServerConnection) -> None:
        for event in script:
            await connection.send(json.dumps(event))
        while True:
            received.append(json.loads(await connection.recv()))

    async with session_from(talk) as session:
        yield session


@asynccontextmanager
async def session_from(talk: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[RealtimeSession]:
    async with serve(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1"
        provider = RealtimeProvider(title="OpenAI", base_url=url, key=SecretStr(CANARY), key_setting="OPENAI_API_KEY")
        socket = RealtimeSocket.conversation(provider, "gpt-realtime", logging.getLogger("test"))
        await socket.open()
        codec = Codec(config(), audio=PCM)
        session = RealtimeSession(provider, codec, socket, lambda: 1.0, socket.close, reattachable=False)
        try:
            yield session
        finally:
            await session.close()


async def test_audio_and_events_keep_their_order() -> None:
    """In a mixed stream all audio arrives once and in order, and overtakes no earlier event."""
    words = {"type": "response.output_audio_transcript.delta", "response_id": "resp_1", "item_id": "item_r"}
    script: list[dict[str, Any]] = [CREATED]
    for number in range(200):
        script.append(delta(number, bytes([number, 0]) * 10))
        if number % 7 == 0:
            script.append({**words, "event_id": f"words_{number}", "delta": f"{number} "})
    seen: list[int | str] = []
    async with session_with(script, []) as session:
        session.set_audio_sink(lambda _, data: seen.append(data[0]))

        async def read() -> None:
            async for event in session.events():
                match event:
                    case ReplyAudio():
                        seen.append(event.data[0])
                    case ReplyTranscript():
                        seen.append(event.text)
                    case ReplyStarted():
                        await asyncio.sleep(0)

        reading = asyncio.create_task(read())
        await until(lambda: len(seen) == 229)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    expected: list[int | str] = []
    for number in range(200):
        expected += [number, f"{number} "] if number % 7 == 0 else [number]
    assert seen == expected


@pytest.mark.parametrize("size", [1, 3, 700, 100_000])
async def test_frames_arrive_whole_with_any_split(size: int) -> None:
    """Frames in pieces of any size, or several in one read, are received once and in order."""
    events = [raw(CREATED), *(raw(delta(number, bytes([number, 0]) * 30)) for number in range(8))]
    stream = b"".join(Frame(Opcode.TEXT, event).serialize(mask=False) for event in events)

    async def talk(connection: ServerConnection) -> None:
        for at in range(0, len(stream), size):
            connection.transport.write(stream[at : at + size])
            await asyncio.sleep(0)
        await connection.wait_closed()

    seen: list[int] = []
    async with session_from(talk) as session:
        session.set_audio_sink(lambda _, data: seen.append(data[0]))

        async def read() -> None:
            async for event in session.events():
                match event:
                    case ReplyAudio():
                        seen.append(event.data[0])

        reading = asyncio.create_task(read())
        await until(lambda: len(seen) == 8)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert seen == list(range(8))


def text(event: dict[str, Any], *, parts: int = 1) -> list[Frame]:
    data = raw(event)
    size = -(-len(data) // parts)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    kinds = [Opcode.TEXT, *[Opcode.CONT] * (len(pieces) - 1)]
    return [
        Frame(kind, piece, fin=number == len(pieces))
        for number, (kind, piece) in enumerate(zip(kinds, pieces, strict=True), 1)
    ]


def conversation(dice: random.Random) -> tuple[list[Frame], list[int | str]]:
    """Return frames of a reply in forms that servers may send, and the expected content in order."""
    ping, frames, expected = Frame(Opcode.PING, b"?"), text(CREATED), list[int | str]()
    for number in range(40):
        match dice.choice(("audio", "audio", "audio", "long", "parts", "words", "words in parts", "short", "ping")):
            case "audio":
                frames += text(delta(number, bytes([number, 0]) * 100))
                expected.append(number)
            case "long":
                frames += text(delta(number, bytes([number, 0]) * 30_000))
                expected.append(number)
            case "parts":
                first, *others = text(delta(number, bytes([number, 0]) * 100), parts=3)
                frames += [first, ping, *others]
                expected.append(number)
            case "ping":
                frames.append(ping)
            case "short":
                frames += text({"type": "unknown"})
            case words:
                event = {"type": "response.output_audio_transcript.delta", "response_id": "resp_1", "item_id": "item_r"}
                pieces = 2 if words == "words in parts" else 1
                frames += text({**event, "event_id": f"words_{number}", "delta": f"{number} "}, parts=pieces)
                expected.append(f"{number} ")
    return frames, expected


@pytest.mark.parametrize("seed", range(20))
async def test_inspected_and_parsed_frames_agree(seed: int) -> None:
    """Frames inspected before the parser, and all others, are received once and in order."""
    dice = random.Random(seed)
    frames, expected = conversation(dice)
    chunks = [frame.serialize(mask=False) for frame in frames]
    if seed % 2:  # else one frame at a time, as they come in a quiet call
        stream, chunks = b"".join(chunks), []
        while stream:
            size = dice.choice((1, 2, 5, 200, 1500, 70_000))
            chunks.append(stream[:size])
            stream = stream[size:]
    seen: list[int | str] = []
    async with session_with([], []) as session:
        session.set_audio_sink(lambda _, data: seen.append(data[0]))

        async def read() -> None:
            async for event in session.events():
                match event:
                    case ReplyAudio():
                        seen.append(event.data[0])
                    case ReplyTranscript():
                        seen.append(event.text)

        reading = asyncio.create_task(read())
        connection = session._socket._connection
        assert connection is not None
        for chunk in chunks:
            connection.data_received(chunk)
            for _ in range(dice.choice((0, 0, 8))):
                await asyncio.sleep(0)
        await until(lambda: len(seen) == len(expected))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert seen == expected


async def test_audio_after_a_close_frame_is_ignored() -> None:
    """Audio behind a close frame is ignored, whether or not it comes as one frame."""
    seen: list[int] = []
    async with session_with([], []) as session:
        session.set_audio_sink(lambda _, data: seen.append(data[0]))

        async def read() -> None:
            async for _ in session.events():
                pass

        reading = asyncio.create_task(read())
        connection = session._socket._connection
        assert connection is not None
        for frame in [*text(CREATED), *text(delta(0, b"\0\0" * 100))]:
            connection.data_received(frame.serialize(mask=False))
        await until(lambda: connection.drained)
        connection.data_received(text(delta(1, b"\1\0" * 100))[0].serialize(mask=False))
        assert seen == [1]
        connection.data_received(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False))
        connection.data_received(text(delta(2, b"\2\0" * 100))[0].serialize(mask=False))
        assert seen == [1]
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_audio_is_sent_immediately_until_backpressure() -> None:
    """Appended audio arrives unchanged; a closed session takes none."""
    received: list[dict[str, Any]] = []
    async with session_with([], received) as session:
        assert all(session.append_audio_nowait(bytes([number, 0])) for number in range(20))
        await until(lambda: len(received) == 20)
        assert [base64.b64decode(event["audio"])[0] for event in received] == list(range(20))
        await session.close()
        assert not session.append_audio_nowait(b"\0\0")
