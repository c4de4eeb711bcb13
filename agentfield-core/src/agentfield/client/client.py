"""The calls of the control plane's REST interface, one method each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentfield.client.connection import ANSWER, part, read, read_list
from agentfield.client.streams import SessionStreams
from agentfield.errors import ExecutionTimeout
from agentfield.schema import jsonable
from agentfield.wire.rest import (
    AdapterView,
    ApprovalView,
    CompactView,
    DagView,
    DecisionRequest,
    DeliveryStatus,
    DeliveryView,
    ExchangeResponse,
    ExecuteRequest,
    ExecutionView,
    NodeView,
    PluginView,
    PruneRequest,
    PruneView,
    SessionView,
    StartRequest,
    StartResponse,
    StatusView,
    StoreView,
    WebhookRequest,
    WebhookView,
)

__all__ = ["ControlPlaneClient"]

_WAIT: Final = 30.0
"""Seconds that the control plane holds an answer back while an execution goes on."""
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "timeout"})


class ControlPlaneClient(SessionStreams):
    """The control plane at `url`; an async context manager.

    Args:
        url: Its address, by default the one that `discover_url` finds.
        api_key: Its key, by default ``AGENTFIELD_API_KEY``.

    Every method raises the `AgentFieldError` that the control plane answered with, and `ControlPlaneUnavailable` when
    it does not answer.
    """

    # --- executions ---------------------------------------------------------------------------------------------

    async def execute(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the word of the wire
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Run a target and wait until it ended; look at `status` for how."""
        body = _execute_body(input, timeout)
        wait = None if timeout is None else timeout + ANSWER
        value = await self._json(
            "POST", f"/execute/{part(target)}", body=body, idempotency_key=idempotency_key, seconds=wait
        )
        return read(ExecutionView, value)

    async def execute_async(
        self,
        target: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 -- the word of the wire
        *,
        timeout: float | None = None,  # noqa: ASYNC109 -- the control plane enforces it
        priority: int = 0,
        delay: float = 0,
        idempotency_key: str | None = None,
    ) -> ExecutionView:
        """Begin to run a target; the answer comes once that is committed.

        Args:
            target: ``node.name``.
            input: Its input.
            timeout: Seconds it may take.
            priority: From -10 to 10, higher goes first where work has to wait.
            delay: Seconds before which it does not start.
            idempotency_key: A name of the request: a second one with it returns the first execution.
        """
        body = _execute_body(input, timeout, priority=priority, delay=delay)
        value = await self._json("POST", f"/execute/async/{part(target)}", body=body, idempotency_key=idempotency_key)
        return read(ExecutionView, value)

    async def get_execution(self, execution_id: str) -> ExecutionView:
        """Return an execution as it is now."""
        return read(ExecutionView, await self._json("GET", f"/executions/{part(execution_id)}"))

    async def wait_execution(self, execution_id: str, *, timeout: float | None = None) -> ExecutionView:  # noqa: ASYNC109
        """Return an execution once it ended.

        Raises:
            ExecutionTimeout: It had not ended after `timeout` seconds; it goes on.
        """
        path, query = f"/executions/{part(execution_id)}", {"wait": f"{_WAIT:g}"}
        try:
            async with asyncio.timeout(timeout):
                while True:
                    value = await self._json("GET", path, query=query, seconds=_WAIT + ANSWER)
                    execution = read(ExecutionView, value)
                    if execution.status in _ENDED:
                        return execution
        except TimeoutError as error:
            raise ExecutionTimeout(
                f"{execution_id} had not ended after {timeout:g} seconds; it goes on.", execution_id=execution_id
            ) from error

    async def executions_status(self, execution_ids: Sequence[str]) -> StatusView:
        """Return where up to 500 executions stand, in one answer."""
        body = {"ids": list(execution_ids)}
        return read(StatusView, await self._json("POST", "/executions/status", body=body))

    async def cancel_execution(self, execution_id: str, *, tree: bool = True) -> None:
        """Cancel an execution and, with `tree`, what it called."""
        await self._json("POST", f"/executions/{part(execution_id)}/cancel", body={"tree": tree})

    async def cancel_run(self, run_id: str) -> int:
        """Cancel every open call of a run; returns how many there were."""
        value = await self._json("POST", f"/workflows/{part(run_id)}/cancel", body={})
        return int(value["cancelled"])

    # --- approvals ----------------------------------------------------------------------------------------------

    async def list_approvals(self, status: str | None = None) -> list[ApprovalView]:
        """Return what waits for a human, or did, newest first."""
        query = {"status": status} if status else None
        return read_list(ApprovalView, await self._json("GET", "/approvals", query=query), "approvals")

    async def get_approval(self, approval_id: str) -> ApprovalView:
        """Return an approval as it is now."""
        return read(ApprovalView, await self._json("GET", f"/approvals/{part(approval_id)}"))

    async def decide(self, approval_id: str, request: DecisionRequest) -> ApprovalView:
        """Approve, reject, or ask for changes; the execution goes on."""
        body = request.model_dump(mode="json", exclude_none=True)
        return read(ApprovalView, await self._json("POST", f"/approvals/{part(approval_id)}/decision", body=body))

    # --- webhooks -----------------------------------------------------------------------------------------------

    async def add_webhook(self, request: WebhookRequest) -> WebhookView:
        """Tell an address of events; the answer has the secret, this once."""
        return read(WebhookView, await self._json("POST", "/webhooks", body=request.model_dump(mode="json")))

    async def list_webhooks(self) -> list[WebhookView]:
        """Return the webhooks, without their secrets."""
        return read_list(WebhookView, await self._json("GET", "/webhooks"), "webhooks")

    async def remove_webhook(self, webhook_id: str) -> None:
        """Forget a webhook and what is on its way to it."""
        await self._json("DELETE", f"/webhooks/{part(webhook_id)}")

    async def deliveries(self, webhook_id: str, status: DeliveryStatus | None = None) -> list[DeliveryView]:
        """Return what was sent to a webhook, or is to be, newest first."""
        query = {"status": status} if status else None
        value = await self._json("GET", f"/webhooks/{part(webhook_id)}/deliveries", query=query)
        return read_list(DeliveryView, value, "deliveries")

    async def redrive(self, webhook_id: str) -> int:
        """Try what was given up again; returns how much there was."""
        value = await self._json("POST", f"/webhooks/{part(webhook_id)}/redrive", body={})
        return int(value["redriven"])

    # --- the store ----------------------------------------------------------------------------------------------

    async def store_stats(self) -> StoreView:
        """Return how large the store is and what is in it."""
        return read(StoreView, await self._json("GET", "/store"))

    async def prune_store(self, request: PruneRequest) -> PruneView:
        """Do one round of taking old runs away; `next` as `after` continues."""
        return read(PruneView, await self._json("POST", "/store/prune", body=request.model_dump(mode="json")))

    async def compact_store(self) -> CompactView:
        """Give some free room back to the disk; go on while pages are left."""
        return read(CompactView, await self._json("POST", "/store/compact", body={}))

    # --- runs ---------------------------------------------------------------------------------------------------

    async def dag(self, run_id: str) -> DagView:
        """Return the whole graph of a run."""
        return await self._pages(f"/workflows/{part(run_id)}/dag")

    # --- sessions -----------------------------------------------------------------------------------------------

    async def start_session(self, request: StartRequest, *, idempotency_key: str | None = None) -> StartResponse:
        """Create a session that waits for its caller."""
        body = request.model_dump(mode="json", exclude_none=True)
        return read(StartResponse, await self._json("POST", "/sessions", body=body, idempotency_key=idempotency_key))

    async def offer(self, session_id: str, sdp: str, token: str | None = None) -> str:
        """Exchange a WebRTC offer for the provider's answer; both are SDP."""
        async with self._request(
            "POST",
            f"/sessions/{part(session_id)}/offer",
            token=token,
            data=sdp.encode(),
            headers={"Content-Type": "application/sdp"},
        ) as response:
            return await response.text()

    async def send_input(self, session_id: str, text: str, token: str | None = None) -> None:
        """Say something to a session in writing, as its caller."""
        await self._json("POST", f"/sessions/{part(session_id)}/input", body={"text": text}, token=token)

    async def end_session(self, session_id: str, reason: str | None = None, token: str | None = None) -> None:
        """End a session: as the operator, or with its browser token as its caller who hangs up."""
        body = {"reason": reason} if reason else {}
        await self._json("POST", f"/sessions/{part(session_id)}/end", body=body, token=token)

    async def list_sessions(self) -> list[SessionView]:
        """Return the sessions that the control plane knows, newest first."""
        return read_list(SessionView, await self._json("GET", "/sessions"), "sessions")

    async def get_session(self, session_id: str, token: str | None = None) -> SessionView:
        """Return a session as it is now."""
        return read(SessionView, await self._json("GET", f"/sessions/{part(session_id)}", token=token))

    async def workflow(self, session_id: str, token: str | None = None) -> DagView:
        """Return the whole graph of a session's run."""
        return await self._pages(f"/sessions/{part(session_id)}/workflows", token=token)

    async def exchange(self, code: str) -> ExchangeResponse:
        """Return what a page gets for the one-time code in its address."""
        return read(ExchangeResponse, await self._json("POST", "/sessions/exchange", body={"code": code}))

    # --- the rest -----------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeView]:
        """Return the instances of nodes that the control plane knows."""
        return read_list(NodeView, await self._json("GET", "/nodes"), "nodes")

    async def drain(self, name: str) -> list[NodeView]:
        """Let an instance, or all linked instances of a node, end when what they have is done; returns at once.

        Raises:
            NotFound: None of that name is linked (code `unknown_node`).
        """
        return read_list(NodeView, await self._json("POST", f"/nodes/{part(name)}/drain"), "nodes")

    async def adapters(self) -> list[AdapterView]:
        """Return the matrix of pairs."""
        return read_list(AdapterView, await self._json("GET", "/adapters"), "adapters")

    async def plugins(self) -> list[PluginView]:
        """Return the plugins that the control plane found."""
        return read_list(PluginView, await self._json("GET", "/plugins"), "plugins")

    async def health(self) -> dict[str, Any]:
        """Return what the control plane says of itself."""
        async with self._request("GET", "/healthz", root=True) as response:
            text = await response.text()
        try:
            value = json.loads(text)
        except ValueError:
            return {"status": text.strip()}
        return value if isinstance(value, dict) else {"status": value}

    # --- inside -------------------------------------------------------------------------------------------------

    async def _pages(self, path: str, token: str | None = None) -> DagView:
        page = read(DagView, await self._json("GET", path, token=token))
        executions = list(page.executions)
        while page.next is not None:
            page = read(DagView, await self._json("GET", path, token=token, query={"after": page.next}))
            executions += page.executions
        return page.model_copy(update={"executions": tuple(executions), "next": None})


def _execute_body(values: Mapping[str, Any] | None, timeout: float | None, **more: float) -> dict[str, Any]:
    given = {name: value for name, value in more.items() if value}
    request = ExecuteRequest(input=jsonable(dict(values or {}), what="input"), timeout=timeout, **given)
    return request.model_dump(mode="json", exclude_none=True, exclude_unset=True)
