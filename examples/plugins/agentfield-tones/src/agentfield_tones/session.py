"""One session at a tone service: commands to messages, messages to events. The service keeps no history, so it is kept here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal
from uuid import uuid4

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.json_fields import count_at, parse_object, text_at
from agentfield.errors import CapabilityMissing, ProviderUnavailable
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_tones.history import History

__all__ = ["TonesSession"]


class TonesSession:
    """A session (`agentfield.realtime.provider.ProviderSession`). It has no task: the reader of `events` reads the socket.

    Args:
        socket: The connection.
        endpoint: The service.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, endpoint: ProviderEndpoint, clock: Callable[[], float]
    ) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._clock = clock
        self._history = History()
        self._prefix = uuid4().hex[
            :8
        ]  # the service numbers from 1 on each connection, but ids must be unique across sessions
        self._seen = 0
        self._song = 0
        self._item: str | None = None
        self._bye: str | None = None
        self._closed = False

    async def send(self, command: Command) -> None:
        """Send `command`; return once it is written.

        Raises:
            CapabilityMissing: The service cannot do it.
            ProviderUnavailable: The connection is closed.
        """
        if self._closed or self._socket.closed:
            if isinstance(command, EndCommand):
                return
            raise self._closed_error()
        match command:
            case AppendAudioCommand():
                await self._write(command.data)
            case SayCommand():
                await self._send_op(op="sing", ref=command.id, text=command.text)
            case ReplyCommand() if not command.tools:
                hint = [["system", command.instructions]] if command.instructions else []
                await self._send_op(op="think", ref=command.id, said=[*hint, *self._history.lines()])
            case CancelReplyCommand():
                self._history.truncate(command.reply, command.heard_ms)
                await self._send_op(op="hush", song=_number(command.reply))
            case AddTextCommand():
                self._history.add(command.role, command.text)
            case EndCommand():
                await self._send_op(op="bye")
            case UpdateCommand():
                pass  # the service has no session settings
            case CommitTurnCommand():
                raise CapabilityMissing(
                    "A tone service finds the end of a turn by itself.", hint="wait for the silence"
                )
            case ReplyCommand() | ToolResultCommand():
                raise CapabilityMissing("A tone service calls no tools.", hint="call them in the handler")

    async def events(self) -> AsyncIterator[Event]:
        """Yield events in order, the last of which is `SessionClosed`. May be iterated once."""
        async for message in self._socket:
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    yield ReplyAudio(reply=self._id("song", self._song), data=message.data)
                case aiohttp.WSMsgType.TEXT:
                    for event in self._read(parse_object(message.data) or {}):
                        yield event
        yield self._end()

    async def close(self) -> None:
        """Close the connection; idempotent."""
        self._closed = True
        await self._socket.close()

    async def _send_op(self, **op: Any) -> None:
        await self._write(json.dumps(op, ensure_ascii=False))

    async def _write(self, data: str | bytes) -> None:
        try:
            await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))
        except (ConnectionError, RuntimeError, aiohttp.ClientError):
            raise self._closed_error() from None

    def _closed_error(self) -> ProviderUnavailable:
        return ProviderUnavailable(f"The line to {self._endpoint.title} is gone.", provider_code="line_gone")

    def _end(self) -> SessionClosed:
        match self._bye:
            case "time":
                return SessionClosed(reason="provider_expired", message="the line has been open for too long")
            case None if not self._closed:
                return SessionClosed(reason="provider_error", message="the line to the tone service broke", retry=True)
            case _:
                return SessionClosed(reason="closed")

    def _read(self, event: Mapping[str, Any]) -> Iterator[Event]:
        number = count_at(event, "n") or 0
        if number <= self._seen:
            return  # a repeated event
        self._seen = number
        match event.get("ev"):
            case "ready":
                seconds = count_at(event, "seconds")
                expires = None if seconds is None else self._clock() + seconds
                yield SessionReady(model=text_at(event, "model"), expires_at=expires)
            case "key":
                yield TurnStarted(item=self._id("turn", count_at(event, "turn")))
            case "turn":
                yield from self._turn_ended(
                    self._id("turn", count_at(event, "turn")), text_at(event, "text") or "", count_at(event, "ms")
                )
            case "song":
                self._song = count_at(event, "song") or 0
                yield ReplyStarted(reply=self._id("song", self._song), command=text_at(event, "ref"))
            case "sung":
                yield from self._song_ended(event, count_at(event, "ms") or 0)
            case "oops":
                code, message = text_at(event, "code") or "oops", self._endpoint.clean(text_at(event, "message") or "")
                ref = text_at(event, "ref")
                yield ProviderFault(code=code, message=message, retry=code == "busy", command=ref)
            case "bye":
                self._bye = text_at(event, "why") or "asked"

    def _id(self, kind: str, number: int | None) -> str:
        return f"{kind}_{self._prefix}_{number or 0}"

    def _turn_ended(self, item: str, text: str, at_ms: int | None) -> Iterator[Event]:
        previous, self._item = self._item, item
        self._history.add("user", text)
        yield TurnStopped(item=item, at_ms=at_ms)
        yield TurnCommitted(item=item, previous=previous)
        yield TurnTranscript(item=item, text=text)

    def _song_ended(self, event: Mapping[str, Any], sung_ms: int) -> Iterator[Event]:
        reply, text = self._id("song", count_at(event, "song")), text_at(event, "text") or ""
        cut = bool(event.get("cut"))
        status: Literal["cancelled", "completed"] = "cancelled" if cut else "completed"
        self._history.add_song(reply, text)
        yield ReplyTranscript(reply=reply, text=text, final=True)
        yield ReplyEnded(
            reply=reply,
            command=text_at(event, "ref"),
            status=status,
            why="asked" if cut else None,
            text=text,
            audio=sung_ms > 0,
            audio_ms=sung_ms,
        )


def _number(reply: str) -> int:
    digits = reply.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
