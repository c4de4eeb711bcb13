"""Caller leg over a WebSocket: audio in binary frames, control in JSON text frames, every frame validated."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentfield.errors import AgentFieldError, CapabilityMissing, InvalidInput, LimitExceeded, Unavailable
from agentfield.plugins.manifest.spec import Capabilities
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import (
    CallerAudio,
    CallerBegin,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerInput,
    CallerMark,
    CallerText,
)
from agentfield_server.api.http.bodies import strict_json

__all__ = ["MAX_AUDIO", "MAX_BAD", "MAX_MESSAGE", "MAX_TEXT", "WebSocketLeg"]

MAX_AUDIO = 256 * 1024
"""Maximum bytes of a binary frame."""
MAX_TEXT = 64 * 1024
"""Maximum bytes of a text frame."""
MAX_MESSAGE = 1024 * 1024
"""Maximum bytes of any frame; a larger one closes the connection."""
MAX_BAD = 20
"""Rejected frames after which the connection is closed."""
_MAX_AHEAD_MS = 5000.0
"""Milliseconds of audio that may arrive ahead of real time."""
_MAX_SAVED_MS = 30_000.0
"""Milliseconds of silence that later audio may catch up with, for a caller that records before it sends."""
_WRITE_BUFFER = 16 * 1024
"""Bytes in the write buffer up to which a send does not wait; well below aiohttp's high-water mark."""
_SEND_WAIT = 5.0
_WARN_INTERVAL = 1.0
_SILENT_CHECKS = 3
"""Consecutive checks without a frame: one during the silence, one that pings, and one that finds no answer."""
_write = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Mark(_Frame):
    type: Literal["mark"]
    name: str = Field(max_length=128)


class _Text(_Frame):
    type: Literal["text"]
    text: str = Field(min_length=1, max_length=8000)


class _Begin(_Frame):
    type: Literal["begin"]


class _Commit(_Frame):
    type: Literal["commit"]


class _Dtmf(_Frame):
    type: Literal["dtmf"]
    digit: str = Field(pattern=r"^[0-9A-D*#]$")


class _Hangup(_Frame):
    type: Literal["hangup"]


_control: TypeAdapter[_Mark | _Text | _Begin | _Commit | _Dtmf | _Hangup] = TypeAdapter(
    Annotated[_Mark | _Text | _Begin | _Commit | _Dtmf | _Hangup, Field(discriminator="type")]
)


_PLAIN_MARK = re.compile(r'\{\s*"type"\s*:\s*"mark"\s*,\s*"name"\s*:\s*"([^"\\\x00-\x1f]{0,128})"\s*\}')
"""Fast path for the usual spelling of a mark frame, which arrives about five times per second."""


