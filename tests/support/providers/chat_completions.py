"""Test support for chat completions: recordings, requests, raw HTTP responses, and streams as a client reads them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDict
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from agentfield_local.brain import ObedientBrain
from agentfield_local.brain.protocol import Brain
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.synthetic import synthetic_engines
from support.audio import tone, wav

__all__ = ["Heard", "Raw", "body", "chatting", "listen", "post", "said", "weather_tool"]

TONE = tone(400, 24_000)


def said(pcm: bytes = TONE, kind: str = "pcm16") -> dict[str, Any]:
    """Return a user message with a recording."""
    data = wav(pcm) if kind == "wav" else pcm
    audio = {"data": base64.b64encode(data).decode(), "format": kind}
    return {"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}


def weather_tool(name: str = "get_weather") -> dict[str, Any]:
    """Return a function tool with one argument."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": name, "description": "Tells the weather of a city.", "parameters": parameters}
    return {"type": "function", "function": function}


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a request body for a spoken completion; a field given as None is omitted."""
    whole = {
        "model": "local-realtime-1",
        "messages": list(messages) or [{"role": "user", "content": "hello"}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "pcm16"},
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }
    return {name: value for name, value in whole.items() if value is not None}


@dataclass
class Raw:
    """A raw HTTP response, write by write."""

    status: int
    headers: Any
    writes: list[bytes] = field(default_factory=list)
    broken: bool = False

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[str]:
        """The data of the events, including `[DONE]`."""
        lines = self.data.decode().splitlines()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def audio(self) -> list[str]:
        """The base64 of each piece of audio."""
        return [delta["audio"]["data"] for delta in self.deltas if "data" in delta.get("audio", {})]


async def post(server: LocalServer, path: str, json_body: Any, **headers: str) -> Raw:
    """POST JSON and return the response write by write; each is a chunk of its body (RFC 9112, section 7.1)."""
    data = json_body if isinstance(json_body, bytes) else json.dumps(json_body).encode()
    heads = {
        "Host": f"127.0.0.1:{server.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        lines = [f"POST /v1{path} HTTP/1.1", *(f"{name}: {value}" for name, value in heads.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        writer.write(data)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        raw = Raw(
            int(first.split()[1]),
            CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in rest)),
        )
        await _read_body(reader, raw)
        return raw
    finally:
        writer.transport.abort()


async def _read_body(reader: asyncio.StreamReader, raw: Raw) -> None:
    try:
        if "Content-Length" in raw.headers:
            raw.writes.append(await reader.readexactly(int(raw.headers["Content-Length"])))
            return
        while size := int(await reader.readuntil(b"\r\n"), 16):
            raw.writes.append((await reader.readexactly(size + 2))[:-2])
    except (asyncio.IncompleteReadError, ConnectionError):
        raw.broken = True


@dataclass
class Heard:
    """A streamed completion as a client reads it."""

    chunks: list[ChatCompletionChunk] = field(default_factory=list)
    words: str = ""
    text: str = ""
    audio: bytes = b""
    calls: list[dict[str, str]] = field(default_factory=list)
    finish: str | None = None
    audio_id: str | None = None

    @property
    def usage(self) -> Any:
        return self.chunks[-1].usage

    def as_message(self) -> dict[str, Any]:
        """Return the completion as an assistant message of the next request."""
        message: dict[str, Any] = {"role": "assistant", "content": self.words or self.text or None}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self.calls
            ]
        return message


async def listen(stream: AsyncStream[ChatCompletionChunk]) -> Heard:
    """Read a stream to its end, and check each chunk against the strict official type."""
    heard = Heard()
    async for chunk in stream:
        ChatCompletionChunk.model_validate(chunk.model_dump(exclude_unset=True), strict=True)
        heard.chunks.append(chunk)
        for choice in chunk.choices:
            heard.finish = choice.finish_reason or heard.finish
            heard.text += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    heard.calls.append({"id": call.id, "name": "", "arguments": ""})
                assert call.function is not None
                heard.calls[call.index]["name"] += call.function.name or ""
                heard.calls[call.index]["arguments"] += call.function.arguments or ""
            audio = choice.delta.audio
            if audio is not None:
                heard.audio_id = audio.id or heard.audio_id
                heard.words += audio.transcript or ""
                heard.audio += base64.b64decode(audio.data or "")
    return heard


@asynccontextmanager
async def chatting(
    texts: Iterable[str] = (),
    *,
    brain: Brain | None = None,
    behaviour: ChatBehaviour | None = None,
    key: str | None = None,
    engines: Any = None,
) -> AsyncIterator[tuple[LocalServer, AsyncOpenAI]]:
    """Run a server with synthetic engines, and yield it with an official client."""
    async with LocalServer(engines or synthetic_engines(texts), brain or ObedientBrain(), key=key) as server:
        server.chat.behaviour = behaviour or ChatBehaviour()
        async with AsyncOpenAI(base_url=server.base_url, api_key=key or "any", max_retries=0) as client:
            yield server, client
