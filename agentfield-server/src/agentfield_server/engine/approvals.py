"""Approvals: an execution is suspended for a decision and queued again with it; it occupies no node meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from agentfield.errors import Conflict, NotFound
from agentfield.values import encode
from agentfield.wire.frames import PauseRequest
from agentfield.wire.rest import ApprovalStatus
from agentfield_server.access.admission import AccessControl
from agentfield_server.access.principals import Principal
from agentfield_server.engine.deadlines import Deadlines
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Approval, Execution

__all__ = ["Approvals"]

_log = logging.getLogger("agentfield.engine")
_PAGE = 500


class Approvals:
    """Suspends executions for a decision and resumes them.

    Args:
        store: The store.
        access: Decides who may decide.
        resume: Called with the id of each execution that is queued again.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        access: AccessControl,
        resume: Callable[[str], Awaitable[None]],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._access = access
        self._resume = resume
        self._expiry = Deadlines(clock=clock, due=self._expire)

    async def restore(self) -> None:
        """Watch the pending approvals of an earlier control plane."""
        before: str | None = None
        while page := await self._store.list_approvals(status="pending", before=before, limit=_PAGE):
            for approval in page:
                self._expiry.add(approval.id, approval.expires_at)
            before = page[-1].id

    async def run(self) -> None:
        """Expire approvals that are not decided in time; runs until cancelled."""
        await self._expiry.run()

    async def suspend(self, execution_id: str, request: PauseRequest, *, attempt: int, epoch: int) -> Approval | None:
        """Suspend an execution until a decision; return None when the attempt is not current."""
        approval = await self._store.suspend_execution(
            execution_id,
            attempt=attempt,
            epoch=epoch,
            key=request.key,
            title=request.title,
            details=request.details,
            expires=request.expires,
        )
        if approval is not None:
            self._expiry.add(approval.id, approval.expires_at)
        return approval

    async def decide(
        self,
        approval_id: str,
        status: ApprovalStatus,
        *,
        principal: Principal,
        by: str | None,
        via: Literal["rest", "webhook"],
        note: str | None = None,
        data: Any = None,
    ) -> Approval:
        """Decide an approval; a repetition of the same decision by the same principal changes nothing.

        Args:
            approval_id: The approval.
            status: The decision.
            principal: Who decides.
            by: A name for the record, which nobody verified.
            via: How the decision came.
            note: A note.
            data: Data for the reasoner; any JSON.

        Raises:
            Forbidden: The principal belongs to the chain of the execution (code `own_approval`), or the execution may not
                continue under the rules of access (code `access_denied`).
            NotFound: The approval does not exist (code `unknown_approval`).
            Conflict: It was decided otherwise, expired, or its execution has ended (code `already_decided`).
            InvalidInput: The data holds a value that cannot be carried (code `unrepresentable`).
        """
        data = encode(data, name="data").value
        asked = await self.find(approval_id)
        own = await self._access.require_other(principal, asked.execution_id)
        if status == "approved" and asked.status == "pending":
            await self._admit(asked.execution_id)
        approval = await self._store.decide(
            approval_id, status=status, principal=principal.id, own=own, by=by, via=via, note=note, data=data
        )
        if approval is not None:
            await self._resume(approval.execution_id)
            return approval
        approval = await self.find(approval_id)
        if (approval.status, approval.principal, approval.decided_by) == (status, principal.id, by):
            return approval
        raise Conflict(
            f"{approval_id} is {approval.status.replace('_', ' ')} already"
            f"{f', by {approval.principal}' if approval.principal else ''}"
            f"{f' ({approval.decided_by})' if approval.decided_by else ''}.",
            code="already_decided",
            hint=f"af approvals show {approval_id}",
            approval_status=approval.status,
        )

    async def find(self, approval_id: str) -> Approval:
        """Return an approval.

        Raises:
            NotFound: It does not exist (code `unknown_approval`).
        """
        approval = await self._store.get_approval(approval_id)
        if approval is None:
            raise NotFound(f"There is no approval {approval_id!r}.", code="unknown_approval", hint="af approvals list")
        return approval

    async def decisions(self, execution: Execution) -> dict[str, dict[str, Any]]:
        """Return the decisions about the pauses of an execution, in the form that a node gets them."""
        if not execution.pauses:
            return {}
        rows = await self._store.list_approvals(execution_id=execution.id, limit=_PAGE)
        return {
            row.key: {
                "status": row.status,
                "by": row.decided_by,
                "note": row.note,
                "data": row.data,
                "at": row.decided_at or 0.0,
            }
            for row in rows
            if row.status not in ("pending", "cancelled")
        }

    async def _admit(self, execution_id: str) -> None:
        """Check that an execution may continue under the rules of access."""
        execution = await self._store.get_execution(execution_id)
        if execution is not None and isinstance(execution.input, dict):
            await self._access.admit_execution(execution_id, execution.input)

    async def _expire(self, approval_id: str) -> None:
        approval = await self._store.decide(approval_id, status="expired", principal=None, by=None, via="time")
        if approval is not None:
            _log.info("approval %s expired without a decision", approval_id)
            await self._resume(approval.execution_id)
