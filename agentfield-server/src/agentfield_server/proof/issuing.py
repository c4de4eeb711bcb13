"""Issue of credentials: off the path of calls, in the order of the ends, and again after a crash until none is missing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from agentfield.errors import AgentFieldError, InvalidInput
from agentfield.identity import NodeKey, event_frame_of, leaf_hash, tree_root
from agentfield.proof.credentials import issue_credential
from agentfield.proof.documents import SpeechRecord
from agentfield.proof.heads import Coverage
from agentfield_server.proof.heads import HeadSigner, Signed
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.proof.subjects import session_facts, speech_record, state
from agentfield_server.store.proofs import Ended, IssuedCredential, ProofStore, SignedHead
from agentfield_server.store.records import EventRow

__all__ = ["Issuer"]

_log = logging.getLogger("agentfield.proof")

_BATCH = 128
"""Credentials of one commit."""
_BUSY = 16
"""Waiting executions from which on calls go first."""
_SLICE = 4
"""Credentials that are signed before the event loop serves others; signing one takes about 0.2 ms."""
_LATE = 3.0
"""Seconds that a credential may wait while calls come in: in a burst they go first, and credentials follow after it."""
_QUIET = 0.1
"""Seconds without the end of a call after which a burst is over."""
_AFTER_FAILURE = 1.0
_ANCHOR_PAUSE = 10.0
"""Seconds in which ended runs are gathered for one entry of the control plane's own log, unless somebody waits for it."""
_SETTLED = 10.0


