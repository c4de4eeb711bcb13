"""Exact speech on a session whose audio passes through us: the speech endpoint speaks, the conversation is told what was heard."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import CancelReply, Command, End, Say
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
from agentfield_openai.codec.faults import FATAL
from agentfield_openai.session import RealtimeSession
from agentfield_openai.speech import Speech, heard_part

__all__ = ["ExactSession"]

_LONGEST = 600.0
"""Seconds that one say may take to be generated."""
_MOST_WAITING = 256
"""Events that wait to be read before the speech endpoint and the provider are made to wait."""
_MOST_REMEMBERED = 64
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(slots=True)
class _Said:
    """One say, as far as it got."""

    command: str
    text: str
    reply: str
    item: str
    size: int = 0
    started: bool = False
    complete: bool = False
    ended: bool = False
    was_cut: bool = False


class ExactSession:
    """A session whose `Say` is spoken word for word (`agentfield.realtime.provider.ProviderSession`).

    Args:
        session: The session with the model.
        codec: Its codec.
        speech: What speaks.
        audio: The format of the audio.
    """

    def __init__(self, session: RealtimeSession, codec: Codec, speech: Speech, audio: AudioFormat) -> None:
        self._session = session
        self._codec = codec
        self._speech = speech
        self._audio = audio
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._said: dict[str, _Said] = {}
        self._now: _Said | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, command: Command) -> None:
        """Do `command`; a say is spoken by a task of this session's.

        Raises:
            CapabilityMissing: The pair cannot do it.
            InvalidInput: A reply names a tool that the session does not declare.
            ProviderUnavailable: The provider's end is gone.
        """
        match command:
            case Say():
                self._begin(command)
            case CancelReply() if command.reply in self._said:
                await self._cut(self._said[command.reply], command.heard_ms)
            case End():
                await self._hush()
                await self._session.send(command)
            case _:
                await self._session.send(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, in order; the last one is `SessionClosed`. May be iterated once."""
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._waiting:
                    event = self._waiting.popleft()
                    if len(self._waiting) < _MOST_WAITING:
                        self._room.set()
                    yield event
                    if isinstance(event, SessionClosed):
                        return
                if reading.done():
                    await reading
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._hush()

    async def close(self) -> None:
        """Let go of the session, which ends it; idempotent."""
        self._closed = True
        await self._hush()
        await self._session.close()

    # ------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Pass the session's own events on."""
        async for event in self._session.events():
            if isinstance(event, SessionClosed):
                await self._hush()
                self._tell([event])
                return
            await self._room_for()
            self._tell([event])

    async def _room_for(self) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._room.clear()
            await self._room.wait()

    def _tell(self, events: Iterable[Event]) -> None:
        self._waiting.extend(events)
        self._news.set()

    # speaking ---------------------------------------------------------------------------------------------------

    def _begin(self, command: Say) -> None:
        if self._closed or self._now is not None:
            message = "Another text is being spoken."
            self._tell([ProviderFault(code="busy", message=message, retry=not self._closed, command=command.id)])
            return
        digest = hashlib.sha256(command.id.encode()).hexdigest()[:24]
        said = _Said(command.id, command.text, reply=f"say_{digest}", item=f"afs_{digest}")
        self._said[said.reply] = said
        while len(self._said) > _MOST_REMEMBERED:
            del self._said[next(iter(self._said))]
        self._now = said
        self._speaking = asyncio.create_task(self._speak(said))

    async def _speak(self, said: _Said) -> None:
        try:
            async with asyncio.timeout(_LONGEST):
                async for data in self._speech.stream(said.text):
                    await self._room_for()
                    self._sound(said, data)
            if not said.size:
                self._fail(said, "empty_audio", "The provider sent no audio.", retry=bool(said.text.strip()))
                return
            said.complete = True
            await self._session.transmit(self._codec.spoken(said.item, said.text))
            self._end(said, "completed")
        except TimeoutError:
            self._fail(said, "timeout", f"The text was not spoken within {_LONGEST:g} s.")
        except AgentFieldError as error:
            self._refused(said, error)
        finally:
            if self._now is said:
                self._now = None

    def _sound(self, said: _Said, data: bytes) -> None:
        if not said.started:
            said.started = True
            told = ReplyTranscript(reply=said.reply, text=said.text)
            self._tell([ReplyStarted(reply=said.reply, command=said.command), told])
        said.size += len(data)
        self._tell([ReplyAudio(reply=said.reply, data=data)])

    def _refused(self, said: _Said, error: AgentFieldError) -> None:
        status, code = error.data.get("provider_status"), error.data.get("provider_code")
        retry = status in _TRY_AGAIN or code == "unreachable"
        self._fail(said, str(code or error.code), error.message, retry=retry)

    def _fail(self, said: _Said, code: str, message: str, *, retry: bool = False) -> None:
        if said.ended:
            return
        fatal = code in FATAL
        if said.started:
            self._end(said, "failed", why=code)
        if fatal or not said.started:
            retry = retry and not fatal
            said.ended = True
            self._tell([ProviderFault(code=code, message=message, fatal=fatal, retry=retry, command=said.command)])

    def _end(self, said: _Said, status: Literal["completed", "cancelled", "failed"], *, why: str | None = None) -> None:
        if said.ended:
            return
        said.ended = True
        received = self._audio.ms(said.size)
        text = heard_part(said.text, received, received, complete=said.complete)
        self._tell(
            [
                ReplyTranscript(reply=said.reply, text=text, final=True),
                ReplyEnded(
                    reply=said.reply,
                    command=said.command,
                    status=status,
                    why=why,
                    text=text,
                    audio=said.size > 0,
                    audio_ms=int(received),
                ),
            ]
        )

    # stopping ---------------------------------------------------------------------------------------------------

    async def _cut(self, said: _Said, heard_ms: int | None) -> None:
        """Stop a say and let the conversation hold what was heard of it."""
        if said.was_cut:
            return
        said.was_cut = True
        if self._now is said and said.complete and self._speaking is not None:
            await asyncio.wait({self._speaking})  # it only puts the words into the conversation, which we change then
        complete = said.complete
        if self._now is said:
            await self._stop()
            gone = [event for event in self._waiting if isinstance(event, ReplyAudio) and event.reply == said.reply]
            for event in gone:
                self._waiting.remove(event)
        received = self._audio.ms(said.size)
        heard = received if heard_ms is None else min(heard_ms, received)
        text = heard_part(said.text, heard, received, complete=complete)
        if not complete:
            events = self._codec.spoken(said.item, text)
        elif text == said.text:
            events = []
        else:
            events = self._codec.spoken(f"{said.item}c", text, instead_of=said.item)
        self._end(said, "cancelled", why="asked")
        await self._session.transmit(events)

    async def _hush(self) -> None:
        """Stop speaking because the session is over."""
        said = self._now
        if said is not None:
            await self._stop()
            self._fail(said, "session_closed", "The session ended while the text was being spoken.", retry=True)

    async def _stop(self) -> None:
        task, self._speaking, self._now = self._speaking, None, None
        self._room.set()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
