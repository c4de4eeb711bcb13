"""Approvals, webhooks and their deliveries, nodes and idempotency keys: the methods of the `Store` protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.wire.rest import ApprovalStatus, DeliveryStatus
from agentfield_server.store.json_text import load
from agentfield_server.store.operations import (
    AddWebhook,
    Decide,
    RecordDelivered,
    RecordNotDelivered,
    Redrive,
    ReleaseKey,
    RememberNode,
    RemoveWebhook,
    SaveResponse,
    SuspendExecution,
)
from agentfield_server.store.records import Approval, Delivery, EventRow, IdempotencyKey, Webhook
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.rows import (
    APPROVAL_COLUMNS,
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    WEBHOOK_COLUMNS,
    approval_row,
    delivery_row,
    event_row,
    webhook_row,
)

__all__ = ["ExternalMethods"]

_NODE_LIFE = 30 * 24 * 3600.0


class ExternalMethods(SqliteDatabase):
    """Reads and writes of approvals, webhooks, nodes and keys."""

    async def suspend_execution(
        self, execution_id: str, *, attempt: int, epoch: int, key: str, title: str, details: Any, expires: float
    ) -> Approval | None:
        """Suspend an execution for a decision, see `Store.park_execution`."""
        return await self._write(
            SuspendExecution(
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
        principal: str | None,
        own: bool = False,
        by: str | None,
        via: str,
        note: str | None = None,
        data: Any = None,
    ) -> Approval | None:
        """Decide an approval and queue the execution again, see `Store.decide`."""
        return await self._write(
            Decide(approval_id, status=status, principal=principal, own=own, by=by, via=via, note=note, data=data)
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

    async def add_webhook(self, webhook: Webhook) -> None:
        """Add a webhook."""
        await self._write(AddWebhook(webhook))

    async def remove_webhook(self, webhook_id: str) -> bool:
        """Delete a webhook, see `Store.remove_webhook`."""
        return await self._write(RemoveWebhook(webhook_id))

    async def list_webhooks(self) -> list[Webhook]:
        """Return the webhooks, oldest first."""
        return [webhook_row(row) for row in await self._read(f"SELECT {WEBHOOK_COLUMNS} FROM webhooks ORDER BY pos")]  # noqa: S608

    async def due_deliveries(self, *, now: float, limit: int) -> list[tuple[Delivery, Webhook, EventRow]]:
        """Return due deliveries, see `Store.due_deliveries`."""
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

    async def record_delivered(self, delivery_id: str, answer: str) -> None:
        """Record a successful delivery."""
        await self._write(RecordDelivered(delivery_id, answer))

    async def record_not_delivered(self, delivery_id: str, answer: str, *, not_before: float | None) -> None:
        """Record a failed attempt, see `Store.record_not_delivered`."""
        await self._write(RecordNotDelivered(delivery_id, answer, not_before=not_before))

    async def redrive(self, webhook_id: str) -> int:
        """Queue dead deliveries again, see `Store.redrive`."""
        return await self._write(Redrive(webhook_id))

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

    async def remember_node(self, node_id: str, declared: Mapping[str, Any]) -> None:
        """Store the declarations of a node, see `Store.remember_node`."""
        await self._write(RememberNode(node_id, declared))

    async def known_nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return the declarations of nodes, see `Store.known_nodes`."""
        since = self._clock() - _NODE_LIFE
        rows = await self._read("SELECT node_id, declared FROM nodes WHERE linked_at > ? ORDER BY linked_at", since)
        return {node_id: load(declared) for node_id, declared in rows}

    async def save_response(
        self, key: IdempotencyKey, *, response: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        """Claim a key or store its response, see `Store.remember`."""
        return await self._write(SaveResponse(key, response))

    async def release_key(self, key: IdempotencyKey) -> None:
        """Release a key."""
        await self._write(ReleaseKey(key))
