"""Plays replies to the caller: in order, just ahead of being heard, and known to the millisecond when they are thrown away."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import Event, PlayoutStarted, PlayoutStopped, ReplyEnded
from agentfield.realtime.line import Converter, Line, LineEnd, Writable
from agentfield.realtime.playout import HeardMethod, Playout
from agentfield.realtime.stalls import Stalls

__all__ = ["FRAME_MS", "LEAD_MS", "MAX_REPLY_MS", "Converter", "Line", "LineEnd", "Player", "Writable"]

LEAD_MS = 200
"""How far ahead of being heard audio is sent to a caller."""
FRAME_MS = 50
"""Audio that is sent in one piece."""
MARK_MS = 200
"""How often the caller is asked to tell what was heard."""
MAX_REPLY_MS = 600_000
"""Audio of one reply that is kept."""
_MARK_GRACE = 2.0
"""Seconds by which a caller that tells marks may be behind the clock."""
_SLOW = 5.0
"""Seconds in which a caller must take a piece of audio."""
_EARLY = (LEAD_MS - FRAME_MS) / 1000
_REMEMBERED = 128


@dataclass(eq=False, slots=True)
class _Outgoing:
    reply: str
    playout: Playout = field(default_factory=Playout)
    chunks: deque[bytes] = field(default_factory=deque)
    at: int = 0
    """How much of the first chunk was taken already."""
    size: int = 0
    ended: bool = False
    begun: bool = False
    sent: bool = False
    """Whether all of it went to the caller."""
    full: bool = False
    marked_ms: float = 0.0
    """Up to where marks were asked for."""

    def take(self, most: int) -> bytes:
        """Return the next piece, at most that many bytes."""
        taken: list[bytes] = []
        size = 0
        while self.chunks and size < most:
            chunk = self.chunks[0]
            piece = chunk[self.at : self.at + most - size] if self.at or len(chunk) > most - size else chunk
            self.at += len(piece)
            if self.at >= len(chunk):
                self.chunks.popleft()
                self.at = 0
            taken.append(piece)
            size += len(piece)
        self.size -= size
        return taken[0] if len(taken) == 1 else b"".join(taken)


class _Watch:
    """Ends the line of a caller that takes no audio; one timer for many pieces, because most of them go at once."""

    def __init__(self, line: Line, clock: Callable[[], float]) -> None:
        self._line = line
        self._clock = clock
        self.since: float | None = None
        """When the piece that is on its way was begun."""
        self._timer = asyncio.get_running_loop().call_later(_SLOW / 2, self._look)

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()

    def _look(self) -> None:
        if self.since is not None and self._clock() - self.since >= _SLOW:
            self._line.end("slow")
            return
        self._timer = asyncio.get_running_loop().call_later(_SLOW / 2, self._look)


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what does not wait, without a task; should it wait after all, then for room that is there, and it has written."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()


class Player:
    """What waits to be heard, whoever the caller's leg is at the moment.

    Args:
        audio: The provider's format, in which audio waits.
        clock: Seconds of a monotonic clock.
        emit: Takes events.
        stalls: Tells for how long this process stood still, by the same clock.
    """

    def __init__(
        self, audio: AudioFormat, *, clock: Callable[[], float], emit: Callable[[Event], None], stalls: Stalls
    ) -> None:
        self._audio = audio
        self._clock = clock
        self._emit = emit
        self._replies: OrderedDict[str, _Outgoing] = OrderedDict()
        self._past: OrderedDict[str, float] = OrderedDict()
        self._names = itertools.count(1)
        self._wake = asyncio.Event()
        self._starving = False
        self._awaited: _Outgoing | None = None
        """The reply that is played next, while all that came of it was sent and the player waits for more."""
        self._stalls = stalls
        self._stood_still = 0.0
        """What was known of stalls when the player looked last."""
        self._line: Line | None = None
        self._frame = audio.size(FRAME_MS)
        self._most = audio.size(MAX_REPLY_MS)

    # --- from the provider

    def feed(self, reply: str, data: bytes) -> bool:
        """Take audio of a reply; returns whether the first of it had to be dropped."""
        out = self._replies.get(reply)
        if out is None:
            if reply in self._past:
                return False
            out = self._replies[reply] = _Outgoing(reply)
        if out.size + len(data) > self._most:
            first, out.full = not out.full, True
            return first
        out.chunks.append(data)
        out.size += len(data)
        out.playout.receive(self._audio.ms(len(data)))
        if self._starving:
            self._wake.set()
        return False

    def pass_on(self, reply: str, data: bytes) -> bool:
        """Play audio at once, if it would be played next and without waiting; returns whether it was.

        Audio that comes as it is spoken takes this way, past the buffer and the player's task.
        """
        out, line = self._awaited, self._line
        if out is None or out.reply != reply or out.size or out.ended or len(data) > self._frame:
            return False
        if line is None or line.writable is None or line.why is not None:
            return False
        now = self._clock()
        if line.paced_until - now > _EARLY or not line.writable.writable:
            return False
        self._notice(line, now)
        ms = self._audio.ms(len(data))
        out.playout.receive(ms)
        try:
            if converted := self._begin(line, out, data, ms, now):
                _at_once(line.leg.play(reply, converted))
            if name := self._due_mark(line, out):
                _at_once(line.leg.mark(name))
        except AgentFieldError:
            line.end("gone")
        return True

    def ended(self, event: ReplyEnded) -> ReplyEnded:
        """Generation of a reply is over; returns the event with how much audio there was."""
        out = self._replies.get(event.reply)
        received = self._past.get(event.reply) if out is None else out.playout.received_ms
        if out is not None:
            out.ended = True
            self._wake.set()
        if received is None:
            return event
        length = event.audio_ms if event.audio_ms is not None else int(received)
        return event.model_copy(update={"audio_ms": length, "audio": event.audio or received > 0})

    def drop_all(self) -> bool:
        """Throw all replies away: their conversation is gone; returns whether the caller holds audio of one."""
        held = False
        for reply in list(self._replies):
            held = self.cancel(reply)[2] or held
        return held

    # --- from the runtime

    def cancel(self, reply: str) -> tuple[int, HeardMethod, bool]:
        """Throw a reply away.

        Returns:
            Milliseconds of it that were heard, how that is known, and whether the caller holds any of it.
        """
        out = self._replies.pop(reply, None)
        if out is None:
            return int(self._past.get(reply, 0.0)), "wallclock", False
        heard, method = out.playout.heard(self._clock())
        heard = min(heard, int(out.playout.received_ms))
        if out is self._awaited:
            self._awaited = None
        self._forget(reply, out.playout.received_ms)
        playing = out.playout.sent_ms > 0
        out.playout.clear()
        out.chunks.clear()
        if self._line is not None and playing:
            self._line.paced_until = self._line.stalled = 0.0
            # what the converter holds belongs to what was thrown away
            self._line.to_caller.flush()
        self._wake.set()
        return heard, method, playing

    # --- from the caller

    def take(self, line: Line) -> None:
        """Play to this leg from now on."""
        self._line = line
        self._wake.set()

    def leave(self, line: Line) -> None:
        """A leg is gone, and with it all that it was sent and did not tell."""
        if self._line is line:
            self._line = None
            for out in self._replies.values():
                out.playout.forget_marks()

    def told(self, name: str) -> None:
        """The caller has heard everything up to a mark."""
        for out in self._replies.values():
            if out.playout.told(name):
                if self._line is not None:
                    self._line.echoes = True
                if out.sent:
                    self._wake.set()
                return

    async def play(self, line: Line) -> None:
        """Play to a leg until its line is over."""
        watch = _Watch(line, self._clock)
        try:
            while not line.over.is_set():
                await self._step(line, watch)
        except AgentFieldError:
            line.end("gone")
        finally:
            watch.stop()

    # --- inside

    async def _step(self, line: Line, watch: _Watch) -> None:
        now = self._clock()
        due = self._settle(line, now)
        out = next((each for each in self._replies.values() if not each.sent), None)
        if out is None:
            await self._sleep(due, starving=True)
        elif not out.size and not out.ended:
            self._awaited = out
            await self._sleep_on(line, due, starving=True)
        elif (wait := self._too_early(line, out, now)) > 0:
            await self._sleep_on(line, now + wait if due is None else min(due, now + wait), starving=False)
        else:
            watch.since = now
            await self._send(line, out, now)
            watch.since = None

    def _too_early(self, line: Line, out: _Outgoing, now: float) -> float:
        """Return how many seconds the next piece has to wait."""
        if not line.leg.paced or not out.size:
            return 0.0
        if line.stalled and self._audio.ms(out.size) > line.stalled * 1000 + LEAD_MS:
            line.stalled = 0.0  # there is plenty: nothing is late
        return line.paced_until - now - _EARLY

    async def _send(self, line: Line, out: _Outgoing, now: float) -> None:
        piece = out.take(self._frame if line.leg.paced else out.size)
        if piece and (data := self._begin(line, out, piece, self._audio.ms(len(piece)), now)):
            await line.leg.play(out.reply, data)
        if out.ended and not out.size:
            out.sent = True
            if data := line.to_caller.flush():
                await line.leg.play(out.reply, data)
        if name := self._due_mark(line, out):
            await line.leg.mark(name)

    def _begin(self, line: Line, out: _Outgoing, piece: bytes, ms: float, now: float) -> bytes:
        """Count a piece of `ms` milliseconds as sent and return it as the caller wants it."""
        if not out.begun:
            out.begun = True
            self._emit(PlayoutStarted(reply=out.reply))
        out.playout.send(ms, now)
        # behind by more than we stood still: the provider was not ready, and what comes now is heard from now on
        line.paced_until = max(line.paced_until, now - line.stalled) + ms / 1000
        line.stalled = max(0.0, min(line.stalled, now - line.paced_until))
        return line.to_caller(piece)

    def _due_mark(self, line: Line, out: _Outgoing) -> str | None:
        """Return the name of a mark that the caller is to be asked for now."""
        sent = out.playout.sent_ms
        if not line.leg.marks or sent <= out.marked_ms or (sent - out.marked_ms < MARK_MS and not out.sent):
            return None
        out.marked_ms = sent
        name = f"m{next(self._names)}"
        out.playout.mark(name)
        return name

    def _settle(self, line: Line, now: float) -> float | None:
        """Tell of replies that were heard to their end; returns when to look again."""
        due: float | None = None
        for out in [each for each in self._replies.values() if each.sent]:
            left = self._left(line, out, now)
            if left > 0:
                due = now + left if due is None else min(due, now + left)
                continue
            del self._replies[out.reply]
            self._forget(out.reply, out.playout.received_ms)
            if out.begun:
                self._emit(PlayoutStopped(reply=out.reply, method="marks" if out.playout.all_marked else "wallclock"))
        return due

    def _left(self, line: Line, out: _Outgoing, now: float) -> float:
        told = line.leg.marks and (line.echoes or out.playout.marked)
        if told and out.playout.all_marked:
            return 0.0
        return out.playout.ends_at + (_MARK_GRACE if told else 0.0) - now

    async def _sleep_on(self, line: Line, until: float | None, *, starving: bool) -> None:
        """Sleep in the middle of a reply; what comes after a stall may make up for it."""
        self._stood_still = self._stalls.seconds(self._clock())
        with self._stalls.watched():
            await self._sleep(until, starving=starving)
            self._notice(line, self._clock())

    async def _sleep(self, until: float | None, *, starving: bool) -> None:
        """Wait until something changes, at most until a time."""
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

    def _notice(self, line: Line, now: float) -> None:
        known, self._stood_still = self._stood_still, self._stalls.seconds(now)
        line.stalled += self._stood_still - known

    def _forget(self, reply: str, received_ms: float) -> None:
        self._past[reply] = received_ms
        while len(self._past) > _REMEMBERED:
            self._past.popitem(last=False)
