"""Signed heads of the logs of sessions: at each end of a tool, every 100 events or 10 s, and once the run is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.identity import NodeKey, b64url, canonical, leaf_hash
from agentfield.proof.heads import Coverage, sign_head
from agentfield.proof.trees import LogTree
from agentfield_server.store.proofs import ProofStore, SignedHead
from agentfield_server.store.records import EventRow

__all__ = ["HeadSigner", "Signed"]

Signed = Callable[[str | None, SignedHead, Mapping[str, Any]], None]
"""Receives a new head: its session, the head, and the event `log.head` with a proof that it continues the head before it."""

EVENTS = 100
"""Unsigned events after which a head is signed."""
SECONDS = 10.0
"""Seconds after an unsigned event at which a head is signed."""

_TOOLS = (b'"kind":"tool"', b'"kind":"call"')


@dataclass(slots=True)
class _Log:
    """The log of a run of which heads are signed."""

    session_id: str | None
    unsigned: int = 0
    due_at: float | None = None
    """On the clock of the event loop; None while nothing is unsigned."""
    events: LogTree | None = None
    """Read from the store before the first head."""
    credentials: LogTree | None = None
    last: SignedHead | None = None


class HeadSigner:
    """Signs heads of the logs of sessions. `run` is its task.

    Args:
        store: The store.
        key: The issuer's key.
        clock: Seconds since the epoch.
        signed: Receives each new head.
    """

    def __init__(
        self,
        store: ProofStore,
        key: NodeKey,
        *,
        clock: Callable[[], float],
        signed: Signed,
    ) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._signed = signed
        self._logs: dict[str, _Log] = {}
        self._wake = asyncio.Event()
        self._signing = asyncio.Lock()

    def note(self, rows: Iterable[EventRow]) -> None:
        """Take note of recorded events; those of runs without a session have no heads of their own, except of redactions."""
        for row in rows:
            if row.session_id is None and row.type != "log.redacted":
                continue
            log = self._logs.get(row.run_id)
            if log is None:
                log = self._logs[row.run_id] = _Log(row.session_id)
            log.unsigned += 1
            if log.due_at is None:
                log.due_at = asyncio.get_running_loop().time() + SECONDS
                self._wake.set()
            if log.unsigned >= EVENTS or _asks_for_head(row):
                self._make_due(log)

    def credentials_stored(self, runs: Iterable[tuple[str, str | None]]) -> None:
        """Take note of stored credentials, of runs with the ids of their sessions: the last one completes a run."""
        for run_id, session_id in runs:
            if session_id is not None:
                self._make_due(self._logs.setdefault(run_id, _Log(session_id)))

    def _make_due(self, log: _Log) -> None:
        log.due_at = 0.0
        self._wake.set()

    async def catch_up(self) -> None:
        """Sign the final heads of runs that are over and have none."""
        after = ""
        while runs := await self._store.runs_without_head(after=after):
            for run_id in runs:
                await self.sign(run_id)
            after = runs[-1]

    async def run(self) -> None:
        """Sign what is due, for ever; first what an earlier process left.

        Raises:
            AgentFieldError: The store failed; what is due stays due.
        """
        await self.catch_up()
        while True:
            self._wake.clear()
            now = asyncio.get_running_loop().time()
            for run_id in [
                run_id for run_id, log in self._logs.items() if log.due_at is not None and log.due_at <= now
            ]:
                await self.sign(run_id)
            due = min((log.due_at for log in self._logs.values() if log.due_at is not None), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()

    async def sign(self, run_id: str) -> SignedHead | None:
        """Sign a head over all events of a run, unless the last one covers them; return the last one."""
        async with self._signing:
            return await self._sign_log(run_id)

    async def newest(self, run_id: str, *, since: int = 0) -> dict[str, Any]:
        """Return the newest head of a run, with a proof that the log of an earlier size is a prefix of it.

        Args:
            run_id: The run.
            since: The earlier size; 0 for no proof.

        Raises:
            InvalidInput: The head covers fewer events (code `unknown_size`).
        """
        head = await self._store.last_head(run_id) or await self.sign(run_id)
        if head is None or since > head.size:
            raise InvalidInput(
                f"The newest head covers {0 if head is None else head.size} events, not {since}.",
                code="unknown_size",
                field="since",
            )
        shown: dict[str, Any] = {"head": json.loads(head.document)}
        if since:
            tree = LogTree(await self._store.leaves(run_id))
            shown["since"] = since
            shown["consistency"] = [b64url(node) for node in tree.consistency(since, head.size)]
        return shown

    async def _sign_log(self, run_id: str) -> SignedHead | None:
        log = self._logs.setdefault(run_id, _Log(None))
        over = await self._store.is_over(run_id)
        if log.session_id is None:
            log.session_id = await self._store.session_of_run(run_id)
            if log.session_id is None and not over:
                # its last credential will hold the head
                self._logs.pop(run_id)
                return None
        if log.events is None or log.credentials is None:
            log.events, log.credentials = LogTree(), LogTree()
            log.last = await self._store.last_head(run_id)
        for leaf in await self._store.credential_leaves(run_id, after=len(log.credentials)):
            log.credentials.append(leaf)
        for leaf in await self._store.leaves(run_id, after=len(log.events)):
            log.events.append(leaf)
        log.unsigned, log.due_at = 0, None
        last, size = log.last, len(log.events)
        if size and (last is None or last.size < size or (over and not last.final)):
            last = log.last = await self._sign(run_id, log, final=over)
        if over:
            self._logs.pop(run_id, None)  # read again from the store, should an event follow
        return last

    async def _sign(self, run_id: str, log: _Log, *, final: bool) -> SignedHead:
        assert log.events is not None  # noqa: S101 - `sign` has read both
        assert log.credentials is not None  # noqa: S101
        previous = None if log.last is None else log.last.leaf
        if previous is None:
            # a run without a session, whose first head is in a credential
            anchor = await self._store.last_anchor(run_id)
            previous = None if anchor is None else anchor.leaf
        credentials = len(log.credentials)
        coverage = Coverage(
            size=len(log.events),
            root=log.events.root(),
            credentials=credentials,
            credentials_root=log.credentials.root() if credentials else None,
            final=final,
            previous=previous,
        )
        document = canonical(sign_head(self._key, log=run_id, coverage=coverage, at=self._clock()))
        head = SignedHead(run_id, coverage.size, final, document, leaf_hash(document))
        await self._store.put_head(head)
        since = 0 if log.last is None else log.last.size
        proof = log.events.consistency(since) if since else ()
        self._signed(log.session_id, head, _event(head, since, proof))
        return head


def _event(head: SignedHead, since: int, consistency: Sequence[bytes]) -> dict[str, Any]:
    """Return a head as an event for those who hold the head before it."""
    event: dict[str, Any] = {"type": "log.head", "head": json.loads(head.document)}
    if since:
        event |= {"since": since, "consistency": [b64url(node) for node in consistency]}
    return event


def _asks_for_head(row: EventRow) -> bool:
    if row.type == "log.redacted":
        return True
    return row.type == "execution.ended" and row.body is not None and any(kind in row.body for kind in _TOOLS)
