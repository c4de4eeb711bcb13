"""The writer thread: all queued operations share one commit; no commit waits for more operations."""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeGuard, TypeVar

import apsw

from agentfield.errors import AgentFieldError, LimitExceeded, Unavailable
from agentfield_server.store.operations import Operation, Then, plan, settling
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.schema import digest_key

__all__ = ["BATCH", "Transaction", "Writer"]

T = TypeVar("T")

_log = logging.getLogger("agentfield.store")

BATCH = 256
"""Maximum number of operations in one commit."""
_CAPACITY = 4096
_SLOT_TIMEOUT = 10.0
_NAMED = re.compile(r":(\w+)")


@dataclass(slots=True)
class Transaction:
    """The context of an operation: the connection inside a savepoint, the time, and the events that it records."""

    connection: apsw.Connection
    now: float
    digest_key: bytes
    """Key of the digests of bodies that the store keeps, see `schema.keyed_digest`."""
    events: list[EventRow] = field(default_factory=list)

    def one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """Execute a statement to its end and return its first row; `values` are bound by position, or one dict by name."""
        rows = self.connection.execute(sql, _bound(values)).fetchall()
        return rows[0] if rows else None

    def many(self, sql: str, rows: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Execute a statement once per row of values and return all rows that it returns, in that order.

        The values of a row are bound as in `one`.
        """
        if not rows:
            return []
        if isinstance(rows[0], dict):
            # binding by name takes SQLite's driver a quarter of the time of an update
            sql, values_of = _by_position(sql)
            rows = [values_of(row) for row in rows]
        return self.connection.executemany(sql, rows).fetchall()

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement and return how many rows it changed; `values` as in `one`."""
        self.connection.execute(sql, _bound(values))
        return self.connection.changes()


Execute = Callable[[Transaction, Sequence[Operation[Any]]], list[Any]]
"""Executes the operations of a group and returns their results, or raises and leaves the rollback to the writer."""


@dataclass(slots=True)
class _Job:
    operation: Operation[Any]
    then: Then[Any]
    result: Any = None
    error: BaseException | None = None
    events: list[EventRow] = field(default_factory=list)


class Writer:
    """Runs operations as if one after the other, in the order of submission, and answers on the event loop after their commit.

    The operations of a commit are executed in groups, each in a savepoint. When a group raises, it is rolled back and executed
    again one by one, so that only the operation that is refused fails. If the commit itself fails, all its operations fail.

    Args:
        connection: Used by the writer thread only, from `start` on.
        execute: Executes a group.
        clock: Seconds since the epoch.
        on_commit: Called on the event loop after each commit with the recorded events.
        batch: Maximum number of operations in one commit.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        execute: Execute,
        *,
        clock: Callable[[], float],
        on_commit: Callable[[list[EventRow]], None],
        batch: int = BATCH,
    ) -> None:
        self._connection = connection
        self._execute = execute
        self._digest_key = digest_key(connection)
        self._batch = batch
        self._clock = clock
        self._on_commit = on_commit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._submitted = 0
        """Operations that the thread has and that are not answered."""
        self._waiting: deque[tuple[_Job, asyncio.TimerHandle]] = deque()
        """Operations that wait for a place in the queue of the thread, each with its end of patience."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="agentfield-store", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def submit(self, operation: Operation[T]) -> T:
        """Run an operation and return its result once it is on disk.

        Cancelling the caller while it waits does not undo the operation.

        Raises:
            LimitExceeded: The queue stayed full for 10 s (code `store_busy`).
            Unavailable: The store is closed, or the commit failed.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self.post(operation, settling(future))
        return await future

    def post(self, operation: Operation[T], then: Then[T]) -> None:
        """Run an operation without waiting for it, see `Store.post`."""
        if self._closed:
            self._loop.call_soon(then, None, _closed())
        elif self._submitted < _CAPACITY:
            self._hand_over(_Job(operation, then))
        else:
            job = _Job(operation, then)
            self._waiting.append((job, self._loop.call_later(_SLOT_TIMEOUT, self._give_up, job)))

    def _hand_over(self, job: _Job) -> None:
        self._submitted += 1
        self._jobs.put(job)

    def _give_up(self, job: _Job) -> None:
        self._waiting = deque(each for each in self._waiting if each[0] is not job)
        error = LimitExceeded(
            f"The store cannot keep up: {_CAPACITY} writes are waiting.",
            code="store_busy",
            hint="check the disk that AGENTFIELD_HOME is on, and try again",
            retry_after=2,
        )
        _tell(job.then, None, error)

    async def close(self) -> None:
        """Commit submitted operations and end the thread; idempotent."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            while self._waiting:
                job, timer = self._waiting.popleft()
                timer.cancel()
                _tell(job.then, None, _closed())
        await asyncio.to_thread(self._thread.join)

    # --- the thread

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, last = self._gather(first)
            self._commit(jobs)
            self._loop.call_soon_threadsafe(self._answer, jobs)
            if last:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        jobs = [first]
        while len(jobs) < self._batch:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for begin, end in plan([job.operation for job in jobs]):
                self._run(jobs[begin:end])
                if not connection.in_transaction:
                    # SQLite rolled back the whole transaction (disk full, I/O error): the other operations are lost too
                    break
            # raises if the transaction was rolled back above
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to every caller of the commit
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = _commit_failed(next((e for job in reversed(jobs) if _is_fatal(e := job.error)), error))
            for job in jobs:
                job.error, job.events = failure, []

    def _run(self, group: list[_Job]) -> None:
        error = self._try(group)
        if error is None:
            return
        if len(group) == 1 or _is_fatal(error):
            group[-1].error = error
            return
        for job in group:
            job.error = self._try([job])
            if _is_fatal(job.error):
                return

    def _try(self, group: list[_Job]) -> BaseException | None:
        """Execute a group in a savepoint; roll back to it and return the error if it raises."""
        connection = self._connection
        connection.execute("SAVEPOINT operations")
        transaction = Transaction(connection, self._clock(), self._digest_key)
        try:
            results = self._execute(transaction, [job.operation for job in group])
        except BaseException as error:  # noqa: BLE001 - handed to the callers of the operations
            if connection.in_transaction:
                connection.execute("ROLLBACK TO operations")
                connection.execute("RELEASE operations")
            return error
        for job, result in zip(group, results, strict=True):
            job.result = result
        # all events of a group are announced together, whichever operation they belong to
        group[0].events = transaction.events
        connection.execute("RELEASE operations")
        return None

    # --- back on the event loop

    def _answer(self, jobs: list[_Job]) -> None:
        self._submitted -= len(jobs)
        while self._waiting and self._submitted < _CAPACITY:
            job, timer = self._waiting.popleft()
            timer.cancel()
            self._hand_over(job)
        try:
            if events := [event for job in jobs for event in job.events]:
                self._on_commit(events)
        finally:
            for job in jobs:
                if job.error is None:
                    _tell(job.then, job.result, None)
                else:
                    _tell(job.then, None, _fresh_copy(job.error))


def _tell(then: Then[T], result: T | None, error: BaseException | None) -> None:
    try:
        then(result, error)
    except Exception:  # noqa: BLE001 - logged
        # what follows one operation must not keep the others of its commit from their answers
        _log.exception("what follows a write failed")


def _closed() -> Unavailable:
    return Unavailable("The store is closed.", code="store_closed")


@functools.lru_cache
def _by_position(sql: str) -> tuple[str, Callable[[Any], Any]]:
    """Return a statement with numbered in place of named values, and what takes its values from a dict; it has two or more."""
    names = list(dict.fromkeys(_NAMED.findall(sql)))
    return _NAMED.sub(lambda found: f"?{names.index(found[1]) + 1}", sql), itemgetter(*names)


def _bound(values: tuple[Any, ...]) -> Any:
    return values[0] if values and isinstance(values[0], dict) else values


def _is_fatal(error: BaseException | None) -> TypeGuard[apsw.Error]:
    return isinstance(error, apsw.FullError | apsw.IOError)


def _fresh_copy(error: BaseException) -> BaseException:
    # one exception object must not be raised in several tasks: each raise would extend its traceback
    if isinstance(error, Unavailable):
        return Unavailable(error.message, code=error.code, hint=error.hint, **error.data)
    return error


def _commit_failed(error: BaseException) -> AgentFieldError:
    full = isinstance(error, apsw.FullError)
    return Unavailable(
        "The disk of the store is full." if full else f"The store could not write: {error}.",
        code="store_full" if full else "store_failed",
        hint="free some space on the disk that AGENTFIELD_HOME is on",
    )
