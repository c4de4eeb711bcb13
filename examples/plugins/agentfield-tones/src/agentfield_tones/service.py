"""The tone service, small enough to run anywhere: ``TONES_KEY=... python -m agentfield_tones.service``.

One WebSocket at ``/talk`` is one conversation. Binary frames carry audio both ways, 16-bit samples at 8 kHz; text frames are
JSON. From the client, `op`:

- ``open`` {model, silence_ms, tone_ms} first
- ``sing`` {ref, text}: play this text; ``think`` {ref, said: [[speaker, text], ...]}: answer the conversation
- ``hush`` {song}: stop; ``bye``

From the service, `ev`, each with an increasing number `n`:

- ``ready`` {model, seconds} after ``open``; ``bye`` {why} before it closes the connection; ``oops`` {ref, code, message}
- ``key`` {turn}: a turn begins; ``turn`` {turn, text, ms}: it is over
- ``song`` {song, ref}, then binary frames, then ``sung`` {song, ref, text, ms, cut}

Only the client keeps the conversation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web

from agentfield_tones.keys import KeyDetector, keys_of, sound_of, text_of

__all__ = ["ToneService"]

_BYTES_PER_MS = 16
_PIECE = _BYTES_PER_MS * 20
_KEYS_PER_FRAME = 8
_MAX_SONGS = 8
"""Maximum queued songs."""
_SUM = re.compile(r"([0-9]+)\*([0-9]+)#?")


class ToneService:
    """The service; an async context manager that listens on loopback.

    Args:
        key: The key that clients must send.
        port: The port; 0 for a free one.
        seconds: Maximum duration of a conversation.
    """

    def __init__(self, key: str, *, port: int = 0, seconds: float = 600.0) -> None:
        self.port = port
        self.received: list[str] = []
        """Received text frames, oldest first."""
        self.refusing: tuple[int, str] | None = None
        """Status and text of the refusal of the next client."""
        self.noisy = False
        """Whether to repeat events and to add unknown ones."""
        self._key = key
        self._seconds = seconds
        self._connections: list[asyncio.Transport] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/talk", self._talk)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
        if self._runner is not None:
            await self._runner.cleanup()

    def drop(self) -> None:
        """Drop all connections."""
        for connection in list(self._connections):
            connection.abort()

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        if self.refusing is not None:
            (status, text), self.refusing = self.refusing, None
            return web.json_response({"no": text}, status=status)
        if request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"no": "who are you?"}, status=401)
        socket = web.WebSocketResponse(max_msg_size=2**20)
        await socket.prepare(request)
        connection = request.transport
        if connection is None:  # already lost
            return socket
        self._connections.append(connection)
        try:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(self._seconds + 5):
                    await _Conversation(self, socket, self._seconds).run()
        finally:
            self._connections.remove(connection)
        return socket


class _Conversation:
    """One conversation: it detects keys as they arrive, and plays songs in a task of its own."""

    def __init__(self, service: ToneService, socket: web.WebSocketResponse, seconds: float) -> None:
        self._service = service
        self._socket = socket
        self._seconds = seconds
        self._detector = KeyDetector()
        self._keys = ""
        self._heard_ms = 0
        self._turns = 0
        self._songs: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_MAX_SONGS)
        self._song = 0
        self._stopped: set[int] = set()
        self._silence_ms, self._tone_ms = 500, 60
        self._count = 0

    async def run(self) -> None:
        singer = asyncio.create_task(self._sing(), name="tone service sings")
        ending = asyncio.create_task(self._end(), name="tone service counts")
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    await self._take_audio(message.data)
                elif message.type is WSMsgType.TEXT and not await self._do(message.data):
                    break
        finally:
            for task in (singer, ending):
                task.cancel()
            await asyncio.gather(singer, ending, return_exceptions=True)

    async def _end(self) -> None:
        await asyncio.sleep(self._seconds)
        await self._send("bye", why="time")
        await self._socket.close()

    async def _do(self, text: str) -> bool:
        self._service.received.append(text)
        match json.loads(text):
            case {"op": "open", "model": str(model), "silence_ms": int(silence), "tone_ms": int(tone)}:
                self._silence_ms, self._tone_ms = silence, tone
                await self._send("ready", model=model, seconds=self._seconds)
            case {"op": "sing", "ref": str(ref), "text": str(words)}:
                await self._queue(ref, words)
            case {"op": "think", "ref": str(ref), "said": list(said)}:
                await self._queue(ref, _answer(said))
            case {"op": "hush", "song": int(song)}:
                self._stopped.add(song)
            case {"op": "bye"}:
                await self._send("bye", why="asked")
                return False
            case _:
                await self._send("oops", ref=None, code="nonsense", message="what do you mean?")
        return True

    async def _queue(self, ref: str, words: str) -> None:
        try:
            self._songs.put_nowait((ref, words))
        except asyncio.QueueFull:
            await self._send("oops", ref=ref, code="busy", message="too many songs wait already")

    async def _take_audio(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._heard_ms += len(piece) // _BYTES_PER_MS
            keys = self._detector.feed(piece)
            if keys and not self._keys:
                self._turns += 1
                await self._send("key", turn=self._turns)
            self._keys += keys
            if self._keys and self._detector.silent_ms >= self._silence_ms:
                words, self._keys = text_of(self._keys), ""
                await self._send("turn", turn=self._turns, text=words, ms=self._heard_ms)

    async def _sing(self) -> None:
        while True:
            ref, words = await self._songs.get()
            self._song += 1
            song, sent = self._song, 0
            await self._send("song", song=song, ref=ref)
            keys = keys_of(words)
            for at in range(0, len(keys), _KEYS_PER_FRAME):
                if song in self._stopped:
                    break
                sound = b"".join(sound_of(key, self._tone_ms) for key in keys[at : at + _KEYS_PER_FRAME])
                await self._socket.send_bytes(sound)
                sent += len(sound)
                await asyncio.sleep(0)  # let `hush` be received
            cut = song in self._stopped
            self._stopped.discard(song)
            await self._send("sung", song=song, ref=ref, text=words, ms=sent // _BYTES_PER_MS, cut=cut)

    async def _send(self, event: str, **values: Any) -> None:
        self._count += 1
        text = json.dumps({"ev": event, "n": self._count, **values})
        await self._socket.send_str(text)
        if self._service.noisy:
            await self._socket.send_str(text)
            self._count += 1
            await self._socket.send_str(json.dumps({"ev": "weather", "n": self._count, "sky": "blue"}))


def _answer(said: Sequence[Sequence[str]]) -> str:
    """Return the answer: the sum of two numbers, or the caller's text."""
    last = next((text for speaker, text in reversed(said) if speaker == "user"), "")
    found = _SUM.fullmatch(last)
    if found:
        return f"{found[1]} and {found[2]} make {int(found[1]) + int(found[2])}."
    return f"I heard {last}." if last else "I heard nothing."


async def _serve(key: str, port: int) -> None:
    async with ToneService(key, port=port) as service:
        print(f"listening on http://127.0.0.1:{service.port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m agentfield_tones.service")
    parser.add_argument("--port", type=int, default=8473)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(os.environ["TONES_KEY"], parser.parse_args().port))


if __name__ == "__main__":
    main()