class WebSocketLeg:
    """The caller leg over a prepared WebSocket (`agentfield.realtime.caller.CallerLeg`).

    Args:
        socket: The connection.
        audio: The format of both directions.
        capabilities: The capabilities of the pair; a frame that needs another one is rejected.
        clock: Seconds of a monotonic clock.
        transport: The connection's transport, for `writable`; None if unknown.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        audio: AudioFormat,
        *,
        capabilities: Capabilities,
        clock: Callable[[], float],
        transport: asyncio.Transport | None = None,
    ) -> None:
        self._socket = socket
        self._transport = transport
        self._audio = audio
        self._sample_bytes = audio.frame
        self._capabilities = capabilities
        self._clock = clock
        self._measured_at = clock()
        self._ahead_ms = 0.0
        self._warned_at = 0.0
        self._bad_frames = 0
        self._receiving = False
        """Whether `input` is waiting for a frame."""
        self._silent_checks = 0
        """Number of silence checks since the last frame."""
        self.hung_up = False
        """Whether the caller sent `hangup`."""

    # --- CallerLeg, used by the bridge

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""
        return self._audio

    @property
    def marks(self) -> bool:
        """True: the caller confirms marks once they were played."""
        return True

    @property
    def paced(self) -> bool:
        """True: audio is sent in real time, so that little of it must be discarded by `clear`."""
        return True

    @property
    def listening(self) -> bool:
        """Whether the connection is open."""
        return not self._socket.closed

    @property
    def writable(self) -> bool:
        """Whether a send returns without waiting for the connection to drain."""
        transport = self._transport
        return (
            transport is not None and not transport.is_closing() and transport.get_write_buffer_size() <= _WRITE_BUFFER
        )

    async def play(self, reply: str, data: bytes) -> None:  # noqa: ARG002 - the contract; marks tell replies apart here
        """Send audio.

        Raises:
            Unavailable: The connection is gone.
        """
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, RuntimeError) as error:
            raise _caller_gone_error() from error

    async def mark(self, name: str) -> None:
        """Ask the caller to confirm when everything sent so far was played.

        Raises:
            Unavailable: The connection is gone.
        """
        await self.send({"type": "mark", "name": name})

    async def clear(self) -> None:
        """Tell the caller to discard audio that was not played yet.

        Raises:
            Unavailable: The connection is gone.
        """
        await self.send({"type": "clear"})

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield the caller's input; an invalid frame is answered with an error and skipped."""
        while True:
            self._receiving = True
            message = await self._socket.receive()
            self._receiving = False
            self._silent_checks = 0
            try:
                if message.type is WSMsgType.BINARY:
                    received = self._read_audio(message.data)
                elif message.type is WSMsgType.TEXT:
                    received = self._read_control(message.data)
                elif message.type is WSMsgType.PING:
                    received = await self._pong(message.data)
                elif message.type is WSMsgType.PONG:
                    continue
                else:
                    received = CallerGone("the connection was lost", hung_up=False)
            except AgentFieldError as error:
                if not await self._reject_frame(error):
                    yield CallerGone("too many invalid frames", hung_up=False)
                    return
                continue
            if received is not None:
                yield received
            if isinstance(received, CallerGone):
                return

    async def close(self) -> None:
        """Close the connection; idempotent."""
        await self._socket.close()

    # --- used by the route

    async def wait_silent(self, seconds: float) -> None:
        """Return once the caller is silent for `seconds`, is pinged, and stays silent for as long again.

        A periodic check replaces a timer per frame. Only the time in which `input` waits for a frame counts as silence.
        """
        while self._silent_checks < _SILENT_CHECKS:
            await asyncio.sleep(seconds)
            # while the bridge is busy and `input` does not wait, unread frames may be queued: that is no silence
            self._silent_checks += self._receiving
            if self._silent_checks == _SILENT_CHECKS - 1:
                try:
                    async with asyncio.timeout(seconds):
                        await self._socket.ping()
                except (TimeoutError, ConnectionError, RuntimeError):
                    return

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Send a JSON frame.

        Raises:
            Unavailable: The connection is gone.
        """
        await self._send(_write(frame))

    async def send_error(self, error: AgentFieldError) -> None:
        """Send an error frame.

        Raises:
            Unavailable: The connection is gone.
        """
        await self.send({"type": "error", "problem": error.to_problem()})

    # --- inside

    def _read_audio(self, data: bytes) -> CallerInput | None:
        if not data:
            return None
        if len(data) > MAX_AUDIO:
            raise _too_large_error("An audio", len(data), MAX_AUDIO)
        if len(data) % self._sample_bytes:
            raise InvalidInput(
                f"{len(data)} bytes are not a whole number of samples of {self._audio.name}.",
                code="odd_audio",
                hint=f"send a multiple of {self._sample_bytes} bytes; was another format meant?",
            )
        return CallerAudio(data) if self._within_pace(len(data)) else None

    def _within_pace(self, size: int) -> bool:
        """Tell whether audio arrives no faster than real time, within the allowances."""
        now = self._clock()
        self._ahead_ms = max(-_MAX_SAVED_MS, self._ahead_ms - (now - self._measured_at) * 1000)
        self._measured_at = now
        length = self._audio.ms(size)
        if self._ahead_ms + length <= _MAX_AHEAD_MS:
            self._ahead_ms += length
            return True
        if now - self._warned_at < _WARN_INTERVAL:
            return False
        self._warned_at = now
        raise LimitExceeded(
            "Audio arrives faster than real time; the excess is dropped.",
            code="audio_too_fast",
            hint="send audio at the pace of speech",
        )

    def _read_control(self, text: str) -> CallerInput | None:
        if len(text) > MAX_TEXT or len(text.encode()) > MAX_TEXT:
            raise _too_large_error("A text", len(text), MAX_TEXT)
        if mark := _PLAIN_MARK.fullmatch(text):
            return CallerMark(mark[1])
        value = strict_json(text)
        try:
            frame = _control.validate_python(value)
        except ValidationError as error:
            raise _bad_frame_error(error) from None
        match frame:
            case _Mark():
                return CallerMark(frame.name)
            case _Text():
                self._require("text_input", self._capabilities.text_input)
                return CallerText(frame.text)
            case _Begin():
                return CallerBegin()
            case _Commit():
                return CallerCommit()
            case _Dtmf():
                self._require("dtmf", self._capabilities.dtmf)
                return CallerDtmf(frame.digit)
            case _Hangup():
                self.hung_up = True
                return CallerGone("", hung_up=True)

    def _require(self, name: str, can: bool) -> None:
        if not can:
            raise CapabilityMissing(
                f"This session's pair has no {name}.", hint="af adapters lists the capabilities of each pair"
            )

    async def _pong(self, ping: bytes) -> CallerInput | None:
        """Answer a ping; return `CallerGone` if it cannot be sent in time."""
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await self._socket.pong(ping)
        except (TimeoutError, ConnectionError, RuntimeError):
            return CallerGone("the connection was lost", hung_up=False)
        return None

    async def _reject_frame(self, error: AgentFieldError) -> bool:
        """Answer an invalid frame with an error; return False if the connection was closed for it."""
        if error.code != "audio_too_fast":
            self._bad_frames += 1
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await self.send_error(error)
                if self._bad_frames > MAX_BAD:
                    await self._socket.close(code=1008, message=b"too many invalid frames")
        except (TimeoutError, Unavailable):
            return False
        return self._bad_frames <= MAX_BAD

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            raise _caller_gone_error() from error


def _caller_gone_error() -> Unavailable:
    return Unavailable("the caller's connection is gone", code="caller_gone")


def _too_large_error(kind: str, size: int, limit: int) -> LimitExceeded:
    error = LimitExceeded(
        f"{kind} frame of {size} bytes is too large; the limit is {limit}.",
        code="frame_too_large",
        hint="send smaller frames: 20 to 100 ms of audio",
    )
    error.status = 413
    return error


def _bad_frame_error(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return InvalidInput(
        f"The frame is invalid{': ' + field if field else ''}: {first['msg'][:200]}.",
        code="bad_frame",
        hint="frames of callers are mark, text, begin, commit, dtmf and hangup; audio is binary",
        **({"field": field} if field else {}),
    )
