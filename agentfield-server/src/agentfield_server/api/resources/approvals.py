"""Approvals over REST: list and show them, decide as an operator or with a signed request of another system."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal, get_args

from aiohttp import web
from pydantic import SecretStr, ValidationError

from agentfield.errors import InvalidInput
from agentfield.wire.rest import ApprovalStatus, ApprovalView, DecisionRequest, SignedDecision
from agentfield_server.access.principals import PRINCIPAL, WEBHOOK, Access, Principal
from agentfield_server.access.webhook_signatures import HEADER, check_signature
from agentfield_server.api.http.bodies import (
    MAX_BODY,
    json_reply,
    read_limit,
    read_model,
    read_text,
    strict_json,
    validation_error,
)
from agentfield_server.api.http.route import Route
from agentfield_server.engine.approvals import Approvals
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Approval

__all__ = ["ApprovalRoutes"]

_READ: Access = ("approver", "operator", "reader")
_SIGNED = (
    f"For systems without a key: `{HEADER}: t=SECONDS,v1=HEX`, the HMAC-SHA256 of the seconds, a dot and the body, with "
    "AGENTFIELD_WEBHOOK_SECRET. A signature whose time is more than five minutes away is refused."
)


class ApprovalRoutes:
    """The routes of approvals.

    Args:
        approvals: Takes the decisions.
        store: The store.
        secret: Verifies the decisions of other systems; None accepts none.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self, approvals: Approvals, store: Store, *, secret: SecretStr | None, clock: Callable[[], float]
    ) -> None:
        self._approvals = approvals
        self._store = store
        self._secret = secret
        self._clock = clock

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/approvals"
        return [
            Route("GET", base, self.index, _READ, "List approvals"),
            Route("GET", base + "/{approval_id}", self.show, _READ, "Show an approval", response=ApprovalView),
            Route(
                "POST",
                base + "/{approval_id}/decision",
                self.decide,
                ("approver",),
                "Approve, reject, or ask for changes",
                request=DecisionRequest,
                response=ApprovalView,
            ),
            Route(
                "POST",
                "/api/v1/webhooks/approvals",
                self.decide_signed,
                ("verified",),
                "Decide with a signed request",
                request=SignedDecision,
                response=ApprovalView,
                description=_SIGNED,
            ),
        ]

    async def index(self, request: web.Request) -> web.Response:
        """List approvals, newest first: ``?status=``, ``?before=``, ``?limit=``."""
        rows = await self._store.list_approvals(
            status=_status(request), before=request.query.get("before"), limit=read_limit(request)
        )
        return json_reply({"approvals": [_view(row).model_dump(mode="json") for row in rows]})

    async def show(self, request: web.Request) -> web.Response:
        """Show one approval."""
        return json_reply(_view(await self._approvals.find(request.match_info["approval_id"])))

    async def decide(self, request: web.Request) -> web.Response:
        """Take the decision of a key with the scope `approver`."""
        body = await read_model(request, DecisionRequest)
        return await self._decided(request.match_info["approval_id"], body, request[PRINCIPAL], "rest")

    async def decide_signed(self, request: web.Request) -> web.Response:
        """Take the decision of another system; verify its signature before parsing the body."""
        text = await read_text(request, media_type="application/json", max_bytes=MAX_BODY)
        check_signature(self._secret, request.headers.get(HEADER), text.encode(), now=self._clock())
        try:
            body = SignedDecision.model_validate_json(json.dumps(strict_json(text)))
        except ValidationError as error:
            raise validation_error(error, SignedDecision) from None
        return await self._decided(body.approval_id, body, WEBHOOK, "webhook")

    async def _decided(
        self, approval_id: str, body: DecisionRequest, principal: Principal, via: Literal["rest", "webhook"]
    ) -> web.Response:
        approval = await self._approvals.decide(
            approval_id, body.decision, principal=principal, by=body.by, via=via, note=body.note, data=body.data
        )
        return json_reply(_view(approval))


def _status(request: web.Request) -> ApprovalStatus | None:
    """Return the status of ``?status=``; None without it.

    Raises:
        InvalidInput: The value is not a status.
    """
    known: tuple[ApprovalStatus, ...] = get_args(ApprovalStatus)
    asked = request.query.get("status")
    if asked is None:
        return None
    found = next((status for status in known if status == asked), None)
    if found is None:
        raise InvalidInput(f"status is one of {', '.join(known)}.", hint="status=pending", field="status")
    return found


def _view(row: Approval) -> ApprovalView:
    return ApprovalView(
        id=row.id,
        execution_id=row.execution_id,
        run_id=row.run_id,
        session_id=row.session_id,
        target=row.target,
        key=row.key,
        title=row.title,
        details=row.details,
        status=row.status,
        principal=row.principal,
        by=row.decided_by,
        via=row.via,
        note=row.note,
        data=row.data,
        created_at=row.created_at,
        expires_at=row.expires_at,
        decided_at=row.decided_at,
    )
