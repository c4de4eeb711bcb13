"""Caller leg of a session of recorded turns: requests post the turns, replay buffers collect the answers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

from agentfield.errors import AgentFieldError, LimitExceeded, ProviderUnavailable, Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit, CallerGone, CallerInput
from agentfield_server.bus import Bus
from agentfield_server.sessions.recorded_turns.replay_buffer import Message, ReplayBuffer, live_message
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, IdempotencyKey, SessionRow

__all__ = ["CONNECT_WAIT", "MAX_OPEN", "TAKEN_WAIT", "RecordedTurnLeg", "audio_topic"]

CONNECT_WAIT = 30.0
"""Seconds in which the provider's session must be open."""

TAKEN_WAIT = 60.0
"""Seconds in which the session must commit or discard a posted turn."""

MAX_OPEN = 8
"""Maximum number of open turns of one session."""

_CHUNK = 48_000
"""Bytes of audio per chunk, in both directions."""
_MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Bytes of posted turns not yet read by the bridge; beyond it further turns are refused."""
_HINTS = 4000
_PAGE = 500


def audio_topic(session_id: str) -> str:
    """Return the bus topic of a session's audio, for listeners outside of a turn."""
    return f"audio:{session_id}"


class RecordedTurnLeg:
    """The caller leg of a session of recorded turns (`agentfield.realtime.caller.CallerLeg`).

    Args:
        row: The session.
        audio: The format of both directions, 16-bit samples.
        store: The store.
        bus: Source of recorded and live events; takes the audio.
        audience: Returns the number of event streams that follow the session with audio.
    """

    def __init__(
        self, row: SessionRow, audio: AudioFormat, *, store: Store, bus: Bus, audio_followers: Callable[[], int]
    ) -> None:
        self.session_id = row.id
        self._run_id = row.run_id
        self._format = audio
        self._store = store
        self._bus = bus
        self._audio_followers = audio_followers
        self._turns: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        self._buffers: list[ReplayBuffer] = []
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._connected = asyncio.Event()
        self._ended = False
        self._error: AgentFieldError | None = None
        self._reply: str | None = None
        self._waiting_bytes = 0
        self._seq = 0
        # subscribed before the first turn is posted, so that no event of it is missed
        self._recorded = bus.subscribe(f"run:{row.run_id}", _HINTS)
        self._live = bus.subscribe(f"live:{row.id}", _HINTS)

    # --- CallerLeg, used by the bridge

    @property
    def format(self) -> AudioFormat:
        """The format of both directions."""
        return self._format

    @property
    def marks(self) -> bool:
        """False: a streamed HTTP response gives no feedback about playback."""
        return False

    @property
    def paced(self) -> bool:
        """False: audio is sent as fast as it is generated; the caller buffers it."""
        return False

    @property
    def listening(self) -> bool:
        """Whether audio has a receiver: an open turn with a reader, or an event stream with audio."""
        return not self._ended and (self._audio_followers() > 0 or any(buffer.has_reader for buffer in self._buffers))

    async def play(self, reply: str, data: bytes) -> None:
        """Add audio to the answer of the newest turn and publish it for followers."""
        self._reply = reply
        for start in range(0, len(data), _CHUNK):
            chunk = base64.b64encode(data[start : start + _CHUNK]).decode("ascii")
            self._publish_audio(
                live_message({"type": "reply.audio", "reply": reply, "data": chunk, "rate": self._format.rate})
            )

    async def mark(self, name: str) -> None:
        """Do nothing: marks are not supported."""

    async def clear(self) -> None:
        """Send `playout.cleared`: the rest of the current reply must not be played."""
        reply, self._reply = self._reply, None
        if reply is not None:
            self._publish_audio(live_message({"type": "playout.cleared", "reply": reply}))

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield the posted turns: the audio chunks of each one, then its commit."""
        self._connected.set()
        while (turn := await self._turns.get()) is not None:
            item, samples = turn
            for start in range(0, len(samples), _CHUNK):
                yield CallerAudio(samples[start : start + _CHUNK])
            self._waiting_bytes -= len(samples)
            yield CallerCommit(item)
        yield CallerGone("the leg takes no more turns", hung_up=False)

    async def close(self) -> None:
        """Accept no more turns; idempotent."""
        if not self._ended:
            self._turns.put_nowait(None)

    # --- used by requests

    async def connected(self) -> None:
        """Wait until the leg accepts turns.

        Raises:
            AgentFieldError: The provider's session could not be opened.
        """
        try:
            async with asyncio.timeout(CONNECT_WAIT):
                await self._connected.wait()
        except TimeoutError:
            raise ProviderUnavailable(
                f"The provider's session was not open within {CONNECT_WAIT:g} s.", hint="send the turn again"
            ) from None
        if self._error is not None:
            raise self._error
        if self._ended:
            raise Unavailable("The session takes no turns any more.", hint=f"af session show {self.session_id}")

    def post(self, item: str, samples: bytes, key: IdempotencyKey | None = None) -> ReplayBuffer:
        """Post a turn; return the buffer of its answer.

        Args:
            item: Name of the turn.
            samples: The recording, in the leg's format.
            key: The Idempotency-Key of the request.

        Raises:
            LimitExceeded: Too many turns are open (code `too_many_turns`).
        """
        if len(self._buffers) >= MAX_OPEN or self._waiting_bytes > _MAX_WAITING_BYTES:
            raise LimitExceeded(
                f"{len(self._buffers)} turns of this session are under way.",
                code="too_many_turns",
                hint="wait for the answers of earlier turns",
                retry_after=2,
            )
        buffer = ReplayBuffer(item, key)
        self._buffers.append(buffer)
        self._deadlines[item] = asyncio.get_running_loop().call_later(TAKEN_WAIT, self._on_taken_timeout, buffer)
        self._waiting_bytes += len(samples)
        self._turns.put_nowait((item, samples))
        return buffer

    async def rejoin(self, item: str, since: int, key: IdempotencyKey | None = None) -> ReplayBuffer:
        """Return a buffer for a turn that an earlier leg posted, filled with its recorded events.

        Args:
            item: Name of the turn.
            since: Sequence number of the event with which the turn was committed.
            key: The Idempotency-Key of the request.
        """
        buffer = ReplayBuffer(item, key, since=since)
        seq, over = since - 1, False
        while (rows := await self._store.read_events(self._run_id, after=seq, limit=_PAGE)) or self._seq > seq:
            for row in rows:
                seq, over = row.seq, buffer.record(row) or over
        if over or self._ended:
            buffer.close()
            return buffer
        # ordered by age: audio goes to the last buffer, the newest turn
        place = next((at for at, known in enumerate(self._buffers) if known.since > since), len(self._buffers))
        self._buffers.insert(place, buffer)
        return buffer

    # --- used by the service that owns the leg

    async def follow(self) -> None:
        """Add the session's recorded and live events to the buffers of its turns, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_live())
            group.create_task(self._follow_recorded())

    async def idle(self) -> None:
        """Wait until no turn is open."""
        while self._buffers:
            await self._buffers[0].ended()
            # the buffer is removed from the list right after it is closed
            await asyncio.sleep(0)

    def end(self, error: AgentFieldError | None = None) -> None:
        """End the leg and fail its open turns with `error`, or as interrupted without one."""
        self._ended = True
        self._error = error
        self._connected.set()
        fault = error or Unavailable(
            "The session was released before the turn was answered.",
            code="turn_interrupted",
            hint="send the turn again, with the same Idempotency-Key",
        )
        for buffer in self._buffers:
            buffer.fail(fault)
        self._buffers.clear()
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()
        self._recorded.close()
        self._live.close()

    # --- inside

    async def _follow_live(self) -> None:
        while True:
            # the iteration ends after an overflow; only live events were lost, so it is simply resumed
            async for body in self._live:
                if self._buffers and isinstance(body, dict):
                    message = live_message(body)
                    for buffer in self._buffers:
                        buffer.add(message)
            if self._ended:
                return

    async def _follow_recorded(self) -> None:
        while not self._ended:
            async for rows in self._recorded:
                if isinstance(rows, list):
                    await self._apply_rows(rows)
            await self._catch_up()

    async def _catch_up(self) -> None:
        """After an overflow of hints, read the missed events from the store."""
        while not self._ended and (rows := await self._store.read_events(self._run_id, after=self._seq, limit=_PAGE)):
            await self._apply_rows(rows)

    async def _apply_rows(self, rows: list[EventRow]) -> None:
        for row in rows:
            if row.seq <= self._seq:
                continue
            self._seq = row.seq
            over = [buffer for buffer in self._buffers if buffer.record(row)]
            for buffer in [buffer for buffer in self._buffers if buffer.taken]:
                self._cancel_deadline(buffer)
            if over:
                # let the task of the live events run first: those published before this event belong to the answer
                await asyncio.sleep(0)
                for buffer in over:
                    self._close_buffer(buffer)

    def _close_buffer(self, buffer: ReplayBuffer) -> None:
        buffer.close()
        self._cancel_deadline(buffer)
        if buffer in self._buffers:
            self._buffers.remove(buffer)

    def _cancel_deadline(self, buffer: ReplayBuffer) -> None:
        deadline = self._deadlines.pop(buffer.item, None)
        if deadline is not None:
            deadline.cancel()

    def _on_taken_timeout(self, buffer: ReplayBuffer) -> None:
        buffer.fail(
            Unavailable(
                f"The turn was neither committed nor discarded within {TAKEN_WAIT:g} s.",
                code="turn_not_taken",
                hint="send it again; af session show prints the state of the session",
            )
        )
        self._close_buffer(buffer)

    def _publish_audio(self, message: Message) -> None:
        if self._buffers:
            self._buffers[-1].add(message)
        self._bus.publish(audio_topic(self.session_id), message.data)
