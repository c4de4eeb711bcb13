"""The legs of all sessions of recorded turns, and the buffered answers of recent turns by Idempotency-Key."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol
from weakref import WeakValueDictionary

from agentfield.errors import AgentFieldError, Conflict, InvalidInput, ProviderUnavailable
from agentfield.plugins import Registry
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerLeg
from agentfield_server.bus import Bus, Subscription
from agentfield_server.sessions.recorded_turns.leg import RecordedTurnLeg, audio_topic
from agentfield_server.sessions.recorded_turns.replay_buffer import Message, ReplayBuffer, TurnEndDetector
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, IdempotencyKey, SessionRow

__all__ = ["KEEP_SECONDS", "RecordedTurnService"]

_log = logging.getLogger("agentfield.sessions")

KEEP_SECONDS = 60.0
"""Seconds after the end of a turn in which a repeated request still gets the answer with its audio."""

_MAX_BUFFERS = 8
_DRAIN_WAIT = 5.0
_AUDIO_QUEUE = 4000
_PAGE = 500
_DEFAULT = AudioFormat("pcm16", 24_000)


class LegConnector(Protocol):
    """What this service needs from the session service."""

    async def connect(self, session_id: str, leg: CallerLeg) -> object:
        """Carry a leg until it ends."""

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        """Return the formats that the provider takes without conversion, best first."""


class RecordedTurnService:
    """Connects one leg per session of recorded turns, and keeps the answers of recent turns for repeated requests.

    Args:
        sessions: Carries the legs.
        store: The store.
        bus: Recorded and live events of the sessions, and their audio.
        registry: The installed plugins.
        keep_seconds: Seconds that the answer of a turn is kept after its end.
    """

    def __init__(
        self, sessions: LegConnector, store: Store, bus: Bus, registry: Registry, *, keep_seconds: float = KEEP_SECONDS
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._bus = bus
        self._registry = registry
        self._keep_seconds = keep_seconds
        self._legs: dict[str, RecordedTurnLeg] = {}
        self._audio_followers: Counter[str] = Counter()
        self._ever_followed: set[str] = set()
        self._buffers: dict[str, OrderedDict[IdempotencyKey, ReplayBuffer]] = {}
        # weak values: a lock lives as long as a request holds it or waits for it
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Release all legs; idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._buffers.clear()

    # --- sessions of recorded turns

    def serves(self, row: SessionRow) -> bool:
        """Tell whether a session takes recorded turns."""
        declared = row.config["declaration"]
        try:
            return self._registry.resolve(declared["provider"], declared["transport"]).media == "turns"
        except AgentFieldError:
            return False

    def require_recorded_turns(self, row: SessionRow) -> None:
        """Reject a session whose pair takes no recorded turns.

        Raises:
            Conflict: The pair has another medium (code `wrong_media`); the hint names the route to use.
        """
        if self.serves(row):
            return
        declared = row.config["declaration"]
        pair = self._registry.resolve(declared["provider"], declared["transport"])
        base = f"/api/v1/sessions/{row.id}"
        hint = f"open a WebSocket at {base}/media" if pair.media == "bridged" else f"POST an SDP offer to {base}/offer"
        raise Conflict(
            f"Session {row.id} runs on {pair.name}, which takes no recorded turns.", code="wrong_media", hint=hint
        )

    # --- legs

    async def leg(self, row: SessionRow) -> RecordedTurnLeg:
        """Return the connected leg of a session; create and connect it first if there is none.

        Raises:
            AgentFieldError: The provider's session could not be opened, or the session is over.
        """
        leg = self._legs.get(row.id)
        if leg is None:
            audio = await self.format(row)
            leg = self._legs.get(row.id) or self._new_leg(row, audio)
        await leg.connected()
        return leg

    async def format(self, row: SessionRow) -> AudioFormat:
        """Return the format of a session's turns: 16-bit samples, at a rate that the provider takes if there is one."""
        if (leg := self._legs.get(row.id)) is not None:
            return leg.format
        formats = self._sessions.formats(row.id)
        return next((known for known in formats if known.codec == "pcm16"), _DEFAULT)

    @contextmanager
    def follow_audio(self, row: SessionRow) -> Iterator[Subscription]:
        """Subscribe to the session's audio outside of turns while the context is entered."""
        self._audio_followers[row.id] += 1
        self._ever_followed.add(row.id)
        try:
            with self._bus.subscribe(audio_topic(row.id), _AUDIO_QUEUE) as sounds:
                yield sounds
        finally:
            self._audio_followers[row.id] -= 1
            if self._audio_followers[row.id] <= 0:
                del self._audio_followers[row.id]

    def had_audio_follower(self, session_id: str) -> bool:
        """Tell whether the audio was ever followed; the caller of such a session is present as long as it is followed."""
        return session_id in self._ever_followed

    # --- repeated requests

    @asynccontextmanager
    async def serialize_requests(self, session_id: str) -> AsyncIterator[None]:
        """Serialise the admission of a session's requests, so that two with one key cannot both start a turn."""
        lock = self._locks.get(session_id)
        if lock is None:
            self._locks[session_id] = lock = asyncio.Lock()
        async with lock:
            yield

    def kept_buffer(self, key: IdempotencyKey) -> ReplayBuffer | None:
        """Return the buffer of the turn with this key, while the turn is open or kept; None otherwise.

        Raises:
            InvalidInput: The key was used with another recording (code `idempotency_mismatch`).
        """
        for known, buffer in self._buffers.get(key.target, {}).items():
            if (known.principal, known.key) == (key.principal, key.key):
                if known.body_digest != key.body_digest:
                    raise InvalidInput(
                        "This Idempotency-Key was used with another body.",
                        code="idempotency_mismatch",
                        hint="use a new key for a new request",
                    )
                return buffer
        return None

    def post(self, leg: RecordedTurnLeg, item: str, samples: bytes, key: IdempotencyKey | None) -> ReplayBuffer:
        """Start a turn and keep its buffer for repeated requests with its key.

        Raises:
            LimitExceeded: Too many turns of the session are open.
        """
        buffer = leg.post(item, samples, key)
        if key is not None:
            self._keep_buffer(key, buffer)
        return buffer

    async def replay_recorded(
        self, row: SessionRow, item: str, key: IdempotencyKey
    ) -> AsyncGenerator[Message, None] | None:
        """Return the recorded messages of a turn whose buffer is gone; None if nothing of the turn was recorded.

        A turn that is still open, since before a restart, continues with its live messages, audio included.
        """
        end, first, over = TurnEndDetector(item), None, False
        async for event in self._events(row):
            if first is None and _names_turn(event, item):
                first = event.seq
            over = end.is_end(event) or over
        if first is None:
            return None
        if over:
            return self._replayed(row, item, first)
        buffer = await (await self.leg(row)).rejoin(item, first, key)
        self._keep_buffer(key, buffer)
        return buffer.read()

    # --- inside

    def _keep_buffer(self, key: IdempotencyKey, buffer: ReplayBuffer) -> None:
        self._buffers.setdefault(key.target, OrderedDict())[key] = buffer
        self._evict_oldest(key.target)
        self._spawn(self._expire(key, buffer))

    def _new_leg(self, row: SessionRow, audio: AudioFormat) -> RecordedTurnLeg:
        leg = RecordedTurnLeg(
            row, audio, store=self._store, bus=self._bus, audio_followers=lambda: self._audio_followers[row.id]
        )
        self._legs[row.id] = leg
        self._spawn(self._run_leg(row, leg))
        return leg

    async def _run_leg(self, row: SessionRow, leg: RecordedTurnLeg) -> None:
        """Carry a leg until it ends, then fail or finish the turns that wait for their answer."""
        follower = asyncio.create_task(leg.follow(), name=f"turns of {row.id}")
        error: AgentFieldError | None = None
        try:
            await self._sessions.connect(row.id, leg)
            await self._drain_buffers(leg)
        except AgentFieldError as refused:
            error = refused
        except Exception:  # noqa: BLE001 - open requests must get an error; the traceback is logged
            _log.exception("the leg of recorded turns of session %s failed", row.id)
            error = ProviderUnavailable("the control plane failed while it processed the turn", code="internal_error")
        finally:
            if self._legs.get(row.id) is leg:
                del self._legs[row.id]
            leg.end(error)
            if not self._audio_followers[row.id]:
                del self._audio_followers[row.id]
                self._ever_followed.discard(row.id)
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def _drain_buffers(self, leg: RecordedTurnLeg) -> None:
        """After the session's end, wait until its last recorded events have reached the open answers."""
        try:
            async with asyncio.timeout(_DRAIN_WAIT):
                await leg.idle()
        except TimeoutError:
            return

    def _evict_oldest(self, session_id: str) -> None:
        buffers = self._buffers[session_id]
        over = [key for key, buffer in buffers.items() if buffer.closed]
        for key in over[: max(0, len(buffers) - _MAX_BUFFERS)]:
            del buffers[key]

    async def _expire(self, key: IdempotencyKey, buffer: ReplayBuffer) -> None:
        await buffer.ended()
        await asyncio.sleep(self._keep_seconds)
        buffers = self._buffers.get(key.target, OrderedDict())
        if buffers.get(key) is buffer:
            del buffers[key]
        if not buffers:
            self._buffers.pop(key.target, None)

    async def _events(self, row: SessionRow, after: int = 0) -> AsyncIterator[EventRow]:
        while events := await self._store.read_events(row.run_id, after=after, limit=_PAGE):
            for event in events:
                yield event
            after = events[-1].seq

    async def _replayed(self, row: SessionRow, item: str, first: int) -> AsyncGenerator[Message, None]:
        """Yield the recorded messages of a turn that has ended."""
        end = TurnEndDetector(item)
        yield Message("turn", json.dumps({"item": item}))
        async for event in self._events(row):
            over = end.is_end(event)
            if event.seq >= first:
                yield Message(event.type, event.canonical.decode(), str(event.seq))
            if over:
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _names_turn(event: EventRow, item: str) -> bool:
    if event.type not in ("turn.committed", "turn.discarded"):
        return False
    return bool(json.loads(event.canonical)["body"].get("item") == item)
