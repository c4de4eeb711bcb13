"""`Bridge`: connects a caller's leg and a provider's session; each may be lost and replaced while the other continues.

To the session actor the bridge is the provider's session: commands go in, events come out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from functools import partial

from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge.leg_attachment import Converter, GuardedConverter, LegAttachment
from agentfield.realtime.bridge.playback_position import HeardMethod
from agentfield.realtime.bridge.reply_player import ReplyPlayer
from agentfield.realtime.bridge.stall_monitor import EventLoopStallMonitor
from agentfield.realtime.bridge.uplink import AudioFastPath, Uplink
from agentfield.realtime.caller import (
    CallerAudio,
    CallerBegin,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerInput,
    CallerLeg,
    CallerMark,
    CallerText,
    LegEnd,
)
from agentfield.realtime.commands import CancelReplyCommand, Command, ReplyCommand, SayCommand
from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    SessionClosed,
    TurnStarted,
    Warned,
)
from agentfield.realtime.provider import ProviderSession, SeparateOutput

__all__ = ["Bridge"]

_log = logging.getLogger("agentfield.realtime")

_MAX_EVENTS = 2000
"""Unread events at which the bridge stops reading from the provider and the caller."""
_CLOSE_TIMEOUT = 2.0
"""Seconds in which a replaced session at the provider must close."""
_REMEMBERED_REPLIES = 64
"""Cancelled replies whose late audio is still recognised and dropped."""
_DRAIN_WAIT = 0.25
"""Seconds after the call became live within which audio that had arrived before has been read from the caller's connection."""
_PADDING_MS = 300
"""Milliseconds by which providers report the beginning of speech too early: the turn has some audio from before it."""
_CLEAR_TIMEOUT = 1.0
"""Seconds in which a leg must accept a clear."""


Convert = Callable[[AudioFormat, AudioFormat], Converter]


