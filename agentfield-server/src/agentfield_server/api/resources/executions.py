"""Executions over REST: call and wait, call asynchronously, show, query status, cancel."""

from __future__ import annotations

from aiohttp import web

from agentfield.errors import Conflict, ExecutionTimeout, InvalidInput, error_from_problem
from agentfield.ids import new_id
from agentfield.lossy import http_status
from agentfield.wire.headers import EXECUTION_ID, RUN_ID, WORKFLOW_ID
from agentfield.wire.rest import CancelRequest, ExecuteRequest, ExecutionView, StatusRequest, StatusView
from agentfield.wire.trace_context import TRACEPARENT, parse_traceparent
from agentfield_server.access.ownership import OwnedStore
from agentfield_server.access.principals import PRINCIPAL, Access
from agentfield_server.api.http.bodies import json_reply, problem_reply, read_model
from agentfield_server.api.http.idempotency import idempotency_key
from agentfield_server.api.http.route import Route
from agentfield_server.api.resources.execution_parent import resolve_parent
from agentfield_server.api.resources.views import execution_json, execution_view
from agentfield_server.engine import FINAL, MAX_INPUT, Engine
from agentfield_server.store.records import Execution, NewExecution

__all__ = ["routes"]

_READ: Access = ("caller", "operator", "reader")
_DEFAULT_TIMEOUT = 60.0
_GRACE = 5.0
_MAX_WAIT = 60.0
_MAX_BODY = MAX_INPUT + 64 * 1024


def routes(engine: Engine, store: OwnedStore) -> list[Route]:
    """Return the routes of the resource."""
    return _ExecutionRoutes(engine, store).routes()


