"""Webhooks and what is on its way to them, as operations of the writer; deliveries are made with the event they tell of."""

from __future__ import annotations

from collections.abc import Sequence

from agentfield.ids import new_id
from agentfield_server.store.records import EventRow, Webhook
from agentfield_server.store.rows import dump
from agentfield_server.store.writer import Transaction

__all__ = ["KEPT", "add", "enqueue", "failed", "redrive", "remove", "succeeded"]

KEPT = 24 * 3600.0
"""Seconds that a delivery which arrived can still be looked at."""

_SUBSCRIBED = """
SELECT id FROM webhooks WHERE EXISTS (SELECT 1 FROM json_each(webhooks.events) WHERE ? GLOB json_each.value)
"""


def enqueue(transaction: Transaction, rows: Sequence[EventRow]) -> None:
    """Put events on their way to whoever wants to be told, in the transaction that records them."""
    if transaction.one("SELECT 1 FROM webhooks LIMIT 1") is None:
        return
    for row in rows:
        for (webhook_id,) in transaction.connection.execute(_SUBSCRIBED, (row.type,)).fetchall():
            transaction.run(
                "INSERT INTO deliveries (id, webhook_id, run_id, seq, type, status, not_before, created_at) "
                "VALUES (?1, ?2, ?3, ?4, ?5, 'pending', ?6, ?6)",
                new_id("dlv"),
                webhook_id,
                row.run_id,
                row.seq,
                row.type,
                transaction.now,
            )


def add(transaction: Transaction, webhook: Webhook) -> None:
    """Keep a webhook."""
    transaction.run(
        "INSERT INTO webhooks (id, url, events, secret, created_at) VALUES (?, ?, ?, ?, ?)",
        webhook.id,
        webhook.url,
        dump(list(webhook.events)),
        webhook.secret,
        webhook.created_at,
    )


def remove(transaction: Transaction, webhook_id: str) -> bool:
    """Forget a webhook and everything on its way to it."""
    return transaction.run("DELETE FROM webhooks WHERE id = ?", webhook_id) == 1


def succeeded(transaction: Transaction, delivery_id: str, answer: str) -> None:
    """A delivery arrived; those that arrived long ago are forgotten."""
    transaction.run(
        "UPDATE deliveries SET status = 'delivered', attempts = attempts + 1, answer = ?, ended_at = ? WHERE id = ?",
        answer,
        transaction.now,
        delivery_id,
    )
    transaction.run("DELETE FROM deliveries WHERE status = 'delivered' AND ended_at < ?", transaction.now - KEPT)


def failed(transaction: Transaction, delivery_id: str, answer: str, *, not_before: float | None) -> None:
    """An attempt failed: there is another one then, or none any more."""
    transaction.run(
        "UPDATE deliveries SET status = CASE WHEN ?2 IS NULL THEN 'dead' ELSE 'pending' END, attempts = attempts + 1, "
        "answer = ?1, not_before = COALESCE(?2, not_before), ended_at = CASE WHEN ?2 IS NULL THEN ?3 END WHERE id = ?4",
        answer,
        not_before,
        transaction.now,
        delivery_id,
    )


def redrive(transaction: Transaction, webhook_id: str) -> int:
    """Try what was given up again, from the beginning; returns how much."""
    return transaction.run(
        "UPDATE deliveries SET status = 'pending', attempts = 0, not_before = ?, ended_at = NULL "
        "WHERE webhook_id = ? AND status = 'dead'",
        transaction.now,
        webhook_id,
    )
