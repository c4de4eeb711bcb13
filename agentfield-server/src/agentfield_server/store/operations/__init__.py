"""The writes of a store as frozen values: what an operation means, and what it touches.

`Store` has a method for each of them, which describes it. A commit runs the operations that were submitted to it as if one after
the other, in the order of submission. `plan` divides them into groups that may be executed together; how a group becomes SQL is
decided by the store. Read `planning` (`Operation`, `plan`), then the writes: `executions`, `sessions`, `external`.
"""

from __future__ import annotations

from agentfield_server.store.operations.executions import (
    AcceptExecution,
    CompleteExecution,
    CreateExecution,
    Decide,
    LeaseExecution,
    RecordProgress,
    RenewLeases,
    RequeueExecution,
    SuspendExecution,
)
from agentfield_server.store.operations.external import (
    AddWebhook,
    DeleteRows,
    MarkPruned,
    PurgeKeys,
    RecordDelivered,
    RecordNotDelivered,
    Redrive,
    RememberNode,
    RemoveWebhook,
    Vacuum,
)
from agentfield_server.store.operations.planning import Operation, Then, Touched, plan, settling
from agentfield_server.store.operations.sessions import (
    AppendEvents,
    CreateSession,
    DropTokens,
    EraseBodies,
    FindSessionForKey,
    PutToken,
    ReleaseKey,
    SaveResponse,
    TakeSession,
    UpdateSession,
    UseToken,
)

__all__ = [
    "AcceptExecution",
    "AddWebhook",
    "AppendEvents",
    "CompleteExecution",
    "CreateExecution",
    "CreateSession",
    "Decide",
    "DeleteRows",
    "DropTokens",
    "EraseBodies",
    "FindSessionForKey",
    "LeaseExecution",
    "MarkPruned",
    "Operation",
    "PurgeKeys",
    "PutToken",
    "RecordDelivered",
    "RecordNotDelivered",
    "RecordProgress",
    "Redrive",
    "ReleaseKey",
    "RememberNode",
    "RemoveWebhook",
    "RenewLeases",
    "RequeueExecution",
    "SaveResponse",
    "SuspendExecution",
    "TakeSession",
    "Then",
    "Touched",
    "UpdateSession",
    "UseToken",
    "Vacuum",
    "plan",
    "settling",
]
