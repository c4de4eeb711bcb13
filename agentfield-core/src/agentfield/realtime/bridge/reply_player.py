"""`ReplyPlayer`: plays replies to the caller in order and paced, and knows how much of each was heard when it is cancelled."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge.leg_attachment import LegAttachment
from agentfield.realtime.bridge.playback_position import HeardMethod, PlaybackPosition
from agentfield.realtime.bridge.stall_monitor import EventLoopStallMonitor
from agentfield.realtime.events import Event, PlayoutStarted, PlayoutStopped, ReplyEnded

__all__ = ["FRAME_MS", "LEAD_MS", "MAX_REPLY_MS", "ReplyPlayer"]

LEAD_MS = 200
"""Milliseconds by which audio is sent ahead of being heard."""
FRAME_MS = 50
"""Milliseconds of audio sent in one piece."""
MARK_MS = 200
"""Milliseconds of audio between two marks."""
MAX_REPLY_MS = 600_000
"""Milliseconds of audio of one reply that are buffered."""
_MARK_GRACE = 2.0
"""Seconds by which the marks of a caller may lag behind the clock."""
_SEND_TIMEOUT = 5.0
"""Seconds in which a caller must accept a piece of audio."""
_LEAD = (LEAD_MS - FRAME_MS) / 1000
"""Seconds of lead below which the next piece is sent."""
_REMEMBERED_REPLIES = 128
"""Finished replies whose length is still known."""


@dataclass(eq=False, slots=True)
class OutgoingReply:
    """A reply that is buffered or played."""

    reply: str
    position: PlaybackPosition = field(default_factory=PlaybackPosition)
    chunks: deque[bytes] = field(default_factory=deque)
    offset: int = 0
    """Bytes of the first chunk that were taken already."""
    size: int = 0
    """Bytes that are buffered."""
    ended: bool = False
    """Whether the provider has generated all of it."""
    started: bool = False
    """Whether any of it was sent to the caller."""
    sent: bool = False
    """Whether all of it was sent to the caller."""
    full: bool = False
    """Whether audio beyond `MAX_REPLY_MS` was dropped."""
    marked_ms: float = 0.0
    """Position of the last mark."""

    def take(self, most: int) -> bytes:
        """Remove and return the next piece of at most `most` bytes."""
        taken: list[bytes] = []
        size = 0
        while self.chunks and size < most:
            chunk = self.chunks[0]
            piece = chunk[self.offset : self.offset + most - size] if self.offset or len(chunk) > most - size else chunk
            self.offset += len(piece)
            if self.offset >= len(chunk):
                self.chunks.popleft()
                self.offset = 0
            taken.append(piece)
            size += len(piece)
        self.size -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)


class _SlowLegWatch:
    """Ends a leg that accepts no audio; one timer for many pieces, because most of them are sent without waiting."""

    def __init__(self, attachment: LegAttachment, clock: Callable[[], float]) -> None:
        self._attachment = attachment
        self._clock = clock
        self.sending_since: float | None = None
        """When sending the current piece began, None while no piece is sent."""
        self._timer = asyncio.get_running_loop().call_later(_SEND_TIMEOUT / 2, self._tick)

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _tick(self) -> None:
        if self.sending_since is not None and self._clock() - self.sending_since >= _SEND_TIMEOUT:
            self._attachment.end("slow")
            return
        self._timer = asyncio.get_running_loop().call_later(_SEND_TIMEOUT / 2, self._tick)


def _run_nowait(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that is not expected to wait, without a task.

    If it waits after all, it has written before (`WritableLeg`), so it can be closed without losing audio.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()


class ReplyPlayer:
    """Buffers the audio of replies and plays it to the leg that is attached at the moment.

    Args:
        audio: The provider's format, in which audio is buffered.
        clock: Returns the seconds of a monotonic clock.
        emit: Called with playout events.
        stall_monitor: Measures stalls of this process, by the same clock.
    """

    def __init__(
        self,
        audio: AudioFormat,
        *,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
        stall_monitor: EventLoopStallMonitor,
    ) -> None:
        self._audio = audio
        self._clock = clock
        self._emit = emit
        self._replies: OrderedDict[str, OutgoingReply] = OrderedDict()
        self._finished: OrderedDict[str, float] = OrderedDict()
        self._mark_numbers = itertools.count(1)
        self._wake = asyncio.Event()
        self._starving = False
        self._awaited: OutgoingReply | None = None
        """The reply that is playing, while everything received of it was sent and the player waits for more."""
        self._stall_monitor = stall_monitor
        self._known_stalls = 0.0
        """Total stall time when the player last read it."""
        self._attachment: LegAttachment | None = None
        self.use_format(audio)

    # --- from the provider

    def use_format(self, audio: AudioFormat) -> None:
        """Play audio of another format from now on; no reply is buffered."""
        self._audio = audio
        self._frame = audio.size(FRAME_MS)
        self._max_size = audio.size(MAX_REPLY_MS)

    def buffer(self, reply: str, data: bytes) -> bool:
        """Buffer audio of a reply; return True when audio is dropped for the first time."""
        out = self._replies.get(reply)
        if out is None:
            if reply in self._finished:
                return False
            out = self._replies[reply] = OutgoingReply(reply)
        if out.size + len(data) > self._max_size:
            first, out.full = not out.full, True
            return first
        out.chunks.append(data)
        out.size += len(data)
        out.position.receive(self._audio.ms(len(data)))
        if self._starving:
            self._wake.set()
        return False

    def play_nowait(self, reply: str, data: bytes) -> bool:
        """Play audio at once if it is next and sending does not wait; return whether it was played.

        Audio that arrives in real time takes this path, past the buffer and the player's task.
        """
        out, attachment = self._awaited, self._attachment
        if out is None or out.reply != reply or out.size or out.ended or len(data) > self._frame:
            return False
        if attachment is None or attachment.writable is None or attachment.reason is not None:
            return False
        now = self._clock()
        if attachment.paced_until - now > _LEAD or not attachment.writable.writable:
            return False
        self._add_stalls(attachment, now)
        ms = self._audio.ms(len(data))
        out.position.receive(ms)
        try:
            if converted := self._convert_next(attachment, out, data, ms, now):
                _run_nowait(attachment.leg.play(reply, converted))
            if name := self._next_mark(attachment, out):
                _run_nowait(attachment.leg.mark(name))
        except AgentFieldError:
            attachment.end("gone")
        return True

    def reply_ended(self, event: ReplyEnded) -> ReplyEnded:
        """Handle the end of generation; return the event completed with the length of the audio."""
        out = self._replies.get(event.reply)
        received = self._finished.get(event.reply) if out is None else out.position.received_ms
        if out is not None:
            out.ended = True
            self._wake.set()
        if received is None:
            return event
        length = event.audio_ms if event.audio_ms is not None else int(received)
        return event.model_copy(update={"audio_ms": length, "audio": event.audio or received > 0})

    def discard_all(self) -> bool:
        """Discard all replies because their session at the provider is gone; return whether the caller has audio of any."""
        audio_sent = False
        for reply in list(self._replies):
            audio_sent = self.cancel(reply)[2] or audio_sent
        return audio_sent

    # --- from the session actor

    def cancel(self, reply: str) -> tuple[int, HeardMethod, bool]:
        """Discard a reply.

        Returns:
            The milliseconds that were heard, the method by which that is known, and whether the caller has unheard audio.
        """
        out = self._replies.pop(reply, None)
        if out is None:
            return int(self._finished.get(reply, 0.0)), "wallclock", False
        heard, method = out.position.heard(self._clock())
        heard = min(heard, int(out.position.received_ms))
        if out is self._awaited:
            self._awaited = None
        self._remember_length(reply, out.position.received_ms)
        playing = out.position.sent_ms > 0
        out.position.clear()
        out.chunks.clear()
        if self._attachment is not None and playing:
            self._attachment.paced_until = self._attachment.stalled = 0.0
            # the converter's buffer holds audio of the discarded reply
            self._attachment.to_caller.flush()
        self._wake.set()
        return heard, method, playing

    # --- from the caller

    def attach(self, attachment: LegAttachment) -> None:
        """Play to this leg from now on."""
        self._attachment = attachment
        self._wake.set()

    def detach(self, attachment: LegAttachment) -> None:
        """Detach a leg; its unconfirmed marks are dropped."""
        if self._attachment is attachment:
            self._attachment = None
            for out in self._replies.values():
                out.position.forget_marks()

    def confirm_mark(self, name: str) -> None:
        """Handle a mark that the caller confirmed."""
        for out in self._replies.values():
            if out.position.confirm_mark(name):
                if self._attachment is not None:
                    self._attachment.confirms_marks = True
                if out.sent:
                    self._wake.set()
                return

    async def run(self, attachment: LegAttachment) -> None:
        """Play to a leg until it ends."""
        watch = _SlowLegWatch(attachment, self._clock)
        try:
            while not attachment.ended.is_set():
                await self._step(attachment, watch)
        except AgentFieldError:
            attachment.end("gone")
        finally:
            watch.stop()

    # --- inside

    async def _step(self, attachment: LegAttachment, watch: _SlowLegWatch) -> None:
        now = self._clock()
        due = self._finish_heard(attachment, now)
        out = next((each for each in self._replies.values() if not each.sent), None)
        if out is None:
            await self._sleep(due, starving=True)
        elif not out.size and not out.ended:
            self._awaited = out
            await self._sleep_inside_reply(attachment, due, starving=True)
        elif (wait := self._delay(attachment, out, now)) > 0:
            await self._sleep_inside_reply(
                attachment, now + wait if due is None else min(due, now + wait), starving=False
            )
        else:
            watch.sending_since = now
            await self._send(attachment, out, now)
            watch.sending_since = None

    def _delay(self, attachment: LegAttachment, out: OutgoingReply, now: float) -> float:
        """Return the seconds until the next piece is due."""
        if not attachment.leg.paced or not out.size:
            return 0.0
        if attachment.stalled and self._audio.ms(out.size) > attachment.stalled * 1000 + LEAD_MS:
            attachment.stalled = 0.0  # more is buffered than the stall delayed: this audio was early, not late
        return attachment.paced_until - now - _LEAD

    async def _send(self, attachment: LegAttachment, out: OutgoingReply, now: float) -> None:
        piece = out.take(self._frame if attachment.leg.paced else out.size)
        if piece and (data := self._convert_next(attachment, out, piece, self._audio.ms(len(piece)), now)):
            await attachment.leg.play(out.reply, data)
        if out.ended and not out.size:
            out.sent = True
            if data := attachment.to_caller.flush():
                await attachment.leg.play(out.reply, data)
        if name := self._next_mark(attachment, out):
            await attachment.leg.mark(name)

    def _convert_next(
        self, attachment: LegAttachment, out: OutgoingReply, piece: bytes, ms: float, now: float
    ) -> bytes:
        """Count a piece of `ms` milliseconds as sent and return it in the caller's format."""
        if not out.started:
            out.started = True
            self._emit(PlayoutStarted(reply=out.reply))
        out.position.send(ms, now)
        # Late by more than this process was stalled: the provider delivered late, and the piece is heard from now on.
        attachment.paced_until = max(attachment.paced_until, now - attachment.stalled) + ms / 1000
        attachment.stalled = max(0.0, min(attachment.stalled, now - attachment.paced_until))
        return attachment.to_caller(piece)

    def _next_mark(self, attachment: LegAttachment, out: OutgoingReply) -> str | None:
        """Return the name of the mark to send now, None if none is due."""
        sent = out.position.sent_ms
        if not attachment.leg.marks or sent <= out.marked_ms or (sent - out.marked_ms < MARK_MS and not out.sent):
            return None
        out.marked_ms = sent
        name = f"m{next(self._mark_numbers)}"
        out.position.mark(name)
        return name

    def _finish_heard(self, attachment: LegAttachment, now: float) -> float | None:
        """Emit `PlayoutStopped` for replies that were heard to their end; return the time of the next check."""
        due: float | None = None
        for out in [each for each in self._replies.values() if each.sent]:
            left = self._time_left(attachment, out, now)
            if left > 0:
                due = now + left if due is None else min(due, now + left)
                continue
            del self._replies[out.reply]
            self._remember_length(out.reply, out.position.received_ms)
            if out.started:
                self._emit(
                    PlayoutStopped(reply=out.reply, method="marks" if out.position.all_confirmed else "wallclock")
                )
        return due

    def _time_left(self, attachment: LegAttachment, out: OutgoingReply, now: float) -> float:
        """Return the seconds until a sent reply counts as heard: by its last mark if the caller confirms marks, else by the clock."""
        by_marks = attachment.leg.marks and (attachment.confirms_marks or out.position.confirmed)
        if by_marks and out.position.all_confirmed:
            return 0.0
        return out.position.ends_at + (_MARK_GRACE if by_marks else 0.0) - now

    async def _sleep_inside_reply(self, attachment: LegAttachment, until: float | None, *, starving: bool) -> None:
        """Sleep while a reply is unfinished; a stall meanwhile allows the following audio to catch up."""
        self._known_stalls = self._stall_monitor.seconds(self._clock())
        with self._stall_monitor.measuring():
            await self._sleep(until, starving=starving)
            self._add_stalls(attachment, self._clock())

    async def _sleep(self, until: float | None, *, starving: bool) -> None:
        """Wait until something changes, at most until the time `until`."""
        self._wake.clear()
        self._starving = starving
        loop = asyncio.get_running_loop()
        timer = None if until is None else loop.call_later(until - self._clock(), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._starving, self._awaited = False, None
            if timer is not None:
                timer.cancel()

    def _add_stalls(self, attachment: LegAttachment, now: float) -> None:
        known, self._known_stalls = self._known_stalls, self._stall_monitor.seconds(now)
        attachment.stalled += self._known_stalls - known

    def _remember_length(self, reply: str, received_ms: float) -> None:
        self._finished[reply] = received_ms
        while len(self._finished) > _REMEMBERED_REPLIES:
            self._finished.popitem(last=False)
