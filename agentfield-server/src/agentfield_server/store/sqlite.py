"""The embedded store: SQLite in WAL mode, synchronous=FULL, one writer thread, group commit without lingering."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from agentfield.errors import InvalidInput, Unavailable
from agentfield.wire.rest import ApprovalStatus, DeliveryStatus, ExecutionStatus, SessionState
from agentfield_server.store import approvals, executions, keys, sessions, webhooks
from agentfield_server.store.lock import StoreLock
from agentfield_server.store.records import (
    Approval,
    Delivery,
    EventRow,
    Execution,
    IdempotencyKey,
    NewEvent,
    NewExecution,
    NewSession,
    SessionRow,
    TokenRow,
    Webhook,
)
from agentfield_server.store.rows import (
    APPROVAL_COLUMNS,
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    EXECUTION_COLUMNS,
    SESSION_COLUMNS,
    WEBHOOK_COLUMNS,
    approval_row,
    delivery_row,
    dump,
    event_row,
    execution_row,
    load,
    session_row,
    webhook_row,
)
from agentfield_server.store.schema import migrate
from agentfield_server.store.writer import BATCH, Transaction, Writer

__all__ = ["SqliteStore"]

T = TypeVar("T")

_READERS = 2
_NODE_LIFE = 30 * 24 * 3600.0
_OPEN = "status IN ('queued', 'running', 'waiting')"


class SqliteStore:
    """The `Store` in one file, for one process.

    Args:
        path: The database; made with mode 0600 when it does not exist.
        on_commit: Called on the event loop after each commit with the events that it recorded, before the calls that
            made them return.
        clock: Seconds since the epoch.
        batch: Operations that go into one commit at most; 1 is for measuring what grouping brings.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        on_commit: Callable[[list[EventRow]], None],
        clock: Callable[[], float],
        batch: int = BATCH,
    ) -> None:
        self._batch = batch
        self._path = Path(path)
        self._on_commit = on_commit
        self._clock = clock
        self._lock = StoreLock(self._path)
        self._writer: Writer | None = None
        self._connections: list[apsw.Connection] = []
        self._readers: queue.SimpleQueue[apsw.Connection] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Open, lock and migrate, see `Store.open`."""
        try:
            connection = await asyncio.to_thread(self._prepare)
        except BaseException:
            self._release()
            raise
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="agentfield-read")
        self._writer = Writer(connection, clock=self._clock, on_commit=self._on_commit, batch=self._batch)
        self._writer.start()
        await self._write(partial(keys.purge, abandoned=True))

    def _prepare(self) -> apsw.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire()
            # the files that SQLite makes beside the database take over its mode
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
            writer = self._connect(apsw.SQLITE_OPEN_READWRITE)
            migrate(writer)
            for _ in range(_READERS):
                self._readers.put(self._connect(apsw.SQLITE_OPEN_READONLY))
        except (OSError, apsw.Error) as error:
            raise Unavailable(
                f"The store {self._path} cannot be opened: {error}.",
                code="store_unusable",
                hint="check the file, or set AGENTFIELD_HOME to a folder that you may write to",
            ) from error
        return writer

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=flags, statementcachesize=200)
        self._connections.append(connection)
        connection.set_busy_timeout(5000)
        if flags & apsw.SQLITE_OPEN_READWRITE:
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("foreign_keys", 1)
        return connection

    async def close(self) -> None:
        """Finish what was submitted and close; idempotent."""
        if self._writer is not None:
            await self._writer.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        while self._connections:
            self._connections.pop().close()
        self._lock.release()

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        if self._writer is None:
            raise Unavailable("The store is not open.", code="store_closed")
        return await self._writer.submit(operation)

    async def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise Unavailable("The store is closed.", code="store_closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._select, sql, values)

    def _select(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        connection = self._readers.get()
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            self._readers.put(connection)

    # --- executions

    async def create_execution(
        self,
        new: NewExecution,
        *,
        lease_to: str | None = None,
        lease_until: float | None = None,
        room: int | None = None,
    ) -> tuple[Execution, bool]:
        """Create an execution, see `Store.create_execution`."""
        return await self._write(
            lambda tx: executions.create(tx, new, lease_to=lease_to, lease_until=lease_until, room=room)
        )

    async def lease_execution(self, execution_id: str, *, owner: str, until: float) -> Execution | None:
        """Lease a queued execution, see `Store.lease_execution`."""
        return await self._write(lambda tx: executions.lease(tx, execution_id, owner=owner, until=until))

    async def accept_execution(self, execution_id: str, *, attempt: int, epoch: int) -> bool:
        """Record that the function was entered, see `Store.accept_execution`."""
        return await self._write(lambda tx: executions.accept(tx, execution_id, attempt=attempt, epoch=epoch))

    async def renew_leases(self, owner: str, *, until: float) -> int:
        """Extend all leases of a node instance."""
        return await self._write(lambda tx: executions.renew(tx, owner, until=until))

    async def requeue_execution(
        self,
        execution_id: str,
        *,
        attempt: int,
        epoch: int,
        not_before: float | None = None,
        anew: bool = False,
        events: Sequence[NewEvent] = (),
    ) -> bool:
        """Put a leased execution back into the queue, see `Store.requeue_execution`."""
        return await self._write(
            lambda tx: executions.requeue(
                tx, execution_id, attempt=attempt, epoch=epoch, not_before=not_before, anew=anew, events=events
            )
        )

    async def progress(self, execution_id: str, *, attempt: int, epoch: int, value: Any) -> bool:
        """Record how far a run has come, see `Store.progress`."""
        return await self._write(
            lambda tx: executions.progress(tx, execution_id, attempt=attempt, epoch=epoch, value=value)
        )

    async def complete_execution(
        self,
        execution_id: str,
        *,
        attempt: int | None,
        epoch: int | None = None,
        status: ExecutionStatus,
        output: Any = None,
        problem: Mapping[str, Any] | None = None,
        input_digest: str | None = None,
        output_digest: str | None = None,
        signature: str | None = None,
        signer: str | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Execution | None:
        """Close an execution, see `Store.complete_execution`."""
        return await self._write(
            lambda tx: executions.complete(
                tx,
                execution_id,
                attempt=attempt,
                epoch=epoch,
                status=status,
                output=output,
                problem=problem,
                input_digest=input_digest,
                output_digest=output_digest,
                signature=signature,
                signer=signer,
                events=events,
            )
        )

    async def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution."""
        rows = await self._read(f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?", execution_id)  # noqa: S608
        return execution_row(rows[0]) if rows else None

    async def execution_of(self, op_id: str) -> Execution | None:
        """Return the execution that an operation made."""
        rows = await self._read(f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE op_id = ?", op_id)  # noqa: S608
        return execution_row(rows[0]) if rows else None

    async def get_executions(self, execution_ids: Sequence[str]) -> list[Execution]:
        """Return those of these executions that there are."""
        rows = await self._read(
            f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
            dump(list(execution_ids)),
        )
        return [execution_row(row) for row in rows]

    async def list_executions(self, run_id: str, *, after: str | None = None, limit: int = 200) -> list[Execution]:
        """Return executions of a run, see `Store.list_executions`."""
        position = 0
        if after is not None:
            rows = await self._read("SELECT pos FROM executions WHERE id = ? AND run_id = ?", after, run_id)
            if not rows:
                raise InvalidInput(f"{after!r} is no execution of this run.", code="unknown_cursor", field="after")
            position = rows[0][0]
        rows = await self._read(
            f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE run_id = ? AND pos > ? ORDER BY pos LIMIT ?",  # noqa: S608
            run_id,
            position,
            limit,
        )
        return [execution_row(row) for row in rows]

    async def open_executions(
        self, *, session_id: str | None = None, lease_owner: str | None = None, run_id: str | None = None
    ) -> list[Execution]:
        """Return executions that are not in a final state, oldest first."""
        given = {"session_id": session_id, "lease_owner": lease_owner, "run_id": run_id}
        filters = {name: value for name, value in given.items() if value is not None}
        where = "".join(f" AND {name} = ?" for name in filters)
        rows = await self._read(
            f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE {_OPEN}{where} ORDER BY pos",  # noqa: S608
            *filters.values(),
        )
        return [execution_row(row) for row in rows]

    async def queued_executions(
        self, node_id: str, *, now: float, limit: int, without: Sequence[str] = ()
    ) -> list[Execution]:
        """Return executions of a node that wait for a lease, see `Store.queued_executions`."""
        rows = await self._read(
            f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE status = 'queued' AND node_id = ? "  # noqa: S608
            "AND COALESCE(not_before, 0) <= ? AND target NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY priority DESC, place, pos LIMIT ?",
            node_id,
            now,
            dump(list(without)),
            limit,
        )
        return [execution_row(row) for row in rows]

    async def next_start(self, node_id: str, *, after: float) -> float | None:
        """Return when the next delayed execution of a node may start, see `Store.next_start`."""
        rows = await self._read(
            "SELECT MIN(not_before) FROM executions WHERE status = 'queued' AND node_id = ? AND not_before > ?",
            node_id,
            after,
        )
        found: float | None = rows[0][0]
        return found

    # --- approvals

    async def park_execution(
        self, execution_id: str, *, attempt: int, epoch: int, key: str, title: str, details: Any, expires: float
    ) -> Approval | None:
        """Let an execution wait for a decision, see `Store.park_execution`."""
        return await self._write(
            lambda tx: approvals.park(
                tx,
                execution_id,
                attempt=attempt,
                epoch=epoch,
                key=key,
                title=title,
                details=details,
                expires=expires,
            )
        )

    async def decide(
        self,
        approval_id: str,
        *,
        status: ApprovalStatus,
        by: str | None,
        via: str,
        note: str | None = None,
        data: Any = None,
    ) -> Approval | None:
        """Decide, and queue the execution again, see `Store.decide`."""
        return await self._write(
            lambda tx: approvals.decide(tx, approval_id, status=status, by=by, via=via, note=note, data=data)
        )

    async def get_approval(self, approval_id: str) -> Approval | None:
        """Return an approval."""
        rows = await self._read(f"SELECT {APPROVAL_COLUMNS} FROM approvals WHERE id = ?", approval_id)  # noqa: S608
        return approval_row(rows[0]) if rows else None

    async def list_approvals(
        self,
        *,
        status: ApprovalStatus | None = None,
        execution_id: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Approval]:
        """Return approvals, newest first, see `Store.list_approvals`."""
        rows = await self._read(
            f"SELECT {APPROVAL_COLUMNS} FROM approvals WHERE (?1 IS NULL OR status = ?1) "  # noqa: S608
            "AND (?2 IS NULL OR execution_id = ?2) "
            "AND (?3 IS NULL OR pos < (SELECT pos FROM approvals WHERE id = ?3)) ORDER BY pos DESC LIMIT ?4",
            status,
            execution_id,
            before,
            limit,
        )
        return [approval_row(row) for row in rows]

    # --- webhooks

    async def add_webhook(self, webhook: Webhook) -> None:
        """Keep a webhook."""
        await self._write(lambda tx: webhooks.add(tx, webhook))

    async def remove_webhook(self, webhook_id: str) -> bool:
        """Forget a webhook, see `Store.remove_webhook`."""
        return await self._write(lambda tx: webhooks.remove(tx, webhook_id))

    async def list_webhooks(self) -> list[Webhook]:
        """Return the webhooks, oldest first."""
        return [webhook_row(row) for row in await self._read(f"SELECT {WEBHOOK_COLUMNS} FROM webhooks ORDER BY pos")]  # noqa: S608

    async def due_deliveries(self, *, now: float, limit: int) -> list[tuple[Delivery, Webhook, EventRow]]:
        """Return what is to be sent now, see `Store.due_deliveries`."""
        columns = ", ".join(f"d.{name}" for name in DELIVERY_COLUMNS.split(", "))
        columns += "".join(f", w.{name}" for name in WEBHOOK_COLUMNS.split(", "))
        columns += "".join(f", e.{name}" for name in EVENT_COLUMNS.split(", "))
        rows = await self._read(
            f"SELECT {columns} FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id "  # noqa: S608
            "JOIN events e ON e.run_id = d.run_id AND e.seq = d.seq "
            "WHERE d.status = 'pending' AND d.not_before <= ? ORDER BY d.not_before, d.pos LIMIT ?",
            now,
            limit,
        )
        first, second = len(DELIVERY_COLUMNS.split(", ")), len(WEBHOOK_COLUMNS.split(", "))
        return [
            (delivery_row(row[:first]), webhook_row(row[first : first + second]), event_row(row[first + second :]))
            for row in rows
        ]

    async def next_delivery(self) -> float | None:
        """Return when the next delivery is due, see `Store.next_delivery`."""
        rows = await self._read("SELECT MIN(not_before) FROM deliveries WHERE status = 'pending'")
        found: float | None = rows[0][0]
        return found

    async def delivered(self, delivery_id: str, answer: str) -> None:
        """A delivery arrived."""
        await self._write(lambda tx: webhooks.succeeded(tx, delivery_id, answer))

    async def not_delivered(self, delivery_id: str, answer: str, *, not_before: float | None) -> None:
        """An attempt to deliver failed, see `Store.not_delivered`."""
        await self._write(lambda tx: webhooks.failed(tx, delivery_id, answer, not_before=not_before))

    async def redrive(self, webhook_id: str) -> int:
        """Try what was given up again, see `Store.redrive`."""
        return await self._write(lambda tx: webhooks.redrive(tx, webhook_id))

    async def list_deliveries(
        self, webhook_id: str, *, status: DeliveryStatus | None = None, before: str | None = None, limit: int = 100
    ) -> list[Delivery]:
        """Return deliveries of a webhook, newest first."""
        rows = await self._read(
            f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE webhook_id = ?1 AND (?2 IS NULL OR status = ?2) "  # noqa: S608
            "AND (?3 IS NULL OR pos < (SELECT pos FROM deliveries WHERE id = ?3)) ORDER BY pos DESC LIMIT ?4",
            webhook_id,
            status,
            before,
            limit,
        )
        return [delivery_row(row) for row in rows]

    # --- sessions

    async def create_session(
        self, session: NewSession, root: NewExecution, *, owner: str, events: Sequence[NewEvent] = ()
    ) -> tuple[SessionRow, bool]:
        """Create a session with its run and root, see `Store.create_session`."""
        return await self._write(lambda tx: sessions.create(tx, session, root, owner=owner, events=events))

    async def update_session(
        self,
        session_id: str,
        *,
        epoch: int,
        state: SessionState | None = None,
        end_reason: str | None = None,
        end_detail: str | None = None,
        call_ref: Mapping[str, str] | None = None,
        handler_state: Mapping[str, Any] | None = None,
        handler_epoch: int | None = None,
        turns: int | None = None,
        events: Sequence[NewEvent] = (),
    ) -> SessionRow | None:
        """Change a session that this epoch still owns, see `Store.update_session`."""
        return await self._write(
            lambda tx: sessions.update(
                tx,
                session_id,
                epoch=epoch,
                state=state,
                end_reason=end_reason,
                end_detail=end_detail,
                call_ref=call_ref,
                handler_state=handler_state,
                handler_epoch=handler_epoch,
                turns=turns,
                events=events,
            )
        )

    async def take_session(self, session_id: str, *, owner: str) -> SessionRow | None:
        """Take a session over, see `Store.take_session`."""
        return await self._write(lambda tx: sessions.take(tx, session_id, owner=owner))

    async def get_session(self, session_id: str) -> SessionRow | None:
        """Return a session."""
        rows = await self._read(f"SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?", session_id)  # noqa: S608
        return session_row(rows[0]) if rows else None

    async def session_of(self, key: IdempotencyKey) -> SessionRow | None:
        """Return the session of a key, see `Store.session_of`."""
        session_id = await self._write(lambda tx: keys.session_of(tx, key))
        return None if session_id is None else await self.get_session(session_id)

    async def list_sessions(
        self, *, state: SessionState | None = None, before: str | None = None, limit: int = 100
    ) -> list[SessionRow]:
        """Return sessions, newest first."""
        rows = await self._read(
            f"SELECT {SESSION_COLUMNS} FROM sessions WHERE (?1 IS NULL OR state = ?1) "  # noqa: S608
            "AND (?2 IS NULL OR pos < (SELECT pos FROM sessions WHERE id = ?2)) ORDER BY pos DESC LIMIT ?3",
            state,
            before,
            limit,
        )
        return [session_row(row) for row in rows]

    async def unfinished_sessions(self) -> list[SessionRow]:
        """Return all sessions that have not ended."""
        rows = await self._read(f"SELECT {SESSION_COLUMNS} FROM sessions WHERE state <> 'ended' ORDER BY pos")  # noqa: S608
        return [session_row(row) for row in rows]

    # --- events

    async def append_events(
        self, run_id: str, events: Sequence[NewEvent], *, session_id: str | None = None, epoch: int | None = None
    ) -> list[EventRow]:
        """Append to the log of a run, see `Store.append_events`."""
        return await self._write(lambda tx: sessions.append(tx, run_id, events, session_id=session_id, epoch=epoch))

    async def read_events(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[EventRow]:
        """Return recorded events with a larger `seq`, in order."""
        rows = await self._read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
            run_id,
            after,
            limit,
        )
        return [event_row(row) for row in rows]

    async def last_event(self, run_id: str, kind: str) -> EventRow | None:
        """Return the newest event of a type."""
        rows = await self._read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE run_id = ? AND type = ? ORDER BY seq DESC LIMIT 1",  # noqa: S608
            run_id,
            kind,
        )
        return event_row(rows[0]) if rows else None

    # --- tokens

    async def put_token(self, digest: bytes, *, session_id: str, kind: str, expires_at: float) -> None:
        """Remember a token by its digest."""
        await self._write(
            lambda tx: keys.put_token(tx, digest, session_id=session_id, kind=kind, expires_at=expires_at)
        )

    async def use_token(self, digest: bytes, *, kind: str, now: float, once: bool = False) -> TokenRow | None:
        """Count a use of a token, see `Store.use_token`."""
        return await self._write(lambda tx: keys.use_token(tx, digest, kind=kind, now=now, once=once))

    async def drop_tokens(self, session_id: str) -> None:
        """Forget all tokens of a session."""
        await self._write(lambda tx: keys.drop_tokens(tx, session_id))

    # --- nodes

    async def remember_node(self, node_id: str, declared: Mapping[str, Any]) -> None:
        """Remember what a node declares, see `Store.remember_node`."""
        text = dump(declared)
        await self._write(
            lambda tx: tx.run(
                "INSERT INTO nodes (node_id, declared, linked_at) VALUES (?1, ?2, ?3) "
                "ON CONFLICT (node_id) DO UPDATE SET declared = ?2, linked_at = ?3",
                node_id,
                text,
                tx.now,
            )
        )

    async def known_nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return what nodes declared, see `Store.known_nodes`."""
        since = self._clock() - _NODE_LIFE
        rows = await self._read("SELECT node_id, declared FROM nodes WHERE linked_at > ? ORDER BY linked_at", since)
        return {node_id: load(declared) for node_id, declared in rows}

    # --- keys

    async def remember(self, key: IdempotencyKey, *, response: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Claim a key or store its response, see `Store.remember`."""
        return await self._write(lambda tx: keys.remember(tx, key, response))

    async def forget(self, key: IdempotencyKey) -> None:
        """Free a key."""
        await self._write(lambda tx: keys.forget(tx, key))
