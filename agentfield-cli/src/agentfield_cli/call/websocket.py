"""Terminal caller over a WebSocket: streams recordings, plays received audio in real time, reports playout marks."""

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
from agentfield_cli.call.audio_io import AudioSink, AudioSource, PlayoutBuffer, TerminalCall
from agentfield_cli.call.recordings import FRAME, RATE, Resampler, Samples

__all__ = ["place_websocket_call"]

_READY_TIMEOUT: Final = 15.0
_CLOSE_TIMEOUT: Final = 5.0
_SEND_TIMEOUT: Final = 5.0
_RECONNECT_WINDOW: Final = 10.0
"""Seconds within which a control plane accepts the reconnection of a caller."""

_RECONNECT_INTERVAL: Final = 0.5
_FINAL_CODES: Final = frozenset({WSCloseCode.OK, WSCloseCode.POLICY_VIOLATION, WSCloseCode.INTERNAL_ERROR})
"""Close codes after which the caller does not reconnect."""

_TICK: Final = FRAME / RATE

Connect = Callable[[], AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]]


class _WebSocketCaller:
    """The caller's end of the conversation; it outlives single connections."""

    def __init__(self, connect: Connect, rate: int, on_refusal: Callable[[str], None], *, manual: bool) -> None:
        self.sink = AudioSink()
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self._connect = connect
        self._rate = rate
        self._on_refusal = on_refusal
        self._manual = manual
        self._source = AudioSource()
        self._player = PlayoutBuffer(self.sink)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._refused: AgentFieldError | None = None
        self._down = Resampler(rate, RATE)
        self._up = Resampler(RATE, rate)

    async def say(self, samples: Samples) -> float:
        """Speak `samples`; without turn detection, commit the turn afterwards."""
        at = await self._source.say(samples)
        if self._manual:
            await self._send_json({"type": "commit"})
        return at

    async def hang_up(self) -> None:
        """Send a hang-up and wait for the end of the session."""
        if self._socket is None or self.ended.is_set():
            return
        await self._send_json({"type": "hangup"})
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self.ended.wait()

    async def tick(self) -> None:
        """Send and play one frame every 20 ms of the monotonic clock, also while the connection is down."""
        started, count = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, started + count * _TICK - time.monotonic()))
            count += 1
            sent = self._up(self._source.frame())
            if sent.size:
                await self._send(sent.astype("<i2").tobytes())
            for name in self._player.frame():
                await self._send_json({"type": "mark", "name": name})

    async def stay_connected(self) -> None:
        """Keep a connection until the session has ended; reopen a broken one within ten seconds.

        Raises:
            AgentFieldError: The control plane refused the connection, or could not be reached again.
        """
        lost_at: float | None = None
        while not self.ended.is_set():
            try:
                async with self._connect() as socket:
                    await self._serve(socket)
            except ControlPlaneUnavailable:
                lost_at = lost_at or time.monotonic()
                if not self.ready.is_set() or time.monotonic() - lost_at > _RECONNECT_WINDOW:
                    raise
            else:
                lost_at = None
            finally:
                self._socket = None
            if not self.ended.is_set():
                await asyncio.sleep(_RECONNECT_INTERVAL)

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    samples = np.frombuffer(message.data[: len(message.data) // 2 * 2], "<i2").astype(np.int16)
                    self._player.add(self._down(samples))
                case aiohttp.WSMsgType.TEXT:
                    await self._control(socket, json.loads(message.data))
                case _:
                    break
        if self._refused is not None and socket.close_code in _FINAL_CODES and not self.ended.is_set():
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
                self._on_refusal(self._refused.message)
            case {"type": "ended"}:
                self.ended.set()
            case _:  # events are read from the session's event stream; unknown frames are ignored
                pass

    async def _send_json(self, frame: dict[str, Any]) -> None:
        await self._send(json.dumps(frame))

    async def _send(self, data: bytes | str) -> None:
        socket = self._socket
        if socket is None or socket.closed:
            return
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))
        except (TimeoutError, ConnectionError, aiohttp.ClientError):
            self._socket = None  # `_serve` reads the close and decides whether to reconnect
            await socket.close()


@asynccontextmanager
async def place_websocket_call(
    connect: Connect, *, rate: int, manual: bool, on_refusal: Callable[[str], None]
) -> AsyncIterator[TerminalCall]:
    """Place a call over the media WebSocket and hang up at the end of the block.

    Args:
        connect: Opens the WebSocket for 16-bit samples at `rate`.
        rate: Samples per second on the wire.
        manual: Whether the caller commits each turn itself (push to talk).
        on_refusal: Receives the message of each refusal during the call.

    Raises:
        AgentFieldError: The control plane refused the connection, or it was lost for good.
        ProviderUnavailable: The session was not ready in time (code `not_ready`).
    """
    caller = _WebSocketCaller(connect, rate, on_refusal, manual=manual)
    started = time.monotonic()
    try:
        async with (
            asyncio.TaskGroup() as tasks
        ):  # a connection that is lost for good raises and thereby cancels the running call
            connecting = tasks.create_task(caller.stay_connected())
            await _wait_until_ready(caller)
            ticking = tasks.create_task(caller.tick())
            yield TerminalCall(caller, caller.sink, time.monotonic() - started)
            await caller.hang_up()
            connecting.cancel()
            ticking.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _wait_until_ready(caller: _WebSocketCaller) -> None:
    try:
        async with asyncio.timeout(_READY_TIMEOUT):
            await caller.ready.wait()
    except TimeoutError:
        raise ProviderUnavailable(
            f"The media connection was opened, but the session was not ready within {_READY_TIMEOUT:g} s.",
            code="not_ready",
            hint="try the call again",
        ) from None