class _ExecutionRoutes:
    """The routes of executions."""

    def __init__(self, engine: Engine, store: OwnedStore) -> None:
        self._engine = engine
        self._store = store

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1"
        return [
            Route(
                "POST",
                base + "/execute/{target}",
                self.execute,
                ("caller",),
                "Call a target and wait for its result",
                request=ExecuteRequest,
                response=ExecutionView,
                stream=True,
            ),
            Route(
                "POST",
                base + "/execute/async/{target}",
                self.execute_async,
                ("caller",),
                "Call a target; respond as soon as the call is committed",
                request=ExecuteRequest,
                response=ExecutionView,
            ),
            Route(
                "GET",
                base + "/executions/{execution_id}",
                self.show,
                _READ,
                "Show an execution",
                response=ExecutionView,
                stream=True,
                description="With `wait=SECONDS` (at most 60) the response is sent once it has ended, or after that time.",
            ),
            Route(
                "POST",
                base + "/executions/status",
                self.status,
                _READ,
                "Show the status of many executions",
                request=StatusRequest,
                response=StatusView,
            ),
            Route(
                "POST",
                base + "/executions/{execution_id}/cancel",
                self.cancel,
                ("caller", "operator"),
                "Cancel an execution and its children",
                request=CancelRequest,
                response=ExecutionView,
            ),
        ]

    async def execute(self, request: web.Request) -> web.Response:
        """Call a target; respond with the execution (200) if it succeeded, else with its problem document."""
        new, timeout = await self._read(request, route="execute", default=_DEFAULT_TIMEOUT)
        done = await self._engine.run(new, (timeout or _DEFAULT_TIMEOUT) + _GRACE)
        if done.status == "succeeded":
            return json_reply(execution_json(done), headers=_headers(done))
        response = _failed(done)
        response.headers.update(_headers(done))
        return response

    async def execute_async(self, request: web.Request) -> web.Response:
        """Call a target; respond 202 after the commit."""
        new, _ = await self._read(request, route="execute/async", default=None)
        execution = await self._engine.submit(new)
        headers = {**_headers(execution), "Location": f"/api/v1/executions/{execution.id}"}
        return json_reply(execution_json(execution), status=202, headers=headers)

    async def show(self, request: web.Request) -> web.Response:
        """Show an execution."""
        execution_id, seconds = request.match_info["execution_id"], _seconds(request)
        if seconds:
            execution = await self._engine.wait(execution_id, seconds)
        else:
            execution = await self._engine.find(execution_id)
        return json_reply(execution_json(execution), headers=_headers(execution))

    async def status(self, request: web.Request) -> web.Response:
        """Show the status of many executions, in the order of the request."""
        body = await read_model(request, StatusRequest)
        known = {row.id: row for row in await self._store.get_executions(body.ids)}
        principal = request[PRINCIPAL]
        if not principal.sees_all(_READ):
            owners = {
                run_id: await self._store.owner_of_run(run_id) for run_id in {row.run_id for row in known.values()}
            }
            known = {row.id: row for row in known.values() if owners[row.run_id] == principal.id}
        ids = dict.fromkeys(body.ids)
        return json_reply(
            StatusView(
                executions=tuple(execution_view(known[one], brief=True) for one in ids if one in known),
                unknown=tuple(one for one in ids if one not in known),
            )
        )

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel an execution; respond 409 if it has ended already."""
        body = await read_model(request, CancelRequest)
        execution = await self._engine.cancel(request.match_info["execution_id"], body.reason, tree=body.tree)
        if execution.status != "cancelled":
            raise Conflict(
                f"The execution had ended before: it is {execution.status}.",
                code="already_ended",
                execution_id=execution.id,
                execution_status=execution.status,
            )
        return json_reply(execution_json(execution), headers=_headers(execution))

    async def _read(
        self, request: web.Request, *, route: str, default: float | None
    ) -> tuple[NewExecution, float | None]:
        target = request.match_info["target"]
        body = await read_model(request, ExecuteRequest, max_bytes=_MAX_BODY)
        if body.delay and route == "execute":
            raise InvalidInput(
                "A request that waits for its result cannot be delayed.",
                hint=f"POST /api/v1/execute/async/{target}",
                field="delay",
            )
        parent = await resolve_parent(request, self._store)
        spec_timeout = self._engine.timeout_of(target)
        timeout = body.timeout or spec_timeout or default
        new = NewExecution(
            id=new_id("exe"),
            run_id=parent.run_id,
            kind="call",
            target=target,
            input=body.input,
            parent_id=parent.parent_id,
            session_id=parent.session_id,
            actor_id=parent.actor_id,
            priority=body.priority,
            share=parent.session_id or request[PRINCIPAL].id,
            delay=body.delay,
            timeout=timeout,
            idempotency=idempotency_key(request, route=route, target=target, body=body),
            traceparent=parse_traceparent(request.headers.get(TRACEPARENT)),
            principal=request[PRINCIPAL].id,
        )
        return new, timeout


def _seconds(request: web.Request) -> float:
    """Return the seconds of ``?wait=``; 0 without it.

    Raises:
        InvalidInput: It is not a number from 0 to 60.
    """
    try:
        seconds = float(request.query.get("wait", "0"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_WAIT:
        raise InvalidInput(f"wait is a number of seconds from 0 to {_MAX_WAIT:g}.", hint="wait=30", field="wait")
    return seconds


def _failed(execution: Execution) -> web.Response:
    """Return the problem document of an execution that failed, or is still open."""
    if execution.status not in FINAL:
        late = ExecutionTimeout(f"{execution.target} has not answered yet.", hint="ask for it by its id")
        problem = late.to_problem()
    else:
        problem = dict(execution.problem or {"code": "execution_failed", "detail": f"{execution.target} failed."})
    context = {"execution_id": execution.id, "run_id": execution.run_id, "target": execution.target}
    if "status" in problem:
        problem["status"] = http_status(problem["status"])
    return problem_reply(error_from_problem({**problem, **context}))


def _headers(execution: Execution) -> dict[str, str]:
    return {EXECUTION_ID: execution.id, RUN_ID: execution.run_id, WORKFLOW_ID: execution.run_id}