class Bridge:
    """Carries audio between a provider's session and the caller's leg, and passes commands and events through.

    Args:
        provider: The provider's session; the bridge owns and closes it.
        audio: The format of the caller's audio at the provider; replies have it too, unless the session is a `SeparateOutput`.
        convert: Creates a converter from one format to another.
        clock: Returns the seconds of a monotonic clock.
        on_input: Called with text that the caller typed, with the begin of a turn, and with the end of its leg; must not block.
        caller_may_return: Whether speech is accepted while no leg is attached, because the caller may reconnect to hear it.
        begins_turns: Whether the provider is told when a turn of push to talk begins.
        stall_monitor: Shared by all bridges of a process; by default the bridge creates its own.
    """

    def __init__(
        self,
        provider: ProviderSession,
        *,
        audio: AudioFormat,
        convert: Convert,
        clock: Callable[[], float],
        on_input: Callable[[CallerInput], None],
        caller_may_return: bool = True,
        begins_turns: bool = False,
        stall_monitor: EventLoopStallMonitor | None = None,
    ) -> None:
        self._audio = audio
        self._output = audio
        self._use_provider(provider)
        self._convert = convert
        self._clock = clock
        self._on_input = on_input
        self._caller_may_return = caller_may_return
        self._events: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._space = asyncio.Event()
        self._closed = False
        self._rotating = False
        self._live_at: float | None = None
        """When the caller's audio was released for the first time."""
        self._opening = False
        """Whether audio from before that time may still be unread."""
        self._before_live_ms = 0.0
        """Position in the caller's audio at that time, milliseconds."""
        self._player = ReplyPlayer(
            self._output, clock=clock, emit=self._emit, stall_monitor=stall_monitor or EventLoopStallMonitor(clock)
        )
        self._uplink = Uplink(audio, warn=self._emit, begins_turns=begins_turns)
        self._warned: set[str] = set()
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._attachment: LegAttachment | None = None
        self._reader: asyncio.Task[None] | None = None
        self._sender: asyncio.Task[None] | None = None

    # --- the provider's session, as the actor uses it

    async def send(self, command: Command) -> None:
        """Carry out a command; cancelling a reply first clears the caller's buffer."""
        match command:
            case CancelReplyCommand():
                await self._cancel(command)
            case SayCommand() | ReplyCommand() if not self._has_listener():
                message = "no caller is connected who could hear it"
                self._emit(ProviderFault(code="no_listener", message=message, command=command.id))
            case _:
                await self._provider.send(command)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the bridge is closed; a provider's session that ended may be followed by another."""
        self._start()
        while not self._closed:
            while self._events:
                event = self._events.popleft()
                self._space.set()
                yield event
            self._ready.clear()
            if not self._closed:
                await self._ready.wait()

    async def close(self) -> None:
        """Detach the leg and close the provider's session; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._ready.set()
        self._space.set()
        self._detach("closed")
        tasks = [task for task in (self._reader, self._sender) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._provider.close()

    # --- the caller's leg

    async def attach(self, leg: CallerLeg) -> LegEnd:
        """Carry a leg until it ends, replacing one that is attached already.

        Returns:
            Why the leg is no longer carried.
        """
        self._detach("replaced")
        if self._closed:
            return "closed"
        self._start()
        attachment = LegAttachment(leg, self._convert(self._output, leg.format), self._convert(leg.format, self._audio))
        self._guard_converters(attachment)
        self._attachment = attachment
        self._player.attach(attachment)
        listen = asyncio.create_task(self._listen(attachment), name="caller's input")
        play = asyncio.create_task(self._player.run(attachment), name="caller's audio")
        ended = asyncio.create_task(attachment.ended.wait(), name="caller's leg")
        tasks = (listen, play, ended)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            if self._attachment is attachment:
                self._detach("gone")
        for outcome in done:
            if isinstance(outcome, Exception):
                raise outcome
        return attachment.reason or "gone"

    def _guard_converters(self, attachment: LegAttachment) -> None:
        """Let a failing converter end the leg; equal formats need no conversion, which cannot fail then."""
        failed, caller = partial(self._unconvertible, attachment), attachment.leg.format
        if caller != self._output:
            attachment.to_caller = GuardedConverter(attachment.to_caller, failed)
        if caller != self._audio:
            attachment.from_caller = GuardedConverter(attachment.from_caller, failed)

    def _unconvertible(self, attachment: LegAttachment, error: Exception) -> None:
        if not attachment.ended.is_set():
            _log.warning("audio of a caller could not be converted: %s", type(error).__name__)
            message = "audio could not be converted; the caller's connection was closed and may be opened again"
            self._emit(Warned(code="audio_unconvertible", message=message))
            attachment.end("unconvertible")

    def detach(self) -> None:
        """Detach the leg; the provider's session continues."""
        self._detach("closed")

    # --- rotation: another session at the provider

    def begin_rotation(self) -> None:
        """Prepare to replace the provider's session: hold the caller's audio, and ignore the old session's end."""
        self._rotating = True
        self._uplink.hold()
        self._opening, self._before_live_ms = False, 0.0  # positions in another session's audio start anew

    def hold_caller_audio(self) -> None:
        """Hold the caller's audio until `release_caller_audio`, while the provider's session is set up."""
        self._uplink.hold()

    def release_caller_audio(self) -> None:
        """Send the held audio to the provider's session, which has the history of the conversation now."""
        if self._live_at is None:
            self._live_at, self._opening = self._clock(), True
            self._before_live_ms = self._uplink.position_ms
        if not self._rotating:
            self._uplink.release()

    async def replace_provider(self, provider: ProviderSession) -> None:
        """Continue with another session at the provider; audio held since `begin_rotation` stays held.

        Later events of the old session are dropped, and unheard audio of its replies is cleared.
        """
        old = self._provider
        self._use_provider(provider)
        self._uplink.begin_anew()
        reader = self._reader
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        self._rotating = False
        if self._player.discard_all() and self._attachment is not None:
            await self._clear(self._attachment)
        self._player.use_format(self._output)
        if (attachment := self._attachment) is not None:
            attachment.to_caller = self._convert(self._output, attachment.leg.format)
            self._guard_converters(attachment)
        if self._closed:
            await provider.close()
            return
        if self._reader is reader:
            self._reader = asyncio.create_task(self._read(provider), name="provider's events")
        await _close_quietly(old)

    # --- inside: from the provider

    def _use_provider(self, provider: ProviderSession) -> None:
        self._provider = provider
        self._output = provider.output_format if isinstance(provider, SeparateOutput) else self._audio
        self._fast_path = provider if isinstance(provider, AudioFastPath) else None
        if self._fast_path is not None:
            self._fast_path.set_audio_sink(partial(self._receive_audio, provider))

    def _receive_audio(self, provider: ProviderSession, reply: str, data: bytes) -> None:
        # The sink of a replaced session may still be called until that session is closed.
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
                        await self._emit_bounded(self._player.reply_ended(event))
                    case Interrupted():
                        await self._emit_bounded(await self._stopped_by_provider(event))
                    case SessionClosed() if self._rotating:
                        return
                    case TurnStarted():
                        await self._emit_bounded(self._dated(event))
                    case _:
                        await self._emit_bounded(event)
                if isinstance(event, SessionClosed):
                    return
            lost = SessionClosed(reason="provider_error", message="the provider's events ended", retry=True)
        except AgentFieldError as error:
            # an unreachable provider may recover: the conversation can continue with a new session there
            retry = isinstance(error, ProviderUnavailable)
            lost = SessionClosed(reason="provider_error", message=error.message, retry=retry)
        except Exception as error:  # noqa: BLE001 - a failing adapter must end this call, and only this one
            _log.exception("an adapter failed")
            lost = _adapter_failure(error)
        if not self._rotating:
            await self._emit_bounded(lost)

    def _play(self, reply: str, data: bytes) -> None:
        if reply in self._cancelled or not data or self._player.play_nowait(reply, data):
            return
        if self._player.buffer(reply, data):
            message = "a reply is longer than its buffer; the rest of its audio was dropped"
            self._emit(Warned(code="audio_dropped", message=message))

    async def _emit_bounded(self, event: Event) -> None:
        """Emit an event once fewer than `_MAX_EVENTS` are unread; the wait is the back-pressure on the source."""
        while len(self._events) >= _MAX_EVENTS and not self._closed:
            self._space.clear()
            await self._space.wait()
        self._emit(event)

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        self._ready.set()

    def _dated(self, event: TurnStarted) -> TurnStarted:
        """Add whether the caller began before the call was live, where the audio arrives as it is spoken."""
        attachment = self._attachment
        if event.at_ms is None or attachment is None or not attachment.leg.paced:
            return event
        return event.model_copy(update={"before_live": event.at_ms + _PADDING_MS < self._before_live_ms})

    # --- inside: commands

    async def _cancel(self, command: CancelReplyCommand) -> None:
        if command.reply in self._cancelled:
            return
        heard, method = await self._discard(command.reply)
        self._emit(Interrupted(reply=command.reply, heard_ms=heard, method=method))
        await self._provider.send(command.model_copy(update={"heard_ms": heard}))

    async def _stopped_by_provider(self, event: Interrupted) -> Interrupted:
        """Discard what the caller has not heard of a reply that the provider stopped; add how much was heard."""
        if event.reply in self._cancelled:
            return event
        heard, method = await self._discard(event.reply)
        return event.model_copy(update={"heard_ms": heard, "method": method})

    async def _discard(self, reply: str) -> tuple[int, HeardMethod]:
        """Discard the unheard audio of a reply and all that still comes; return how much was heard, and the method."""
        self._cancelled[reply] = None
        while len(self._cancelled) > _REMEMBERED_REPLIES:
            self._cancelled.popitem(last=False)
        heard, method, playing = self._player.cancel(reply)
        if playing and self._attachment is not None:
            await self._clear(self._attachment)
        return heard, method

    async def _clear(self, attachment: LegAttachment) -> None:
        """Clear the caller's buffer; a leg writes before it waits, so the clear was sent even if the wait times out."""
        try:
            async with asyncio.timeout(_CLEAR_TIMEOUT):
                await attachment.leg.clear()
        except TimeoutError:
            attachment.end("slow")
        except AgentFieldError:
            attachment.end("gone")

    def _has_listener(self) -> bool:
        return self._caller_may_return if self._attachment is None else self._attachment.leg.listening

    # --- inside: from the caller

    def _detach(self, reason: LegEnd) -> None:
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            self._player.detach(attachment)
            attachment.end(reason)

    async def _listen(self, attachment: LegAttachment) -> None:
        async for received in attachment.leg.input():
            match received:
                case CallerAudio() if attachment.leg.paced:
                    self._send_audio(attachment, received.data)
                case CallerAudio():
                    # recorded audio, unlike live audio, is never dropped: its caller waits
                    await self._uplink.wait_for_space()
                    self._send_audio(attachment, received.data)
                case CallerMark():
                    self._player.confirm_mark(received.name)
                case CallerBegin():
                    self._uplink.begin(received.item)
                    self._on_input(received)
                case CallerCommit():
                    if rest := attachment.from_caller.flush():
                        self._uplink.put(rest, live=attachment.leg.paced)
                    self._uplink.commit(received.item)
                case CallerDtmf():
                    await self._emit_bounded(Dtmf(digit=received.digit))
                case CallerText():
                    self._on_input(received)
                case CallerGone():
                    self._on_input(received)
                    return
        self._on_input(CallerGone(why="the connection ended", hung_up=False))

    def _send_audio(self, attachment: LegAttachment, data: bytes) -> None:
        audio = attachment.from_caller(data) if data else b""
        if not audio:
            return
        if self._uplink.idle and self._fast_path is not None and self._fast_path.append_audio_nowait(audio):
            self._uplink.passed(len(audio))
        else:
            self._uplink.put(audio, live=attachment.leg.paced)
        if self._opening and self._live_at is not None:
            since = self._clock() - self._live_at
            self._opening = since < _DRAIN_WAIT
            if self._opening:
                self._before_live_ms = max(self._before_live_ms, self._uplink.position_ms - since * 1000)

    async def _forward(self) -> None:
        while True:
            command = await self._uplink.next()
            try:
                await self._provider.send(command)
            except ProviderUnavailable:
                # `events` reports the end of the session; audio is dropped until the bridge gets another one
                continue
            except AgentFieldError as error:
                if error.code not in self._warned:
                    self._warned.add(error.code)
                    self._emit(Warned(code=error.code, message=error.message))
            except Exception as error:  # noqa: BLE001 - a failing adapter must end this call, and only this one
                _log.exception("an adapter could not take audio")
                self._emit(_adapter_failure(error))
                return


def _adapter_failure(error: Exception) -> SessionClosed:
    return SessionClosed(reason="provider_error", message=f"the adapter failed: {type(error).__name__}")


async def _close_quietly(provider: ProviderSession) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await provider.close()
    except (AgentFieldError, TimeoutError):
        return