class Issuer:
    """Issues credentials and heads, and anchors them. An asynchronous context manager that owns its tasks.

    Args:
        store: The store.
        key: The issuer's key.
        own_log: The control plane's own log.
        clock: Seconds since the epoch.
        signed: Receives each new head.
    """

    def __init__(
        self,
        store: ProofStore,
        key: NodeKey,
        own_log: OwnLog,
        *,
        clock: Callable[[], float],
        signed: Signed = lambda _session_id, _head, _event: None,
    ) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self.own_log = own_log
        self._heads = HeadSigner(store, key, clock=clock, signed=self._head_signed)
        self._signed = signed
        self._ended = asyncio.Event()
        self._anchor = asyncio.Event()
        self._progress = asyncio.Condition()
        """Notified of each stored credential, head and anchor."""
        self._tasks: list[asyncio.Task[None]] = []
        self._hurry = asyncio.Event()
        """Set while somebody waits in `settle`."""
        self._settling = 0
        """Readers that wait for credentials."""
        self._refused = set[int]()
        """Places in the queue of executions about which no credential can be issued; they must not hold up the others."""

    @property
    def did(self) -> str:
        """DID of the issuer."""
        return self._key.did

    @property
    def key(self) -> NodeKey:
        """The issuer's key."""
        return self._key

    async def __aenter__(self) -> Self:
        """Start issuing; first what an earlier process left."""
        self._ended.set()
        self._anchor.set()
        for work in (self._issue_for_ever, self._heads.run, self._anchor_for_ever):
            self._tasks.append(asyncio.create_task(_repeated(work)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the next process continues."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def note(self, rows: Sequence[EventRow]) -> None:
        """Take note of recorded events; called after each commit."""
        if not self._ended.is_set() and any(row.type == "execution.ended" for row in rows):
            self._ended.set()
        self._heads.note(rows)

    async def settle(self, run_id: str) -> bool:
        """Wait until a run that has ended has its credentials, final head and anchor; return whether it has them in time."""
        return await self._waited(lambda: self._is_settled(run_id))

    async def issued(self, execution_ids: Sequence[str]) -> bool:
        """Wait until ended executions have their credentials; return whether they have them in time."""

        async def all_issued() -> bool:
            return all([await self._store.credential(each) is not None for each in execution_ids])

        return await self._waited(all_issued)

    async def _waited(self, holds: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        self._settling += 1
        self._hurry.set()
        try:
            async with asyncio.timeout(_SETTLED), self._progress:
                while not await holds():
                    await self._progress.wait()
                return True
        except TimeoutError:
            return False
        finally:
            self._settling -= 1
            if not self._settling:
                self._hurry.clear()

    async def sign_head(self, run_id: str) -> None:
        """Sign a head over all events of a run now, unless there is one."""
        await self._heads.sign(run_id)

    async def newest_head(self, run_id: str, *, since: int = 0) -> dict[str, Any]:
        """Return the newest head of a run, of one that has ended its final head; see `HeadSigner.newest`.

        Raises:
            InvalidInput: The log has no such size (code `unknown_size`).
        """
        if await self._store.has_ended(run_id):
            await self.settle(run_id)
        return await self._heads.newest(run_id, since=since)

    async def _is_settled(self, run_id: str) -> bool:
        if not await self._store.is_over(run_id):
            return False
        anchor = await self._store.last_anchor(run_id)
        return anchor is not None and anchor.entry is not None and anchor.size == await self._store.log_size(run_id)

    async def catch_up(self) -> None:
        """Issue, sign and anchor all that waits, without the tasks."""
        while rows := await self._waiting():
            await self._issue(rows)
        await self._heads.catch_up()
        while await self.own_log.anchor_waiting():
            pass

    # --- tasks

    async def _issue_for_ever(self) -> None:
        while True:
            await self._ended.wait()
            self._ended.clear()
            while rows := await self._waiting():
                if len(rows) >= _BUSY:
                    await self._give_way(rows[0].queued_at)
                await self._issue(rows)

    async def _give_way(self, since: float) -> None:
        """Wait while calls keep ending, so that they go first in a burst, unless a credential has waited for long."""
        while not self._settling and self._clock() - since < _LATE:
            self._ended.clear()
            try:
                async with asyncio.timeout(_QUIET):
                    await self._ended.wait()
            except TimeoutError:
                return
            await asyncio.sleep(_QUIET)

    async def _waiting(self) -> list[Ended]:
        rows = await self._store.ended_without_credential(limit=_BATCH + len(self._refused))
        return [row for row in rows if row.pos not in self._refused]

    async def _issue(self, rows: Sequence[Ended]) -> None:
        logs = await self._store.logs([row.run_id for row in rows if row.last])
        numbers, leaves = Counter[str](), dict[str, list[bytes]]()
        issued: list[IssuedCredential] = []
        for at, row in enumerate(rows):
            if at % _SLICE == 0:
                await asyncio.sleep(0)
            numbers[row.run_id] += 1
            number = row.credentials + numbers[row.run_id]
            coverage = None
            if row.last:
                coverage = await self._coverage(row, logs.get(row.run_id, []), leaves.get(row.run_id, []))
            try:
                each = await self._credential(row, number, coverage)
            except (InvalidInput, KeyError, TypeError, ValueError):
                _log.exception("no credential can be issued about %s", row.id)
                self._refused.add(row.pos)
                numbers[row.run_id] -= 1
                continue
            leaves.setdefault(row.run_id, []).append(each.leaf)
            issued.append(each)
        await self._store.store_credentials(issued)
        self._heads.credentials_stored({(row.run_id, row.session_id) for row in rows})
        if any(each.size is not None for each in issued):
            self._anchor.set()
        await self._progressed()

    async def _credential(self, row: Ended, number: int, log: Coverage | None) -> IssuedCredential:
        speech: list[SpeechRecord] = []
        session = None
        if row.kind in ("turn", "session"):
            turn_id = row.id if row.kind == "turn" else None
            ends = await self._store.speech_ends(row.run_id, turn_id)
            # a log of format 1 has no commitments to bodies
            speech = [speech_record(event) for event in ends if event_frame_of(event.entry) is not None]
        if row.kind == "session" and row.session_id is not None:
            found = await self._store.get_session(row.session_id)
            session = None if found is None else session_facts(found)
        stated = state(row, number=number, speech=speech, session=session, log=log)
        document = issue_credential(self._key, stated.subject, at=self._clock())
        return IssuedCredential(
            pos=row.pos,
            execution_id=row.id,
            run_id=row.run_id,
            number=number,
            document=document,
            leaf=leaf_hash(document),
            input_salt=stated.input_salt,
            output_salt=stated.output_salt,
            size=None if log is None else log.size,
        )

    async def _coverage(self, row: Ended, events: Sequence[bytes], before: Sequence[bytes]) -> Coverage | None:
        """Return the final head of a run without session, for its last credential."""
        if not events:
            return None
        previous = None
        stored: list[bytes] = []
        if row.credentials:
            stored = await self._store.credential_leaves(row.run_id)
            anchor = await self._store.last_anchor(row.run_id)
            previous = None if anchor is None else anchor.leaf
        credentials = [*stored, *before]
        return Coverage(
            size=len(events),
            root=tree_root(events),
            credentials=len(credentials),
            credentials_root=tree_root(credentials) if credentials else None,
            final=True,
            previous=previous,
        )

    async def _anchor_for_ever(self) -> None:
        while True:
            await self._anchor.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANCHOR_PAUSE):
                    await self._hurry.wait()
            self._anchor.clear()
            while await self.own_log.anchor_waiting():
                await self._progressed()

    def _head_signed(self, session_id: str | None, head: SignedHead, event: Mapping[str, Any]) -> None:
        if head.final:
            self._anchor.set()
        self._signed(session_id, head, event)

    async def _progressed(self) -> None:
        async with self._progress:
            self._progress.notify_all()


async def _repeated(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a task; after a failure of the store it begins again."""
    while True:
        try:
            await work()
        except AgentFieldError as error:
            _log.warning("credentials could not be stored, it will be tried again: %s", error.message)
        except Exception:  # noqa: BLE001 - without this task no credential would ever be issued again
            _log.exception("a task of the issuer failed, it will begin again")
        await asyncio.sleep(_AFTER_FAILURE)
