"""Executions: the methods of the `Store` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import (
    AcceptExecution,
    CompleteExecution,
    CreateExecution,
    LeaseExecution,
    RecordProgress,
    RenewLeases,
    RequeueExecution,
)
from agentfield_server.store.records import Execution, NewEvent, NewExecution
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.rows import EXECUTION_COLUMNS, EXECUTION_LISTED, KNOWN_RUN, execution_row

__all__ = ["ExecutionMethods"]

_OPEN = "status IN ('queued', 'running', 'waiting')"


class ExecutionMethods(SqliteDatabase):
    """Reads and writes of executions."""

    async def create_execution(
        self,
        new: NewExecution,
        *,
        lease_to: str | None = None,
        lease_until: float | None = None,
        max_queued: int | None = None,
    ) -> tuple[Execution, bool]:
        """Create an execution, see `Store.create_execution`."""
        return await self._write(
            CreateExecution(new, lease_to=lease_to, lease_until=lease_until, max_queued=max_queued)
        )

    async def lease_execution(self, execution_id: str, *, owner: str, until: float) -> Execution | None:
        """Lease a queued execution, see `Store.lease_execution`."""
        return await self._write(LeaseExecution(execution_id, owner=owner, until=until))

    async def accept_execution(self, execution_id: str, *, attempt: int, epoch: int, ago: float | None = None) -> bool:
        """Record that the function was entered, see `Store.accept_execution`."""
        return await self._write(AcceptExecution(execution_id, attempt=attempt, epoch=epoch, ago=ago))

    async def renew_leases(self, owner: str, *, until: float) -> int:
        """Extend all leases of a node instance."""
        return await self._write(RenewLeases(owner, until=until))

    async def requeue_execution(
        self,
        execution_id: str,
        *,
        attempt: int,
        epoch: int,
        entered: bool = True,
        counts: bool = False,
        not_before: float | None = None,
        anew: bool = False,
        events: Sequence[NewEvent] = (),
    ) -> bool:
        """Put a leased execution back into the queue, see `Store.requeue_execution`."""
        return await self._write(
            RequeueExecution(
                execution_id,
                attempt=attempt,
                epoch=epoch,
                entered=entered,
                counts=counts,
                not_before=not_before,
                anew=anew,
                events=events,
            )
        )

    async def progress(self, execution_id: str, *, attempt: int, epoch: int, value: Any) -> bool:
        """Record how far a run has come, see `Store.progress`."""
        return await self._write(RecordProgress(execution_id, attempt=attempt, epoch=epoch, value=value))

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
        statement: str | None = None,
        proof: str | None = None,
        entered: float | None = None,
        events: Sequence[NewEvent] = (),
        known: Execution | None = None,
    ) -> Execution | None:
        """Close an execution, see `Store.complete_execution`."""
        return await self._write(
            CompleteExecution(
                execution_id=execution_id,
                attempt=attempt,
                epoch=epoch,
                status=status,
                output=output,
                problem=problem,
                input_digest=input_digest,
                output_digest=output_digest,
                signature=signature,
                signer=signer,
                statement=statement,
                proof=proof,
                entered=entered,
                events=events,
                known=known,
            )
        )

    async def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution."""
        rows = await self._read(f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?", execution_id)  # noqa: S608
        return execution_row(rows[0]) if rows else None

    async def execution_for_op(self, op_id: str) -> Execution | None:
        """Return the execution that was created with an operation id."""
        rows = await self._read(f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE op_id = ?", op_id)  # noqa: S608
        return execution_row(rows[0]) if rows else None

    async def get_executions(self, execution_ids: Sequence[str]) -> list[Execution]:
        """Return the existing ones of these executions."""
        rows = await self._read(
            f"SELECT {EXECUTION_LISTED} FROM executions WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
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
            f"SELECT {EXECUTION_LISTED} FROM executions WHERE run_id = {KNOWN_RUN} AND pos > ? ORDER BY pos LIMIT ?",  # noqa: S608
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
            f"SELECT {EXECUTION_LISTED} FROM executions WHERE {_OPEN}{where} ORDER BY pos",  # noqa: S608
            *filters.values(),
        )
        return [execution_row(row) for row in rows]

    async def count_turns(self, run_id: str) -> dict[str, int]:
        """Return how many turns of a run have each status."""
        rows = await self._read(
            "SELECT status, COUNT(*) FROM executions WHERE run_id = ? AND kind = 'turn' GROUP BY status", run_id
        )
        return {str(status): int(count) for status, count in rows}

    async def queued_executions(
        self, node_id: str, *, now: float, limit: int, without: Sequence[str] = ()
    ) -> list[Execution]:
        """Return queued executions of a node, see `Store.queued_executions`."""
        rows = await self._read(
            f"SELECT {EXECUTION_LISTED} FROM executions WHERE status = 'queued' AND node_id = ? "  # noqa: S608
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
