"""The terminal caller over a WebSocket: sends recordings as a stream, plays what comes by the clock, tells what it heard."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import numpy as np
from aiohttp import WSCloseCode

from agentfield.errors import AgentFieldError, ControlPlaneUnavailable, ProviderUnavailable, error_from_problem
from agentfield_cli.audio import FRAME, RATE, Resampler, Samples
from agentfield_cli.hearing import Call, Ear, Mouth, Player

__all__ = ["place_media_call"]

_CONNECT: Final = 15.0
_CLOSE: Final = 5.0
_SEND: Final = 5.0
_AWAY: Final = 10.0
"""Seconds within which a control plane takes a caller back whose connection broke."""

_AGAIN: Final = 0.5
_FINAL: Final = frozenset({WSCloseCode.OK, WSCloseCode.POLICY_VIOLATION, WSCloseCode.INTERNAL_ERROR})
"""How a connection is closed that is not to be made again."""

_TICK: Final = FRAME / RATE

Connect = Callable[[], AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]]


class _Line:
    """One end of the conversation, which outlives a connection."""

    def __init__(self, connect: Connect, rate: int, tell: Callable[[str], None], *, manual: bool) -> None:
        self.ear = Ear()
        self.ready = asyncio.Event()
        self.over = asyncio.Event()
        self._connect = connect
        self._rate = rate
        self._tell = tell
        self._manual = manual
        self._mouth = Mouth()
        self._player = Player(self.ear)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._refused: AgentFieldError | None = None
        self._down = Resampler(rate, RATE)
        self._up = Resampler(RATE, rate)

    async def say(self, samples: Samples) -> float:
        """Speak `samples`; where the session finds no end of a turn by itself, tell it."""
        at = await self._mouth.say(samples)
        if self._manual:
            await self._send_json({"type": "commit"})
        return at

    async def hang_up(self) -> None:
        """Say that this was all, and wait for the end of it."""
        if self._socket is None or self.over.is_set():
            return
        await self._send_json({"type": "hangup"})
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await self.over.wait()

    async def tick(self) -> None:
        """Speak and hear 20 ms each 20 ms, by the monotonic clock, also while there is no connection."""
        begun, count = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, begun + count * _TICK - time.monotonic()))
            count += 1
            sent = self._up(self._mouth.frame())
            if sent.size:
                await self._send(sent.astype("<i2").tobytes())
            for name in self._player.frame():
                await self._send_json({"type": "mark", "name": name})

    async def carry(self) -> None:
        """Hold a connection until the session has ended; a broken one is opened again within ten seconds.

        Raises:
            AgentFieldError: The control plane refused, or stayed away.
        """
        away: float | None = None
        while not self.over.is_set():
            try:
                async with self._connect() as socket:
                    await self._serve(socket)
            except ControlPlaneUnavailable:
                away = away or time.monotonic()
                if not self.ready.is_set() or time.monotonic() - away > _AWAY:
                    raise
            else:
                away = None
            finally:
                self._socket = None
            if not self.over.is_set():
                await asyncio.sleep(_AGAIN)

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    heard = np.frombuffer(message.data[: len(message.data) // 2 * 2], "<i2").astype(np.int16)
                    self._player.add(self._down(heard))
                case aiohttp.WSMsgType.TEXT:
                    await self._control(socket, json.loads(message.data))
                case _:
                    break
        if self._refused is not None and socket.close_code in _FINAL and not self.over.is_set():
            raise self._refused

    async def _control(self, socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
        match frame:
            case {"type": "ready"}:
                self._socket, self._refused = socket, None
                self.ready.set()
            case {"type": "clear"}:
                self._player.clear()
                self._down = Resampler(self._rate, RATE)
            case {"type": "mark", "name": str(name)}:
                self._player.mark(name)
            case {"type": "error", "problem": dict(problem)}:
                self._refused = error_from_problem(problem)
                if not self.ready.is_set():
                    raise self._refused
                self._tell(self._refused.message)
            case {"type": "ended"}:
                self.over.set()
            case _:  # events come by the session's own stream, and what is new is for others
                pass

    async def _send_json(self, frame: dict[str, Any]) -> None:
        await self._send(json.dumps(frame))

    async def _send(self, data: bytes | str) -> None:
        socket = self._socket
        if socket is None or socket.closed:
            return
        try:
            async with asyncio.timeout(_SEND):
                await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            self._socket = None  # the reading side finds out what became of it
            await socket.close()


@asynccontextmanager
async def place_media_call(
    connect: Connect, *, rate: int, manual: bool, tell: Callable[[str], None]
) -> AsyncIterator[Call]:
    """Make a call over the WebSocket for the audio and hang up at the end of the block.

    Args:
        connect: Opens the WebSocket for 16-bit samples at `rate`.
        rate: Samples per second on the wire.
        manual: Whether the end of each recording is told (push to talk).
        tell: Told what the control plane refuses while the call goes on.

    Raises:
        AgentFieldError: The control plane refused the connection, or was lost and not found again.
        ProviderUnavailable: It did not get ready (code `not_ready`).
    """
    line = _Line(connect, rate, tell, manual=manual)
    begun = time.monotonic()
    try:
        async with asyncio.TaskGroup() as tasks:  # a lost line ends the call that is under way
            carrying = tasks.create_task(line.carry())
            await _until_ready(line)
            ticking = tasks.create_task(line.tick())
            yield Call(line, line.ear, time.monotonic() - begun)
            await line.hang_up()
            carrying.cancel()
            ticking.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _until_ready(line: _Line) -> None:
    try:
        async with asyncio.timeout(_CONNECT):
            await line.ready.wait()
    except TimeoutError:
        raise ProviderUnavailable(
            f"The connection for the audio was made, but the session was not ready within {_CONNECT:g} s.",
            code="not_ready",
            hint="try the call again",
        ) from None
