"""`ControlPlaneClient`: one method for each route of the REST API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from agentfield.client.connection import ANSWER_TIMEOUT, parse, parse_list, path_segment
from agentfield.client.streams import SessionStreams
from agentfield.errors import ExecutionTimeout, InvalidInput
from agentfield.schema import jsonable
from agentfield.wire.access import (
    ExplainRequest,
    ExplainView,
    KeyRequest,
    KeysView,
    KeyView,
    PolicyRequest,
    PolicyView,
    TagRequest,
    TagView,
)
from agentfield.wire.node_views import AdmitRequest, NodeDidView, NodeView
from agentfield.wire.redaction import RedactRequest, RedactView
from agentfield.wire.requests import make_request
from agentfield.wire.rest import (
    AdapterView,
    ApprovalView,
    CancelRequest,
    CompactView,
    DagView,
    DecisionRequest,
    DeliveryStatus,
    DeliveryView,
    EndRequest,
    ExchangeRequest,
    ExchangeResponse,
    ExecuteRequest,
    ExecutionView,
    InputRequest,
    PluginView,
    PruneRequest,
    PruneView,
    SessionView,
    StartRequest,
    StartResponse,
    StatusRequest,
    StatusView,
    StoreView,
    WebhookRequest,
    WebhookView,
)

__all__ = ["ControlPlaneClient"]

_WAIT: Final = 30.0
"""Seconds that the control plane delays an answer while an execution runs (long polling)."""
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "timeout"})


class ControlPlaneClient(SessionStreams):
    """Client of a control plane; an async context manager.

    Every method raises the `AgentFieldError` that the control plane answered with, and `ControlPlaneUnavailable` if it does
    not answer.

    Args:
        url: The control plane's address, by default the result of `discover_url`.
        api_key: The control plane's API key, by default ``AGENTFIELD_API_KEY``.
    """

    # --- executions ---------------------------------------------------------------------------------------------

    async def execute(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the field name of the REST API
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Run a target and wait for its end; the `status` of the result says how it ended."""
        body = _execute_body(input, timeout)
        wait = None if timeout is None else timeout + ANSWER_TIMEOUT
        value = await self._json(
            "POST", f"/execute/{path_segment(target)}", body=body, idempotency_key=idempotency_key, seconds=wait
        )
        return parse(ExecutionView, value)

    async def execute_async(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the field name of the REST API
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        priority: int = 0,
        delay: float = 0,
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Start a target; returns once the execution is committed.

        Args:
            target: ``node.name``.
            input: The target's input.
            timeout: Seconds that the execution may take, None for no limit.
            priority: From -10 to 10; among queued executions higher ones start first.
            delay: Seconds to wait before the start.
            idempotency_key: Identifies the request: a repeated one with the same key returns the first execution.
        """
        body = _execute_body(input, timeout, priority=priority, delay=delay)
        value = await self._json(
            "POST", f"/execute/async/{path_segment(target)}", body=body, idempotency_key=idempotency_key
        )
        return parse(ExecutionView, value)

    async def get_execution(self, execution_id: str) -> ExecutionView:
        """Return the current state of an execution."""
        return parse(ExecutionView, await self._json("GET", f"/executions/{path_segment(execution_id)}"))

    async def wait_execution(self, execution_id: str, *, timeout: float | None = None) -> ExecutionView:  # noqa: ASYNC109
        """Wait for the end of an execution and return it.

        Raises:
            ExecutionTimeout: The execution still runs after `timeout` seconds; it is not cancelled.
        """
        path, query = f"/executions/{path_segment(execution_id)}", {"wait": f"{_WAIT:g}"}
        try:
            async with asyncio.timeout(timeout):
                while True:
                    value = await self._json("GET", path, query=query, seconds=_WAIT + ANSWER_TIMEOUT)
                    execution = parse(ExecutionView, value)
                    if execution.status in _ENDED:
                        return execution
        except TimeoutError as error:
            raise ExecutionTimeout(
                f"{execution_id} had not ended after {timeout:g} seconds; it goes on.", execution_id=execution_id
            ) from error

    async def executions_status(self, execution_ids: Sequence[str]) -> StatusView:
        """Return the current state of up to 500 executions in one request."""
        body = _body(StatusRequest, ids=tuple(execution_ids))
        return parse(StatusView, await self._json("POST", "/executions/status", body=body))

    async def cancel_execution(self, execution_id: str, *, tree: bool = True) -> None:
        """Cancel an execution and, with `tree`, the executions that it called."""
        body = _body(CancelRequest, tree=tree)
        await self._json("POST", f"/executions/{path_segment(execution_id)}/cancel", body=body)

    async def cancel_run(self, run_id: str) -> int:
        """Cancel every open execution of a run, and return their number."""
        value = await self._json("POST", f"/workflows/{path_segment(run_id)}/cancel", body={})
        return int(value["cancelled"])

    # --- approvals ----------------------------------------------------------------------------------------------

    async def list_approvals(self, status: str | None = None) -> list[ApprovalView]:
        """Return the approvals, newest first; with `status`, only those in that state."""
        query = {"status": status} if status else None
        return parse_list(ApprovalView, await self._json("GET", "/approvals", query=query), "approvals")

    async def get_approval(self, approval_id: str) -> ApprovalView:
        """Return the current state of an approval."""
        return parse(ApprovalView, await self._json("GET", f"/approvals/{path_segment(approval_id)}"))

    async def decide(self, approval_id: str, request: DecisionRequest) -> ApprovalView:
        """Approve, reject or request changes; the waiting execution continues."""
        body = request.model_dump(mode="json", exclude_none=True)
        return parse(
            ApprovalView, await self._json("POST", f"/approvals/{path_segment(approval_id)}/decision", body=body)
        )

    # --- access -------------------------------------------------------------------------------------------------

    async def create_key(self, request: KeyRequest) -> KeyView:
        """Create a key; only this answer contains its text."""
        return parse(KeyView, await self._json("POST", "/keys", body=request.model_dump(mode="json")))

    async def list_keys(self) -> KeysView:
        """Return all keys that were ever made, without their texts."""
        return parse(KeysView, await self._json("GET", "/keys"))

    async def revoke_key(self, key_id: str) -> KeyView:
        """Revoke a key; what is open with it is closed."""
        return parse(KeyView, await self._json("DELETE", f"/keys/{path_segment(key_id)}"))

    async def policies(self) -> PolicyView:
        """Return the policies in force."""
        return parse(PolicyView, await self._json("GET", "/access/policies"))

    async def set_policies(self, document: str) -> PolicyView:
        """Put a TOML document of rules in force."""
        return parse(
            PolicyView, await self._json("POST", "/access/policies", body=_body(PolicyRequest, document=document))
        )

    async def explain_access(self, request: ExplainRequest) -> ExplainView:
        """Return the decision about a call, with the rules that make it."""
        return parse(ExplainView, await self._json("POST", "/access/explain", body=request.model_dump(mode="json")))

    async def tags(self) -> list[TagView]:
        """Return the tags of targets, nodes and transports."""
        return parse_list(TagView, await self._json("GET", "/access/tags"), "tags")

    async def approve_tag(self, request: TagRequest) -> None:
        """Approve a tag that a node declared, or give one."""
        await self._json("POST", "/access/tags", body=request.model_dump(mode="json"))

    async def remove_tag(self, name: str, tag: str) -> None:
        """Remove a tag; a node that still declares it brings it back at its next link."""
        await self._json("DELETE", f"/access/tags/{path_segment(name)}/{path_segment(tag)}")

    # --- webhooks -----------------------------------------------------------------------------------------------

    async def add_webhook(self, request: WebhookRequest) -> WebhookView:
        """Create a webhook; only this answer contains its secret."""
        return parse(WebhookView, await self._json("POST", "/webhooks", body=request.model_dump(mode="json")))

    async def list_webhooks(self) -> list[WebhookView]:
        """Return the webhooks, without their secrets."""
        return parse_list(WebhookView, await self._json("GET", "/webhooks"), "webhooks")

    async def remove_webhook(self, webhook_id: str) -> None:
        """Delete a webhook and its pending deliveries."""
        await self._json("DELETE", f"/webhooks/{path_segment(webhook_id)}")

    async def deliveries(self, webhook_id: str, status: DeliveryStatus | None = None) -> list[DeliveryView]:
        """Return the deliveries of a webhook, newest first."""
        query = {"status": status} if status else None
        value = await self._json("GET", f"/webhooks/{path_segment(webhook_id)}/deliveries", query=query)
        return parse_list(DeliveryView, value, "deliveries")

    async def redrive(self, webhook_id: str) -> int:
        """Retry the dead deliveries of a webhook, and return their number."""
        value = await self._json("POST", f"/webhooks/{path_segment(webhook_id)}/redrive", body={})
        return int(value["redriven"])

    # --- the store ----------------------------------------------------------------------------------------------

    async def store_stats(self) -> StoreView:
        """Return the size and row counts of the store."""
        return parse(StoreView, await self._json("GET", "/store"))

    async def prune_store(self, request: PruneRequest) -> PruneView:
        """Run one round of pruning old runs; pass `next` of the answer as `after` to continue."""
        return parse(PruneView, await self._json("POST", "/store/prune", body=request.model_dump(mode="json")))

    async def compact_store(self) -> CompactView:
        """Return some free pages of the store to the file system; repeat while pages are left."""
        return parse(CompactView, await self._json("POST", "/store/compact", body={}))

    # --- runs ---------------------------------------------------------------------------------------------------

    async def dag(self, run_id: str) -> DagView:
        """Return the complete execution graph of a run."""
        return await self._pages(f"/workflows/{path_segment(run_id)}/dag")

    # --- sessions -----------------------------------------------------------------------------------------------

    async def start_session(self, request: StartRequest, *, idempotency_key: str | None = None) -> StartResponse:
        """Create a session, which then waits for its caller."""
        body = request.model_dump(mode="json", exclude_none=True)
        return parse(StartResponse, await self._json("POST", "/sessions", body=body, idempotency_key=idempotency_key))

    async def offer(self, session_id: str, sdp: str, token: str | None = None) -> str:
        """Exchange a WebRTC offer for the provider's answer; both are SDP."""
        async with self._request(
            "POST",
            f"/sessions/{path_segment(session_id)}/offer",
            token=token,
            data=_sdp(sdp),
            headers={"Content-Type": "application/sdp"},
        ) as response:
            return await response.text()

    async def send_input(self, session_id: str, text: str, token: str | None = None) -> None:
        """Send typed text to a session, as its caller."""
        body = _body(InputRequest, text=text)
        await self._json("POST", f"/sessions/{path_segment(session_id)}/input", body=body, token=token)

    async def end_session(self, session_id: str, reason: str | None = None, token: str | None = None) -> None:
        """End a session: as the operator, or as the caller who hangs up with its browser token."""
        body = _body(EndRequest, reason=reason) if reason else {}
        await self._json("POST", f"/sessions/{path_segment(session_id)}/end", body=body, token=token)

    async def redact_session(
        self, session_id: str, *, executions: Sequence[str] | None = None, reason: str = ""
    ) -> RedactView:
        """Erase bodies of an ended session with every copy; its log, heads and credentials still verify.

        Args:
            session_id: The session.
            executions: Erase only bodies of these executions and of their events; None for all of the session.
            reason: Recorded in the log, readable for everyone who may read it.
        """
        body = _body(RedactRequest, reason=reason, executions=executions)
        return parse(RedactView, await self._json("POST", f"/sessions/{path_segment(session_id)}/redact", body=body))

    async def redact_run(self, run_id: str, *, executions: Sequence[str] | None = None, reason: str = "") -> RedactView:
        """Erase bodies of a run, with or without a session; see `redact_session`."""
        body = _body(RedactRequest, reason=reason, executions=executions)
        return parse(RedactView, await self._json("POST", f"/workflows/{path_segment(run_id)}/redact", body=body))

    async def list_sessions(self) -> list[SessionView]:
        """Return the sessions, newest first."""
        return parse_list(SessionView, await self._json("GET", "/sessions"), "sessions")

    async def get_session(self, session_id: str, token: str | None = None) -> SessionView:
        """Return the current state of a session."""
        return parse(SessionView, await self._json("GET", f"/sessions/{path_segment(session_id)}", token=token))

    async def workflow(self, session_id: str, token: str | None = None) -> DagView:
        """Return the complete execution graph of a session's run."""
        return await self._pages(f"/sessions/{path_segment(session_id)}/workflows", token=token)

    async def exchange(self, code: str) -> ExchangeResponse:
        """Exchange the one-time code of a page's address for a browser token."""
        return parse(
            ExchangeResponse, await self._json("POST", "/sessions/exchange", body=_body(ExchangeRequest, code=code))
        )

    # --- the rest -----------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        """Return the node instances that the control plane knows."""
        return parse_list(NodeView, await self._json("GET", "/nodes"), "nodes")

    async def drain(self, name: str) -> list[NodeView]:
        """Ask an instance, or all linked instances of a node, to drain; returns at once.

        Raises:
            NotFound: No linked node or instance has that name (code `unknown_node`).
        """
        return parse_list(NodeView, await self._json("POST", f"/nodes/{path_segment(name)}/drain"), "nodes")

    async def node_dids(self, node_id: str | None = None) -> list[NodeDidView]:
        """Return the DIDs of a node id, or of all."""
        query = {} if node_id is None else {"node": node_id}
        return parse_list(NodeDidView, await self._json("GET", "/nodes/dids", query=query), "dids")

    async def admit_did(self, node_id: str, did: str) -> NodeDidView:
        """Let nodes with a DID link as a node id.

        Raises:
            InvalidInput: It is no ``did:key`` (code `invalid_did`).
            Conflict: It was revoked (code `did_revoked`).
        """
        body = make_request(AdmitRequest, did=did).model_dump()
        return parse(NodeDidView, await self._json("POST", f"/nodes/{path_segment(node_id)}/dids", body=body))

    async def revoke_did(self, node_id: str, did: str) -> NodeDidView:
        """Refuse a DID of a node id from now on, and close its links; what they held counts as lost.

        Raises:
            NotFound: The node id does not have it (code `unknown_did`).
        """
        path = f"/nodes/{path_segment(node_id)}/dids/{path_segment(did)}/revoke"
        return parse(NodeDidView, await self._json("POST", path))

    async def forget_did(self, node_id: str, did: str) -> None:
        """Delete a DID of a node id; the next link of a node id that has none left decides its DID.

        Raises:
            NotFound: The node id does not have it (code `unknown_did`).
            Conflict: It is linked (code `node_linked`).
        """
        await self._json("DELETE", f"/nodes/{path_segment(node_id)}/dids/{path_segment(did)}")

    async def adapters(self) -> list[AdapterView]:
        """Return the provider/transport pairs."""
        return parse_list(AdapterView, await self._json("GET", "/adapters"), "adapters")

    async def plugins(self) -> list[PluginView]:
        """Return the plugins that the control plane discovered."""
        return parse_list(PluginView, await self._json("GET", "/plugins"), "plugins")

    async def health(self) -> dict[str, Any]:
        """Return the control plane's health report."""
        async with self._request("GET", "/healthz", root=True) as response:
            text = await response.text()
        try:
            value = json.loads(text)
        except ValueError:
            return {"status": text.strip()}
        return value if isinstance(value, dict) else {"status": value}

    # --- inside -------------------------------------------------------------------------------------------------

    async def _pages(self, path: str, token: str | None = None) -> DagView:
        page = parse(DagView, await self._json("GET", path, token=token))
        executions = list(page.executions)
        while page.next is not None:
            page = parse(DagView, await self._json("GET", path, token=token, query={"after": page.next}))
            executions += page.executions
        return page.model_copy(update={"executions": tuple(executions), "next": None})


def _execute_body(values: Mapping[str, Any] | None, timeout: float | None, **more: float) -> dict[str, Any]:
    given = {name: value for name, value in more.items() if value}
    data = jsonable(dict(values or {}), name="input", untyped="keep")
    return _body(ExecuteRequest, input=data, timeout=timeout, **given)


def _body(model: type[BaseModel], /, **values: Any) -> dict[str, Any]:
    """Return a request body, checked before it is sent."""
    return make_request(model, **values).model_dump(mode="json", exclude_none=True, exclude_unset=True)


def _sdp(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            "The offer holds half of a surrogate pair, which is no text.", code="unrepresentable", field="sdp"
        ) from None
