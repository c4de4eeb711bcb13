"""The caller's leg of a session of recorded turns: requests bring the turns, and their answers carry what is said."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

from agentfield.errors import AgentFieldError, LimitExceeded, ProviderUnavailable, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit, CallerGone, CallerInput
from agentfield_server.bus import Bus
from agentfield_server.sessions.turntape import Message, TurnTape, live_message
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, IdempotencyKey, SessionRow

__all__ = ["CONNECT_WAIT", "MAX_OPEN", "TAKEN_WAIT", "TurnLeg", "audio_topic"]

CONNECT_WAIT = 30.0
"""Seconds until the provider's session must be there to take a turn."""

TAKEN_WAIT = 60.0
"""Seconds in which the session must decide about a turn that was handed over."""

MAX_OPEN = 8
"""Turns of one session that may be under way."""

_PIECE = 48_000
"""Bytes of audio that travel together, either way."""
_MAX_WAITING = 32 * 1024 * 1024
"""Bytes of turns that the provider has not taken, beyond which no other is taken."""
_HINTS = 4000
_PAGE = 500


def audio_topic(session_id: str) -> str:
    """Return the topic of the bus on which a session's audio goes to whoever listens outside a turn."""
    return f"audio:{session_id}"


class TurnLeg:
    """A caller who sends recorded turns and hears the answers (`agentfield.realtime.caller.CallerLeg`).

    Args:
        row: The session.
        audio: The format of both directions, 16-bit samples.
        store: What is kept.
        bus: Where recorded and live events come from, and audio goes to.
        audience: Tells how many listen to the session's event stream with audio.
    """

    def __init__(
        self, row: SessionRow, audio: AudioFormat, *, store: Store, bus: Bus, audience: Callable[[], int]
    ) -> None:
        self.session_id = row.id
        self._run_id = row.run_id
        self._format = audio
        self._store = store
        self._bus = bus
        self._audience = audience
        self._turns: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._tapes: list[TurnTape] = []
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._up = asyncio.Event()
        self._over = False
        self._error: AgentFieldError | None = None
        self._reply: str | None = None
        self._waiting = 0
        self._seq = 0
        # from now on nothing of the session is missed
        self._recorded = bus.subscribe(f"run:{row.run_id}", _HINTS)
        self._live = bus.subscribe(f"live:{row.id}", _HINTS)

    # --- for the bridge

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""
        return self._format

    @property
    def marks(self) -> bool:
        """False: an answer that streams tells nothing of what was heard."""
        return False

    @property
    def paced(self) -> bool:
        """False: the caller gets an answer as fast as it is made, and keeps it."""
        return False

    @property
    def listening(self) -> bool:
        """Whether a turn waits for its answer, or somebody follows the session with audio."""
        return not self._over and (self._audience() > 0 or any(tape.heard for tape in self._tapes))

    async def play(self, reply: str, data: bytes) -> None:
        """Add audio to the answer of the newest turn, and give it to who follows the session with audio."""
        self._reply = reply
        for start in range(0, len(data), _PIECE):
            piece = base64.b64encode(data[start : start + _PIECE]).decode("ascii")
            self._sound(live_message({"type": "reply.audio", "reply": reply, "data": piece, "rate": self._format.rate}))

    async def mark(self, name: str) -> None:
        """Do nothing: nobody tells what was heard."""

    async def clear(self) -> None:
        """Tell everybody that what is left of the answer is not to be played."""
        reply, self._reply = self._reply, None
        if reply is not None:
            self._sound(live_message({"type": "playout.cleared", "reply": reply}))

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield the turns, each one's audio and its end."""
        self._up.set()
        while (turn := await self._turns.get()) is not None:
            item, samples = turn
            for start in range(0, len(samples), _PIECE):
                yield CallerAudio(samples[start : start + _PIECE])
            self._waiting -= len(samples)
            yield CallerCommit(item)
        yield CallerGone("nobody sends turns any more", hung_up=False)

    async def close(self) -> None:
        """Take no more turns; idempotent."""
        if not self._over:
            self._turns.put_nowait(None)

    # --- for requests

    async def connected(self) -> None:
        """Wait until turns are taken.

        Raises:
            AgentFieldError: The provider's session could not be opened.
        """
        try:
            async with asyncio.timeout(CONNECT_WAIT):
                await self._up.wait()
        except TimeoutError:
            raise ProviderUnavailable(
                f"The provider's session was not there within {CONNECT_WAIT:g} s.", hint="send the turn again"
            ) from None
        if self._error is not None:
            raise self._error
        if self._over:
            raise Unavailable("The session takes no turns any more.", hint=f"af session show {self.session_id}")

    def post(self, item: str, samples: bytes, key: IdempotencyKey | None = None) -> TurnTape:
        """Hand a turn over; returns what its sender is told.

        Args:
            item: What the turn is called.
            samples: What was said, in the leg's format.
            key: The Idempotency-Key that it came with.

        Raises:
            LimitExceeded: Too many turns are under way (code `too_many_turns`).
        """
        if len(self._tapes) >= MAX_OPEN or self._waiting > _MAX_WAITING:
            raise LimitExceeded(
                f"{len(self._tapes)} turns of this session are under way.",
                code="too_many_turns",
                hint="wait for the answers of earlier turns",
                retry_after=2,
            )
        tape = TurnTape(item, key)
        self._tapes.append(tape)
        self._deadlines[item] = asyncio.get_running_loop().call_later(TAKEN_WAIT, self._not_taken, tape)
        self._waiting += len(samples)
        self._turns.put_nowait((item, samples))
        return tape

    async def rejoin(self, item: str, since: int, key: IdempotencyKey | None = None) -> TurnTape:
        """Return what the sender of a turn is told that was taken before this leg was there.

        Args:
            item: What the turn is called.
            since: Number of the event that it was taken with.
            key: The Idempotency-Key that it came with.
        """
        tape = TurnTape(item, key, since=since)
        seq, over = since - 1, False
        while (rows := await self._store.read_events(self._run_id, after=seq, limit=_PAGE)) or self._seq > seq:
            for row in rows:
                seq, over = row.seq, tape.record(row) or over
        if over or self._over:
            tape.close()
            return tape
        # audio goes to the newest turn, which is the last one
        place = next((at for at, known in enumerate(self._tapes) if known.since > since), len(self._tapes))
        self._tapes.insert(place, tape)
        return tape

    # --- for who owns it

    async def follow(self) -> None:
        """Add what happens in the session to the tapes of its turns, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_live())
            group.create_task(self._follow_recorded())

    async def idle(self) -> None:
        """Wait until no turn is under way."""
        while self._tapes:
            await self._tapes[0].ended()
            # what ended it takes it off the list
            await asyncio.sleep(0)

    def end(self, error: AgentFieldError | None = None) -> None:
        """The leg is not connected any more; `error` says why, where that is a fault."""
        self._over = True
        self._error = error
        self._up.set()
        fault = error or Unavailable(
            "The session was let go before the turn was answered.",
            code="turn_interrupted",
            hint="send the turn again, with the same Idempotency-Key",
        )
        for tape in self._tapes:
            tape.fail(fault)
        self._tapes.clear()
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()
        self._recorded.close()
        self._live.close()

    # --- inside

    async def _follow_live(self) -> None:
        while True:
            # the iteration ends once when too much waited; what was lost was live only
            async for body in self._live:
                if self._tapes and isinstance(body, dict):
                    message = live_message(body)
                    for tape in self._tapes:
                        tape.add(message)
            if self._over:
                return

    async def _follow_recorded(self) -> None:
        while not self._over:
            async for rows in self._recorded:
                if isinstance(rows, list):
                    await self._take(rows)
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Too much waited: the store is the truth, read on from there."""
        while not self._over and (rows := await self._store.read_events(self._run_id, after=self._seq, limit=_PAGE)):
            await self._take(rows)

    async def _take(self, rows: list[EventRow]) -> None:
        for row in rows:
            if row.seq <= self._seq:
                continue
            self._seq = row.seq
            over = [tape for tape in self._tapes if tape.record(row)]
            for tape in [tape for tape in self._tapes if tape.taken]:
                self._decided(tape)
            if over:
                # live events that came before this one are on their way: they belong to the answer
                await asyncio.sleep(0)
                for tape in over:
                    self._done(tape)

    def _done(self, tape: TurnTape) -> None:
        tape.close()
        self._decided(tape)
        if tape in self._tapes:
            self._tapes.remove(tape)

    def _decided(self, tape: TurnTape) -> None:
        deadline = self._deadlines.pop(tape.item, None)
        if deadline is not None:
            deadline.cancel()

    def _not_taken(self, tape: TurnTape) -> None:
        tape.fail(
            Unavailable(
                f"Nothing came of the turn within {TAKEN_WAIT:g} s.",
                code="turn_not_taken",
                hint="send it again; af session show tells the state of the session",
            )
        )
        self._done(tape)

    def _sound(self, message: Message) -> None:
        if self._tapes:
            self._tapes[-1].add(message)
        self._bus.publish(audio_topic(self.session_id), message.data)
