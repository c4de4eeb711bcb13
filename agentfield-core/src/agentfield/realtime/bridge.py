"""The one bridge between a caller whose audio we carry and a provider's session; it knows no codec and decides nothing.

Towards the session's runtime the bridge is the provider's session: commands go in, events come out. On the other side is
the caller's leg, which may break and be replaced while the provider's session goes on, and the other way round.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from functools import partial

from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import (
    CallerAudio,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerInput,
    CallerLeg,
    CallerMark,
    CallerText,
)
from agentfield.realtime.commands import CancelReply, Command, Reply, Say
from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    SessionClosed,
    Warned,
)
from agentfield.realtime.line import Guarded
from agentfield.realtime.player import Converter, Line, LineEnd, Player
from agentfield.realtime.provider import ProviderSession
from agentfield.realtime.stalls import Stalls
from agentfield.realtime.uplink import Immediate, Uplink

__all__ = ["Bridge", "Converter", "LineEnd"]

_log = logging.getLogger("agentfield.realtime")

_MAX_EVENTS = 2000
_CLOSE_WAIT = 2.0
_REMEMBERED = 64
_CLEAR_WAIT = 1.0


Convert = Callable[[AudioFormat, AudioFormat], Converter]


class Bridge:
    """Stands between the session's runtime and the provider's session, and carries the audio of the caller's leg.

    Args:
        provider: The provider's session; the bridge closes it.
        audio: The format of both directions at the provider.
        convert: Makes a converter from one format to another.
        clock: Seconds of a monotonic clock.
        hear: Takes what the caller typed and that it has gone; must not wait.
        patient: Whether speech may be asked for while no leg is attached, because the caller may come back to hear it.
        stalls: Shared by all bridges of a process; without it the bridge has its own.
    """

    def __init__(
        self,
        provider: ProviderSession,
        *,
        audio: AudioFormat,
        convert: Convert,
        clock: Callable[[], float],
        hear: Callable[[CallerInput], None],
        patient: bool = True,
        stalls: Stalls | None = None,
    ) -> None:
        self._take(provider)
        self._audio = audio
        self._convert = convert
        self._clock = clock
        self._hear = hear
        self._patient = patient
        self._events: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._rotating = False
        self._player = Player(audio, clock=clock, emit=self._emit, stalls=stalls or Stalls(clock))
        self._uplink = Uplink(audio, warn=self._emit)
        self._warned: set[str] = set()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._line: Line | None = None
        self._reader: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    # --- the provider's session, as the runtime sees it

    async def send(self, command: Command) -> None:
        """Do a command; what stops a reply stops what the caller hears of it first."""
        match command:
            case CancelReply():
                await self._cancel(command)
            case Say() | Reply() if not self._heard_by_somebody():
                message = "nobody listens who could hear it"
                self._emit(ProviderFault(code="no_listener", message=message, command=command.id))
            case _:
                await self._provider.send(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, until the bridge is closed; a provider's session that ended may be followed by another."""
        self._start()
        while not self._closed:
            while self._events:
                event = self._events.popleft()
                self._room.set()
                yield event
            self._ready.clear()
            if not self._closed:
                await self._ready.wait()

    async def close(self) -> None:
        """Let go of the provider's session and of the leg; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._ready.set()
        self._room.set()
        self._let_go("closed")
        tasks = [task for task in (self._reader, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._provider.close()

    # --- the caller's leg

    async def attach(self, leg: CallerLeg) -> LineEnd:
        """Carry a leg; one that is attached already is let go of.

        Returns:
            Why it is over, as soon as it is.
        """
        self._let_go("replaced")
        if self._closed:
            return "closed"
        self._start()
        line = Line(leg, self._convert(self._audio, leg.format), self._convert(leg.format, self._audio))
        if leg.format != self._audio:  # else nothing is converted, and there is nothing that could fail
            failed = partial(self._unconvertible, line)
            line.to_caller, line.from_caller = Guarded(line.to_caller, failed), Guarded(line.from_caller, failed)
        self._line = line
        self._player.take(line)
        listen = asyncio.create_task(self._listen(line), name="caller's input")
        play = asyncio.create_task(self._player.play(line), name="caller's audio")
        over = asyncio.create_task(line.over.wait(), name="caller's line")
        tasks = (listen, play, over)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            if self._line is line:
                self._let_go("gone")
        for outcome in done:
            if isinstance(outcome, Exception):
                raise outcome
        return line.why or "gone"

    def _unconvertible(self, line: Line, error: Exception) -> None:
        if not line.over.is_set():
            _log.warning("audio of a caller could not be converted: %s", type(error).__name__)
            message = "audio could not be converted; the caller's connection is over, and it may come back"
            self._emit(Warned(code="audio_unconvertible", message=message))
            line.end("unconvertible")

    def detach(self) -> None:
        """Let go of the leg; the provider's session goes on."""
        self._let_go("closed")

    # --- another provider's session

    def hold(self) -> None:
        """The provider's session is about to be replaced: audio of the caller waits for the next one."""
        self._rotating = True
        self._uplink.hold()

    def keep(self) -> None:
        """The provider's session is new: audio of the caller waits for `release`."""
        self._uplink.hold()

    def release(self) -> None:
        """The session that has taken over knows what was said before: audio of the caller goes to it."""
        if not self._rotating:
            self._uplink.release()

    async def swap(self, provider: ProviderSession) -> None:
        """Go on with another session at the provider; after `hold` audio of the caller still waits for `release`.

        Nothing that the old one still tells is passed on, and what was not heard of its replies is thrown away.
        """
        old = self._provider
        self._take(provider)
        reader = self._reader
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        self._rotating = False
        if self._player.drop_all() and self._line is not None:
            await self._clear(self._line)
        if self._closed:
            await provider.close()
            return
        if self._reader is reader:
            self._reader = asyncio.create_task(self._read(provider), name="provider's events")
        await _quietly_close(old)

    # --- inside: from the provider

    def _take(self, provider: ProviderSession) -> None:
        self._provider = provider
        self._at_once = provider if isinstance(provider, Immediate) else None
        if self._at_once is not None:
            self._at_once.hear(partial(self._hear_from, provider))

    def _hear_from(self, provider: ProviderSession, reply: str, data: bytes) -> None:
        if provider is self._provider and not self._closed:
            self._play(reply, data)

    def _start(self) -> None:
        if self._reader is None and not self._closed:
            self._reader = asyncio.create_task(self._read(self._provider), name="provider's events")
        if self._sender is None and not self._closed:
            self._sender = asyncio.create_task(self._forward(), name="caller's audio to the provider")

    async def _read(self, provider: ProviderSession) -> None:
        try:
            async for event in provider.events():
                match event:
                    case ReplyAudio():
                        self._play(event.reply, event.data)
                    case ReplyEnded():
                        await self._pass_on(self._player.ended(event))
                    case SessionClosed() if self._rotating:
                        return
                    case _:
                        await self._pass_on(event)
                if isinstance(event, SessionClosed):
                    return
            lost = SessionClosed(reason="provider_error", message="the provider's events ended", retry=True)
        except AgentFieldError as error:
            # a provider that could not be reached may be there again: the session goes on with another at the provider
            again = isinstance(error, ProviderUnavailable)
            lost = SessionClosed(reason="provider_error", message=error.message, retry=again)
        except Exception as error:  # noqa: BLE001 - an adapter's fault must end this call, and only this one
            _log.exception("an adapter failed")
            lost = _broken(error)
        if not self._rotating:
            await self._pass_on(lost)

    def _play(self, reply: str, data: bytes) -> None:
        if reply in self._cancelled or not data or self._player.pass_on(reply, data):
            return
        if self._player.feed(reply, data):
            message = "a reply is longer than what is kept of it; the rest of its audio was dropped"
            self._emit(Warned(code="audio_dropped", message=message))

    async def _pass_on(self, event: Event) -> None:
        while len(self._events) >= _MAX_EVENTS and not self._closed:
            self._room.clear()
            await self._room.wait()
        self._emit(event)

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        self._ready.set()

    # --- inside: commands

    async def _cancel(self, command: CancelReply) -> None:
        if command.reply in self._cancelled:
            return
        self._cancelled[command.reply] = None
        while len(self._cancelled) > _REMEMBERED:
            self._cancelled.popitem(last=False)
        heard, method, playing = self._player.cancel(command.reply)
        if playing and self._line is not None:
            await self._clear(self._line)
        self._emit(Interrupted(reply=command.reply, heard_ms=heard, method=method))
        await self._provider.send(command.model_copy(update={"heard_ms": heard}))

    async def _clear(self, line: Line) -> None:
        """Clear what the caller has; a leg writes before it waits, so one that is slow to take it has it on its way."""
        try:
            async with asyncio.timeout(_CLEAR_WAIT):
                await line.leg.clear()
        except TimeoutError:
            line.end("slow")
        except AgentFieldError:
            line.end("gone")

    def _heard_by_somebody(self) -> bool:
        return self._patient if self._line is None else self._line.leg.listening

    # --- inside: from the caller

    def _let_go(self, why: LineEnd) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._player.leave(line)
            line.end(why)

    async def _listen(self, line: Line) -> None:
        async for heard in line.leg.input():
            match heard:
                case CallerAudio() if line.leg.paced:
                    self._carry(line, heard.data)
                case CallerAudio():
                    # recorded, not live: the caller can wait
                    await self._uplink.room()
                    self._carry(line, heard.data)
                case CallerMark():
                    self._player.told(heard.name)
                case CallerCommit():
                    if rest := line.from_caller.flush():
                        self._uplink.put(rest, live=line.leg.paced)
                    self._uplink.commit(heard.item)
                case CallerDtmf():
                    await self._pass_on(Dtmf(digit=heard.digit))
                case CallerText():
                    self._hear(heard)
                case CallerGone():
                    self._hear(heard)
                    return
        self._hear(CallerGone(why="the connection ended", hung_up=False))

    def _carry(self, line: Line, data: bytes) -> None:
        audio = line.from_caller(data) if data else b""
        if not audio or (self._uplink.clear and self._at_once is not None and self._at_once.append(audio)):
            return
        self._uplink.put(audio, live=line.leg.paced)

    async def _forward(self) -> None:
        while True:
            command = await self._uplink.next()
            try:
                await self._provider.send(command)
            except ProviderUnavailable:
                # its events tell what became of the session; until then the caller speaks to nobody
                continue
            except AgentFieldError as error:
                if error.code not in self._warned:
                    self._warned.add(error.code)
                    self._emit(Warned(code=error.code, message=error.message))
            except Exception as error:  # noqa: BLE001 - an adapter's fault must end this call, and only this one
                _log.exception("an adapter could not take audio")
                self._emit(_broken(error))
                return


def _broken(error: Exception) -> SessionClosed:
    return SessionClosed(reason="provider_error", message=f"the adapter failed: {type(error).__name__}")


async def _quietly_close(provider: ProviderSession) -> None:
    try:
        async with asyncio.timeout(_CLOSE_WAIT):
            await provider.close()
    except (AgentFieldError, TimeoutError):
        return
