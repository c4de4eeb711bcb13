"""Webhooks and their deliveries; a delivery is created in the transaction that records its event."""

from __future__ import annotations

from collections.abc import Sequence

from agentfield.ids import new_id
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import (
    AddWebhook,
    RecordDelivered,
    RecordNotDelivered,
    Redrive,
    RemoveWebhook,
)
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["DELIVERED_KEPT", "add", "enqueue", "failed", "redrive", "remove", "succeeded"]

DELIVERED_KEPT = 24 * 3600.0
"""Seconds that a successful delivery is kept."""

_SUBSCRIBED = """
SELECT id FROM webhooks WHERE EXISTS (SELECT 1 FROM json_each(webhooks.events) WHERE ? GLOB json_each.value)
"""


def enqueue(transaction: Transaction, rows: Sequence[EventRow]) -> None:
    """Create the deliveries of events to subscribed webhooks, in the transaction that records the events."""
    if transaction.one("SELECT 1 FROM webhooks LIMIT 1") is None:
        return
    subscribed: dict[str, list[str]] = {}
    for kind in {row.type for row in rows}:
        subscribed[kind] = [webhook_id for (webhook_id,) in transaction.many(_SUBSCRIBED, [(kind,)])]
    transaction.many(
        "INSERT INTO deliveries (id, webhook_id, run_id, seq, type, status, not_before, created_at) "
        "VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?6)",
        [
            (new_id("dlv"), webhook_id, row.run_id, row.seq, row.type, transaction.now)
            for row in rows
            for webhook_id in subscribed[row.type]
        ],
    )


def add(transaction: Transaction, operation: AddWebhook) -> None:
    """Add a webhook."""
    webhook = operation.webhook
    transaction.run(
        "INSERT INTO webhooks (id, url, events, secret, created_at) VALUES (?, ?, ?, ?, ?)",
        webhook.id,
        webhook.url,
        dump(list(webhook.events)),
        webhook.secret,
        webhook.created_at,
    )


def remove(transaction: Transaction, operation: RemoveWebhook) -> bool:
    """Delete a webhook; its deliveries follow by cascade."""
    return transaction.run("DELETE FROM webhooks WHERE id = ?", operation.webhook_id) == 1


def succeeded(transaction: Transaction, operation: RecordDelivered) -> None:
    """Record a successful delivery; delete those that are older than `DELIVERED_KEPT`."""
    transaction.run(
        "UPDATE deliveries SET status = 'delivered', attempts = attempts + 1, answer = ?, ended_at = ? WHERE id = ?",
        operation.answer,
        transaction.now,
        operation.delivery_id,
    )
    transaction.run(
        "DELETE FROM deliveries WHERE status = 'delivered' AND ended_at < ?", transaction.now - DELIVERED_KEPT
    )


def failed(transaction: Transaction, operation: RecordNotDelivered) -> None:
    """Record a failed attempt: pending until `not_before`, or dead with None."""
    transaction.run(
        "UPDATE deliveries SET status = CASE WHEN ?2 IS NULL THEN 'dead' ELSE 'pending' END, attempts = attempts + 1, "
        "answer = ?1, not_before = COALESCE(?2, not_before), ended_at = CASE WHEN ?2 IS NULL THEN ?3 END WHERE id = ?4",
        operation.answer,
        operation.not_before,
        transaction.now,
        operation.delivery_id,
    )


def redrive(transaction: Transaction, operation: Redrive) -> int:
    """Queue the dead deliveries of a webhook again; return how many."""
    return transaction.run(
        "UPDATE deliveries SET status = 'pending', attempts = 0, not_before = ?, ended_at = NULL "
        "WHERE webhook_id = ? AND status = 'dead'",
        transaction.now,
        operation.webhook_id,
    )
