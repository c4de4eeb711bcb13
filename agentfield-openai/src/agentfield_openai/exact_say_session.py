"""``say="exact"`` on a WebSocket session: the speech endpoint speaks, and the conversation gets the heard text."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import CancelReplyCommand, Command, EndCommand, SayCommand
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
)
from agentfield_openai.codec import Codec
from agentfield_openai.codec.error_classification import FATAL_CODES
from agentfield_openai.session import RealtimeSession
from agentfield_openai.speech_endpoint import SpeechEndpoint, heard_text

__all__ = ["ExactSaySession"]

_MAX_SECONDS = 600.0
"""Time limit in seconds for the generation of one text."""
_MAX_WAITING = 256
"""Queued events beyond which the speech endpoint and the provider must wait (backpressure)."""
_MAX_REMEMBERED = 64
_RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class _ExactSay:
    """Progress of one exact say."""

    command: str
    text: str
    reply: str
    item: str
    size: int = 0
    started: bool = False
    complete: bool = False
    ended: bool = False
    is_truncated: bool = False


class ExactSaySession:
    """A session that speaks `SayCommand` word for word (`agentfield.realtime.provider.ProviderSession`).

    Wraps the session with the model: a say command becomes a request to the speech endpoint, whose audio is merged into
    the events of the session. All other commands pass through.

    Args:
        session: The session with the model.
        codec: Its codec.
        speech: The speech endpoint.
        audio: Format of the audio.
    """

    def __init__(self, session: RealtimeSession, codec: Codec, speech: SpeechEndpoint, audio: AudioFormat) -> None:
        self._session = session
        self._codec = codec
        self._speech = speech
        self._audio = audio
        self._queue: deque[Event] = deque()
        self._queued = asyncio.Event()
        self._has_capacity = asyncio.Event()
        self._has_capacity.set()
        self._says: dict[str, _ExactSay] = {}
        self._now: _ExactSay | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, command: Command) -> None:
        """Send a command; a say command starts a task that speaks.

        Raises:
            CapabilityMissing: The pair does not support the command.
            InvalidInput: A reply names a tool that the session does not declare.
            ProviderUnavailable: There is no connection to the provider.
        """
        match command:
            case SayCommand():
                self._start(command)
            case CancelReplyCommand() if command.reply in self._says:
                await self._interrupt(self._says[command.reply], command.heard_ms)
            case EndCommand():
                await self._stop_speaking()
                await self._session.send(command)
            case _:
                await self._session.send(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the session in order; the last one is `SessionClosed`. May be iterated once."""
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._queued.set())
        try:
            while True:
                while self._queue:
                    event = self._queue.popleft()
                    if len(self._queue) < _MAX_WAITING:
                        self._has_capacity.set()
                    yield event
                    if isinstance(event, SessionClosed):
                        return
                if reading.done():
                    await reading
                    return
                self._queued.clear()
                await self._queued.wait()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._stop_speaking()

    async def close(self) -> None:
        """Stop speaking and close the session, which ends it; idempotent."""
        self._closed = True
        await self._stop_speaking()
        await self._session.close()

    # ------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Queue the events of the session with the model."""
        async for event in self._session.events():
            if isinstance(event, SessionClosed):
                await self._stop_speaking()
                self._enqueue([event])
                return
            await self._wait_for_capacity()
            self._enqueue([event])

    async def _wait_for_capacity(self) -> None:
        if len(self._queue) >= _MAX_WAITING:
            self._has_capacity.clear()
            await self._has_capacity.wait()

    def _enqueue(self, events: Iterable[Event]) -> None:
        self._queue.extend(events)
        self._queued.set()

    # speaking ---------------------------------------------------------------------------------------------------

    def _start(self, command: SayCommand) -> None:
        if self._closed or self._now is not None:
            message = "Another text is being spoken."
            self._enqueue([ProviderFault(code="busy", message=message, retry=not self._closed, command=command.id)])
            return
        digest = hashlib.sha256(command.id.encode()).hexdigest()[:24]
        say = _ExactSay(command.id, command.text, reply=f"say_{digest}", item=f"afs_{digest}")
        self._says[say.reply] = say
        while len(self._says) > _MAX_REMEMBERED:
            del self._says[next(iter(self._says))]
        self._now = say
        self._speaking = asyncio.create_task(self._speak(say))

    async def _speak(self, say: _ExactSay) -> None:
        try:
            async with asyncio.timeout(_MAX_SECONDS):
                async for data in self._speech.stream(say.text):
                    await self._wait_for_capacity()
                    self._enqueue_audio(say, data)
            if not say.size:
                self._fail(say, "empty_audio", "The provider sent no audio.", retry=bool(say.text.strip()))
                return
            say.complete = True
            await self._session.transmit(self._codec.record_spoken(say.item, say.text))
            self._end(say, "completed")
        except TimeoutError:
            self._fail(say, "timeout", f"The text was not spoken within {_MAX_SECONDS:g} s.")
        except AgentFieldError as error:
            self._refused(say, error)
        finally:
            if self._now is say:
                self._now = None

    def _enqueue_audio(self, say: _ExactSay, data: bytes) -> None:
        if not say.started:
            say.started = True
            transcript = ReplyTranscript(reply=say.reply, text=say.text)
            self._enqueue([ReplyStarted(reply=say.reply, command=say.command), transcript])
        say.size += len(data)
        self._enqueue([ReplyAudio(reply=say.reply, data=data)])

    def _refused(self, say: _ExactSay, error: AgentFieldError) -> None:
        status, code = error.data.get("provider_status"), error.data.get("provider_code")
        retry = status in _RETRY_STATUSES or code == "unreachable"
        self._fail(say, str(code or error.code), error.message, retry=retry, retry_after=error.data.get("retry_after"))

    def _fail(
        self, say: _ExactSay, code: str, message: str, *, retry: bool = False, retry_after: float | None = None
    ) -> None:
        if say.ended:
            return
        fatal = code in FATAL_CODES
        if say.started:
            self._end(say, "failed", why=code)
        if fatal or not say.started:
            retry = retry and not fatal
            say.ended = True
            fault = ProviderFault(
                code=code, message=message, fatal=fatal, retry=retry, retry_after=retry_after, command=say.command
            )
            self._enqueue([fault])

    def _end(
        self, say: _ExactSay, status: Literal["completed", "cancelled", "failed"], *, why: str | None = None
    ) -> None:
        if say.ended:
            return
        say.ended = True
        received = self._audio.ms(say.size)
        text = heard_text(say.text, received, received, complete=say.complete)
        self._enqueue(
            [
                ReplyTranscript(reply=say.reply, text=text, final=True),
                ReplyEnded(
                    reply=say.reply,
                    command=say.command,
                    status=status,
                    why=why,
                    text=text,
                    audio=say.size > 0,
                    audio_ms=int(received),
                ),
            ]
        )

    # stopping ---------------------------------------------------------------------------------------------------

    async def _interrupt(self, say: _ExactSay, heard_ms: int | None) -> None:
        """Stop a say and make the conversation hold only its heard part."""
        if say.is_truncated:
            return
        say.is_truncated = True
        if self._now is say and say.complete and self._speaking is not None:
            # the task is adding the text to the conversation, and the truncation below must come after it
            await asyncio.wait({self._speaking})
        complete = say.complete
        if self._now is say:
            await self._cancel_task()
            unplayed = [event for event in self._queue if isinstance(event, ReplyAudio) and event.reply == say.reply]
            for event in unplayed:
                self._queue.remove(event)
        received = self._audio.ms(say.size)
        heard = received if heard_ms is None else min(heard_ms, received)
        text = heard_text(say.text, heard, received, complete=complete)
        if not complete:
            events = self._codec.record_spoken(say.item, text)
        elif text == say.text:
            events = []
        else:
            events = self._codec.record_spoken(f"{say.item}c", text, instead_of=say.item)
        self._end(say, "cancelled", why="asked")
        await self._session.transmit(events)

    async def _stop_speaking(self) -> None:
        """Stop speaking because the session ends."""
        say = self._now
        if say is not None:
            await self._cancel_task()
            self._fail(say, "session_closed", "The session ended while the text was being spoken.", retry=True)

    async def _cancel_task(self) -> None:
        task, self._speaking, self._now = self._speaking, None, None
        self._has_capacity.set()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
