"""The tone service itself, small enough to run anywhere: ``TONES_KEY=... python -m agentfield_tones.service``.

One WebSocket at ``/talk`` is one conversation. Binary frames carry sound both ways, 16-bit samples at 8 kHz; text frames are
JSON. From the client, `op`:

- ``open`` {model, silence_ms, tone_ms} first
- ``sing`` {ref, text}: sound this text; ``think`` {ref, said: [[who, text], ...]}: answer what was said
- ``hush`` {song}: stop; ``bye``

From the service, `ev`, each with a number `n` that grows:

- ``ready`` {model, seconds} after ``open``; ``bye`` {why} before it closes the line; ``oops`` {ref, code, message}
- ``key`` {turn}: a turn begins; ``turn`` {turn, text, ms}: it is over
- ``song`` {song, ref}, then binary frames, then ``sung`` {song, ref, text, ms, cut}

Only the client remembers what was said.
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

_BYTES_A_MS = 16
_PIECE = _BYTES_A_MS * 20
_KEYS_A_FRAME = 8
_MOST_SONGS = 8
"""Songs that may wait for each other."""
_SUM = re.compile(r"([0-9]+)\*([0-9]+)#?")


class ToneService:
    """The service; an async context manager that listens on this machine.

    Args:
        key: What clients must show.
        port: Where to listen; 0 takes a free port.
        seconds: How long a conversation may last.
    """

    def __init__(self, key: str, *, port: int = 0, seconds: float = 600.0) -> None:
        self.port = port
        self.received: list[str] = []
        """The text frames that came, oldest first."""
        self.refusing: tuple[int, str] | None = None
        """Status and text with which the next caller is refused."""
        self.noisy = False
        """Whether events come twice, and with others between them that nobody knows."""
        self._key = key
        self._seconds = seconds
        self._lines: list[asyncio.Transport] = []
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
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()

    def cut(self) -> None:
        """Break every line without a word."""
        for line in list(self._lines):
            line.abort()

    async def _talk(self, request: web.Request) -> web.StreamResponse:
        if self.refusing is not None:
            (status, text), self.refusing = self.refusing, None
            return web.json_response({"no": text}, status=status)
        if request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"no": "who are you?"}, status=401)
        socket = web.WebSocketResponse(max_msg_size=2**20)
        await socket.prepare(request)
        line = request.transport
        if line is None:  # gone already
            return socket
        self._lines.append(line)
        try:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(self._seconds + 5):
                    await _Conversation(self, socket, self._seconds).run()
        finally:
            self._lines.remove(line)
        return socket


class _Conversation:
    """One line: listens, and sings in a task of its own."""

    def __init__(self, service: ToneService, socket: web.WebSocketResponse, seconds: float) -> None:
        self._service = service
        self._socket = socket
        self._seconds = seconds
        self._ear = KeyDetector()
        self._keys = ""
        self._heard_ms = 0
        self._turns = 0
        self._songs: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_MOST_SONGS)
        self._song = 0
        self._hushed: set[int] = set()
        self._silence_ms, self._tone_ms = 500, 60
        self._count = 0

    async def run(self) -> None:
        singer = asyncio.create_task(self._sing(), name="tone service sings")
        ending = asyncio.create_task(self._end(), name="tone service counts")
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    await self._hear(message.data)
                elif message.type is WSMsgType.TEXT and not await self._do(message.data):
                    break
        finally:
            for task in (singer, ending):
                task.cancel()
            await asyncio.gather(singer, ending, return_exceptions=True)

    async def _end(self) -> None:
        await asyncio.sleep(self._seconds)
        await self._tell("bye", why="time")
        await self._socket.close()

    async def _do(self, text: str) -> bool:
        self._service.received.append(text)
        match json.loads(text):
            case {"op": "open", "model": str(model), "silence_ms": int(silence), "tone_ms": int(tone)}:
                self._silence_ms, self._tone_ms = silence, tone
                await self._tell("ready", model=model, seconds=self._seconds)
            case {"op": "sing", "ref": str(ref), "text": str(words)}:
                await self._queue(ref, words)
            case {"op": "think", "ref": str(ref), "said": list(said)}:
                await self._queue(ref, _answer(said))
            case {"op": "hush", "song": int(song)}:
                self._hushed.add(song)
            case {"op": "bye"}:
                await self._tell("bye", why="asked")
                return False
            case _:
                await self._tell("oops", ref=None, code="nonsense", message="what do you mean?")
        return True

    async def _queue(self, ref: str, words: str) -> None:
        try:
            self._songs.put_nowait((ref, words))
        except asyncio.QueueFull:
            await self._tell("oops", ref=ref, code="busy", message="too many songs wait already")

    async def _hear(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self._heard_ms += len(piece) // _BYTES_A_MS
            keys = self._ear.hear(piece)
            if keys and not self._keys:
                self._turns += 1
                await self._tell("key", turn=self._turns)
            self._keys += keys
            if self._keys and self._ear.silent_ms >= self._silence_ms:
                words, self._keys = text_of(self._keys), ""
                await self._tell("turn", turn=self._turns, text=words, ms=self._heard_ms)

    async def _sing(self) -> None:
        while True:
            ref, words = await self._songs.get()
            self._song += 1
            song, sent = self._song, 0
            await self._tell("song", song=song, ref=ref)
            keys = keys_of(words)
            for at in range(0, len(keys), _KEYS_A_FRAME):
                if song in self._hushed:
                    break
                sound = b"".join(sound_of(key, self._tone_ms) for key in keys[at : at + _KEYS_A_FRAME])
                await self._socket.send_bytes(sound)
                sent += len(sound)
                await asyncio.sleep(0)  # whoever wants silence is heard
            cut = song in self._hushed
            self._hushed.discard(song)
            await self._tell("sung", song=song, ref=ref, text=words, ms=sent // _BYTES_A_MS, cut=cut)

    async def _tell(self, event: str, **values: Any) -> None:
        self._count += 1
        text = json.dumps({"ev": event, "n": self._count, **values})
        await self._socket.send_str(text)
        if self._service.noisy:
            await self._socket.send_str(text)
            self._count += 1
            await self._socket.send_str(json.dumps({"ev": "weather", "n": self._count, "sky": "blue"}))


def _answer(said: Sequence[Sequence[str]]) -> str:
    """Return what the service has to say: it adds up two numbers, and repeats everything else."""
    last = next((text for who, text in reversed(said) if who == "user"), "")
    found = _SUM.fullmatch(last)
    if found:
        return f"{found[1]} and {found[2]} make {int(found[1]) + int(found[2])}."
    return f"I heard {last}." if last else "I heard nothing."


async def _serve(key: str, port: int) -> None:
    async with ToneService(key, port=port) as service:
        print(f"listening on http://127.0.0.1:{service.port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m agentfield_tones.service")
    parser.add_argument("--port", type=int, default=8473)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(os.environ["TONES_KEY"], parser.parse_args().port))


if __name__ == "__main__":
    main()
