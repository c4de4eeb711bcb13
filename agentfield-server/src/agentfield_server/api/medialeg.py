"""A caller on a WebSocket: audio in binary frames, everything else in small JSON frames, nothing taken on trust."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentfield.errors import AgentFieldError, CapabilityMissing, InvalidInput, LimitExceeded, Unavailable
from agentfield.plugins.spec import Capabilities
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import (
    CallerAudio,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerInput,
    CallerMark,
    CallerText,
)
from agentfield_server.api.http import strict_json

__all__ = ["MAX_AUDIO", "MAX_BAD", "MAX_MESSAGE", "MAX_TEXT", "WebSocketLeg"]

MAX_AUDIO = 256 * 1024
"""Bytes of one binary frame."""
MAX_TEXT = 64 * 1024
"""Bytes of one text frame."""
MAX_MESSAGE = 1024 * 1024
"""Bytes of a frame that is read at all."""
MAX_BAD = 20
"""Frames that may be refused before the connection is."""
_AHEAD_MS = 5000.0
"""Audio that may come ahead of real time."""
_SAVED_MS = 30_000.0
"""Silence that audio may catch up with, for a caller that records before it sends."""
_ON_ITS_WAY = 16 * 1024
"""Bytes that the library never waits for."""
_SEND_WAIT = 5.0
_COMPLAIN_EVERY = 1.0
_LOST = 3
"""Looks without a frame between them: one in the midst of silence, one that pings, and one that finds no answer."""
_write = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Mark(_Frame):
    type: Literal["mark"]
    name: str = Field(max_length=128)


class _Text(_Frame):
    type: Literal["text"]
    text: str = Field(min_length=1, max_length=8000)


class _Commit(_Frame):
    type: Literal["commit"]


class _Dtmf(_Frame):
    type: Literal["dtmf"]
    digit: str = Field(pattern=r"^[0-9A-D*#]$")


class _Hangup(_Frame):
    type: Literal["hangup"]


_control: TypeAdapter[_Mark | _Text | _Commit | _Dtmf | _Hangup] = TypeAdapter(
    Annotated[_Mark | _Text | _Commit | _Dtmf | _Hangup, Field(discriminator="type")]
)


_PLAIN_MARK = re.compile(r'\{\s*"type"\s*:\s*"mark"\s*,\s*"name"\s*:\s*"([^"\\\x00-\x1f]{0,128})"\s*\}')
"""A mark as nearly every caller writes it, five times a second: read at once, with the same meaning."""


class WebSocketLeg:
    """The caller's leg over a prepared WebSocket (`agentfield.realtime.caller.CallerLeg`).

    Args:
        socket: The connection.
        audio: The format of both directions.
        capabilities: What the pair can do; a caller that wants more is told so.
        clock: Seconds of a monotonic clock.
        transport: What the connection writes to; without it the leg never says that it is writable.
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
        self._sample = audio.frame
        self._capabilities = capabilities
        self._clock = clock
        self._began = clock()
        self._ahead_ms = 0.0
        self._complained = 0.0
        self._bad = 0
        self._waits = False
        """Whether `input` waits for a frame."""
        self._silent = 0
        """How often it was looked since the last frame."""
        self.hung_up = False
        """Whether the caller said that the call is over."""

    # --- for the bridge

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""
        return self._audio

    @property
    def marks(self) -> bool:
        """True: the caller is asked what it has heard."""
        return True

    @property
    def paced(self) -> bool:
        """True: the caller has no more than a moment of audio that it may have to throw away."""
        return True

    @property
    def listening(self) -> bool:
        """Whether the connection is there."""
        return not self._socket.closed

    @property
    def writable(self) -> bool:
        """Whether a frame goes out without waiting: the connection asks to wait with much more than this on its way."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() <= _ON_ITS_WAY

    async def play(self, reply: str, data: bytes) -> None:  # noqa: ARG002 - the contract; marks tell replies apart here
        """Send audio.

        Raises:
            Unavailable: The connection is gone.
        """
        try:
            await self._socket.send_bytes(data)
        except (ConnectionError, RuntimeError) as error:
            raise _gone() from error

    async def mark(self, name: str) -> None:
        """Ask to be told when everything sent so far was heard.

        Raises:
            Unavailable: The connection is gone.
        """
        await self.send({"type": "mark", "name": name})

    async def clear(self) -> None:
        """Tell the caller to throw away what it has not played.

        Raises:
            Unavailable: The connection is gone.
        """
        await self.send({"type": "clear"})

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield what the caller does; frames that do not fit are answered with an error and left out."""
        while True:
            self._waits = True
            message = await self._socket.receive()
            self._waits = False
            self._silent = 0
            try:
                if message.type is WSMsgType.BINARY:
                    heard = self._read_audio(message.data)
                elif message.type is WSMsgType.TEXT:
                    heard = self._read_control(message.data)
                elif message.type is WSMsgType.PING:
                    heard = await self._answer(message.data)
                elif message.type is WSMsgType.PONG:
                    continue
                else:
                    heard = CallerGone("the connection was lost", hung_up=False)
            except AgentFieldError as error:
                if not await self._refuse(error):
                    yield CallerGone("too many frames did not fit", hung_up=False)
                    return
                continue
            if heard is not None:
                yield heard
            if isinstance(heard, CallerGone):
                return

    async def close(self) -> None:
        """Close the connection; idempotent."""
        await self._socket.close()

    # --- for the route

    async def silence(self, seconds: float) -> None:
        """Wait until the caller is not there: it was silent for `seconds`, was pinged, and was silent for as long again.

        One timer looks now and then, none is set anew with each frame. Only while `input` waits is the caller silent.
        """
        while self._silent < _LOST:
            await asyncio.sleep(seconds)
            self._silent += self._waits
            if self._silent == _LOST - 1:
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

    async def tell(self, error: AgentFieldError) -> None:
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
            raise _too_large("An audio", len(data), MAX_AUDIO)
        if len(data) % self._sample:
            raise InvalidInput(
                f"{len(data)} bytes are no whole number of samples of {self._audio.name}.",
                code="odd_audio",
                hint=f"send a multiple of {self._sample} bytes; was another format meant?",
            )
        return CallerAudio(data) if self._in_time(len(data)) else None

    def _in_time(self, size: int) -> bool:
        """Count audio against the time that it takes to say it."""
        now = self._clock()
        self._ahead_ms = max(-_SAVED_MS, self._ahead_ms - (now - self._began) * 1000)
        self._began = now
        length = self._audio.ms(size)
        if self._ahead_ms + length <= _AHEAD_MS:
            self._ahead_ms += length
            return True
        if now - self._complained < _COMPLAIN_EVERY:
            return False
        self._complained = now
        raise LimitExceeded(
            "Audio comes faster than it can be said; what is too early is dropped.",
            code="audio_too_fast",
            hint="send audio at the pace of speech",
        )

    def _read_control(self, text: str) -> CallerInput | None:
        if len(text) > MAX_TEXT or len(text.encode()) > MAX_TEXT:
            raise _too_large("A text", len(text), MAX_TEXT)
        if mark := _PLAIN_MARK.fullmatch(text):
            return CallerMark(mark[1])
        value = strict_json(text)
        try:
            frame = _control.validate_python(value)
        except ValidationError as error:
            raise _unfit(error) from None
        match frame:
            case _Mark():
                return CallerMark(frame.name)
            case _Text():
                self._need("text_input", self._capabilities.text_input)
                return CallerText(frame.text)
            case _Commit():
                return CallerCommit()
            case _Dtmf():
                self._need("dtmf", self._capabilities.dtmf)
                return CallerDtmf(frame.digit)
            case _Hangup():
                self.hung_up = True
                return CallerGone("", hung_up=True)

    def _need(self, name: str, can: bool) -> None:
        if not can:
            raise CapabilityMissing(f"This session's pair has no {name}.", hint="af adapters tells what each pair can")

    async def _answer(self, ping: bytes) -> CallerInput | None:
        """Answer a ping; returns the end of the call if that cannot be done in time."""
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await self._socket.pong(ping)
        except (TimeoutError, ConnectionError, RuntimeError):
            return CallerGone("the connection was lost", hung_up=False)
        return None

    async def _refuse(self, error: AgentFieldError) -> bool:
        """Answer a frame that does not fit; returns whether the caller may go on."""
        if error.code != "audio_too_fast":
            self._bad += 1
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await self.tell(error)
                if self._bad > MAX_BAD:
                    await self._socket.close(code=1008, message=b"too many frames did not fit")
        except (TimeoutError, Unavailable):
            return False
        return self._bad <= MAX_BAD

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            raise _gone() from error


def _gone() -> Unavailable:
    return Unavailable("the caller's connection is gone", code="caller_gone")


def _too_large(what: str, size: int, most: int) -> LimitExceeded:
    error = LimitExceeded(
        f"{what} frame of {size} bytes is too large; {most} are the most.",
        code="frame_too_large",
        hint="send smaller frames: 20 to 100 ms of audio",
    )
    error.status = 413
    return error


def _unfit(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return InvalidInput(
        f"The frame does not fit{': ' + field if field else ''}: {first['msg'][:200]}.",
        code="bad_frame",
        hint="frames of callers are mark, text, commit, dtmf and hangup; audio is binary",
        **({"field": field} if field else {}),
    )
