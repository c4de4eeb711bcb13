"""The legs of all sessions of recorded turns, and the turns that may still be asked for again."""

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
from agentfield_server.sessions.turnleg import TurnLeg, audio_topic
from agentfield_server.sessions.turntape import Message, TurnEnd, TurnTape
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, IdempotencyKey, SessionRow

__all__ = ["KEPT", "TurnDesk"]

_log = logging.getLogger("agentfield.sessions")

KEPT = 60.0
"""Seconds after its end in which a turn is still answered with its audio."""

_MAX_KEPT = 8
_GOODBYE = 5.0
_LISTENING = 4000
_PAGE = 500
_DEFAULT = AudioFormat("pcm16", 24_000)


class Connecting(Protocol):
    """What the desk asks of the sessions."""

    async def connect(self, session_id: str, leg: CallerLeg) -> object:
        """Attach a leg; returns when it is over."""

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        """Return what the provider takes."""


class TurnDesk:
    """Connects one leg for each session that turns come for, and keeps the answers for a while.

    Args:
        sessions: The live calls.
        store: What is kept.
        bus: Hints, live events and audio.
        registry: The pairs that are installed.
        kept: Seconds that the answer of a turn is kept after its end.
    """

    def __init__(self, sessions: Connecting, store: Store, bus: Bus, registry: Registry, *, kept: float = KEPT) -> None:
        self._sessions = sessions
        self._store = store
        self._bus = bus
        self._registry = registry
        self._kept = kept
        self._legs: dict[str, TurnLeg] = {}
        self._audience: Counter[str] = Counter()
        self._followed: set[str] = set()
        self._tapes: dict[str, OrderedDict[IdempotencyKey, TurnTape]] = {}
        # a lock lives for as long as a request holds it or waits for it
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Let go of all legs; idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tapes.clear()

    # --- which sessions

    def serves(self, row: SessionRow) -> bool:
        """Tell whether a session takes recorded turns."""
        declared = row.config["declaration"]
        try:
            return self._registry.resolve(declared["provider"], declared["transport"]).media == "turns"
        except AgentFieldError:
            return False

    def require(self, row: SessionRow) -> None:
        """Refuse a session that takes no recorded turns.

        Raises:
            Conflict: It does not (code `wrong_media`); the hint names the address that it takes.
        """
        if self.serves(row):
            return
        declared = row.config["declaration"]
        pair = self._registry.resolve(declared["provider"], declared["transport"])
        base = f"/api/v1/sessions/{row.id}"
        way = f"open a WebSocket at {base}/media" if pair.media == "bridged" else f"POST an SDP offer to {base}/offer"
        raise Conflict(
            f"Session {row.id} runs on {pair.name}, which takes no recorded turns.", code="wrong_media", hint=way
        )

    # --- legs

    async def leg(self, row: SessionRow) -> TurnLeg:
        """Return the leg of a session, connected.

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
        """Return the format in which the turns of a session are handed over: 16-bit samples that its provider takes."""
        if (leg := self._legs.get(row.id)) is not None:
            return leg.format
        formats = self._sessions.formats(row.id)
        return next((known for known in formats if known.codec == "pcm16"), _DEFAULT)

    @contextmanager
    def listening(self, row: SessionRow) -> Iterator[Subscription]:
        """Somebody follows the session with audio for as long as this is entered."""
        self._audience[row.id] += 1
        self._followed.add(row.id)
        try:
            with self._bus.subscribe(audio_topic(row.id), _LISTENING) as sounds:
                yield sounds
        finally:
            self._audience[row.id] -= 1
            if self._audience[row.id] <= 0:
                del self._audience[row.id]

    def was_followed(self, session_id: str) -> bool:
        """Tell whether anybody ever followed the session with audio; such a caller counts as gone once nobody does."""
        return session_id in self._followed

    # --- turns that are asked for again

    @asynccontextmanager
    async def admission(self, session_id: str) -> AsyncIterator[None]:
        """Let one request of a session at a time find out what becomes of it."""
        lock = self._locks.get(session_id)
        if lock is None:
            self._locks[session_id] = lock = asyncio.Lock()
        async with lock:
            yield

    def kept(self, key: IdempotencyKey) -> TurnTape | None:
        """Return the turn that came with a key, while it is under way or kept.

        Raises:
            InvalidInput: The key came with another recording (code `idempotency_mismatch`).
        """
        for known, tape in self._tapes.get(key.target, {}).items():
            if (known.principal, known.key) == (key.principal, key.key):
                if known.body_digest != key.body_digest:
                    raise InvalidInput(
                        "This Idempotency-Key was used with another body.",
                        code="idempotency_mismatch",
                        hint="use a new key for a new request",
                    )
                return tape
        return None

    def post(self, leg: TurnLeg, item: str, samples: bytes, key: IdempotencyKey | None) -> TurnTape:
        """Hand a turn over, and keep it for whoever asks again with its key.

        Raises:
            LimitExceeded: Too many turns are under way.
        """
        tape = leg.post(item, samples, key)
        if key is not None:
            self._keep(key, tape)
        return tape

    async def recorded(self, row: SessionRow, item: str, key: IdempotencyKey) -> AsyncGenerator[Message, None] | None:
        """Return what was recorded of a turn whose answer is not kept any more; None when nothing was.

        A turn that is still under way, since before a restart, goes on with all that is told of it, audio included.
        """
        end, first, over = TurnEnd(item), None, False
        async for event in self._events(row):
            if first is None and _names(event, item):
                first = event.seq
            over = end.over(event) or over
        if first is None:
            return None
        if over:
            return self._replayed(row, item, first)
        tape = await (await self.leg(row)).rejoin(item, first, key)
        self._keep(key, tape)
        return tape.read()

    # --- inside

    def _keep(self, key: IdempotencyKey, tape: TurnTape) -> None:
        self._tapes.setdefault(key.target, OrderedDict())[key] = tape
        self._shorten(key.target)
        self._own(self._forget(key, tape))

    def _new_leg(self, row: SessionRow, audio: AudioFormat) -> TurnLeg:
        leg = TurnLeg(row, audio, store=self._store, bus=self._bus, audience=lambda: self._audience[row.id])
        self._legs[row.id] = leg
        self._own(self._carry(row, leg))
        return leg

    async def _carry(self, row: SessionRow, leg: TurnLeg) -> None:
        """Connect a leg until it is over."""
        follower = asyncio.create_task(leg.follow(), name=f"turns of {row.id}")
        error: AgentFieldError | None = None
        try:
            await self._sessions.connect(row.id, leg)
            await self._last_events(leg)
        except AgentFieldError as refused:
            error = refused
        except Exception:  # noqa: BLE001 - who waits for an answer must be told; the log has the traceback
            _log.exception("the turns of session %s could not be carried", row.id)
            error = ProviderUnavailable("the control plane failed while it carried the turn", code="internal_error")
        finally:
            if self._legs.get(row.id) is leg:
                del self._legs[row.id]
            leg.end(error)
            if not self._audience[row.id]:
                del self._audience[row.id]
                self._followed.discard(row.id)
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    async def _last_events(self, leg: TurnLeg) -> None:
        """The session ended: let what it recorded at its end reach the answers that still wait for it."""
        try:
            async with asyncio.timeout(_GOODBYE):
                await leg.idle()
        except TimeoutError:
            return

    def _shorten(self, session_id: str) -> None:
        tapes = self._tapes[session_id]
        over = [key for key, tape in tapes.items() if tape.closed]
        for key in over[: max(0, len(tapes) - _MAX_KEPT)]:
            del tapes[key]

    async def _forget(self, key: IdempotencyKey, tape: TurnTape) -> None:
        await tape.ended()
        await asyncio.sleep(self._kept)
        tapes = self._tapes.get(key.target, OrderedDict())
        if tapes.get(key) is tape:
            del tapes[key]
        if not tapes:
            self._tapes.pop(key.target, None)

    async def _events(self, row: SessionRow, after: int = 0) -> AsyncIterator[EventRow]:
        while events := await self._store.read_events(row.run_id, after=after, limit=_PAGE):
            for event in events:
                yield event
            after = events[-1].seq

    async def _replayed(self, row: SessionRow, item: str, first: int) -> AsyncGenerator[Message, None]:
        """Yield what was recorded of a turn that is over."""
        end = TurnEnd(item)
        yield Message("turn", json.dumps({"item": item}))
        async for event in self._events(row):
            over = end.over(event)
            if event.seq >= first:
                yield Message(event.type, event.canonical.decode(), str(event.seq))
            if over:
                return

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _names(event: EventRow, item: str) -> bool:
    if event.type not in ("turn.committed", "turn.discarded"):
        return False
    return bool(json.loads(event.canonical)["body"].get("item") == item)
