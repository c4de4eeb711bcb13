"""The execution of a group of operations: rows first, then the numbers of all its events, then the events.

`plan` (in `agentfield_server.store.operations`) has divided the operations of a commit: those of a group touch different things,
so that their rows may be changed in any order. What depends on the order of submission is the order of created executions, and
the numbers of events; both are written in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agentfield_server.store import identities as identity
from agentfield_server.store import operations as op
from agentfield_server.store import proofs as proof_op
from agentfield_server.store.json_text import dump
from agentfield_server.store.sqlite.operations import (
    access,
    approvals,
    creations,
    events,
    executions,
    identities,
    keys,
    proofs,
    redaction,
    retention,
    sessions,
    webhooks,
)
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["execute"]


def execute(transaction: Transaction, group: Sequence[op.Operation[Any]]) -> list[Any]:
    """Execute the operations of a group and return their results.

    Raises:
        AgentFieldError: One of them is refused. Nothing of the group may be kept then.
    """
    if (alone := _ALONE.get(type(group[0]))) is not None:
        return [alone(transaction, operation) for operation in group]
    changes: list[events.Change] = [events.Change(None)] * len(group)
    for kind, change in _TOGETHER.items():
        places = [place for place, operation in enumerate(group) if type(operation) is kind]
        if places:
            for place, changed in zip(places, change(transaction, [group[place] for place in places]), strict=True):
                changes[place] = changed
    creations.settle(transaction, changes)
    return [
        each.recorded if type(operation) is op.AppendEvents else each.result
        for operation, each in zip(group, changes, strict=True)
    ]


def _remember_node(transaction: Transaction, operation: op.RememberNode) -> None:
    transaction.run(
        "INSERT INTO nodes (node_id, declared, linked_at) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (node_id) DO UPDATE SET declared = ?2, linked_at = ?3",
        operation.node_id,
        dump(operation.declared),
        transaction.now,
    )


_TOGETHER: dict[type[op.Operation[Any]], Callable[[Transaction, Sequence[Any]], list[events.Change]]] = {
    op.CreateExecution: creations.create,
    op.LeaseExecution: executions.lease,
    op.AcceptExecution: executions.accept,
    op.RecordProgress: executions.progress,
    op.CompleteExecution: executions.complete,
    op.UpdateSession: sessions.update,
    op.AppendEvents: events.append,
}
"""Operations that share the statements of their group."""

_ALONE: dict[type[op.Operation[Any]], Callable[[Transaction, Any], Any]] = {
    op.RenewLeases: executions.renew,
    op.RequeueExecution: executions.requeue,
    op.SuspendExecution: approvals.suspend,
    op.Decide: approvals.decide,
    op.CreateSession: sessions.create,
    op.TakeSession: sessions.take,
    op.EraseBodies: events.erase,
    op.AddWebhook: webhooks.add,
    op.RemoveWebhook: webhooks.remove,
    op.RecordDelivered: webhooks.succeeded,
    op.RecordNotDelivered: webhooks.failed,
    op.Redrive: webhooks.redrive,
    op.RememberNode: _remember_node,
    identity.IdentifyLink: identities.identify,
    identity.AdmitDid: identities.admit,
    identity.RevokeDid: identities.revoke,
    identity.ForgetDids: identities.forget,
    identity.PlaceHandler: identities.place_handler,
    op.FindSessionForKey: keys.session_for_key,
    op.SaveResponse: keys.save_response,
    op.ReleaseKey: keys.release_key,
    op.PutToken: keys.put_token,
    op.UseToken: keys.use_token,
    identity.PresentToken: keys.present_token,
    op.DropTokens: keys.drop_tokens,
    op.PurgeKeys: keys.purge,
    op.MarkPruned: retention.mark,
    op.DeleteRows: retention.delete_rows,
    op.Vacuum: retention.vacuum,
    **access.OPERATIONS,
    **proofs.OPERATIONS,
    proof_op.EraseRun: redaction.erase_run,
}
"""Operations with a group of their own."""
