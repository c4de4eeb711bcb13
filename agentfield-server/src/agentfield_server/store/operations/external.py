"""Writes of webhooks and nodes, and maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield_server.store.operations.planning import Operation
from agentfield_server.store.records import PrunedRun, Webhook

__all__ = [
    "AddWebhook",
    "DeleteRows",
    "MarkPruned",
    "PurgeKeys",
    "RecordDelivered",
    "RecordNotDelivered",
    "Redrive",
    "RememberNode",
    "RemoveWebhook",
    "Vacuum",
]


class AddWebhook(Operation[None], frozen=True):
    """See `Store.add_webhook`."""

    webhook: Webhook


class RemoveWebhook(Operation[bool], frozen=True):
    """See `Store.remove_webhook`."""

    webhook_id: str


class RecordDelivered(Operation[None], frozen=True):
    """See `Store.record_delivered`."""

    delivery_id: str
    answer: str


class RecordNotDelivered(Operation[None], frozen=True):
    """See `Store.record_not_delivered`."""

    delivery_id: str
    answer: str
    not_before: float | None


class Redrive(Operation[int], frozen=True):
    """See `Store.redrive`."""

    webhook_id: str


class RememberNode(Operation[None], frozen=True):
    """See `Store.remember_node`."""

    node_id: str
    declared: Mapping[str, Any]


class PurgeKeys(Operation[None], frozen=True):
    """Delete expired keys and tokens, and keys whose first call can never finish: those of an earlier process."""


class MarkPruned(Operation[bool], frozen=True):
    """Mark a run as pruned if it still qualifies, see `Store.prune_run`."""

    run: PrunedRun
    before: float


class DeleteRows(Operation[int], frozen=True):
    """Delete a part of a pruned run, see `Store.prune_run`."""

    run_id: str
    rows: int


class Vacuum(Operation[None], frozen=True):
    """Return free pages to the disk, see `Store.compact`."""

    pages: int
