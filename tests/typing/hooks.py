"""Hooks as plugins write them; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_type

from agentfield.errors import Forbidden
from agentfield.plugins import (
    PLUGIN_API,
    Manifest,
    Proceed,
    RecordedEvent,
    SessionRequest,
    ToolCall,
    ToolMiddleware,
    hookimpl,
)


@hookimpl
def agentfield_manifest() -> Manifest:
    return Manifest(api=PLUGIN_API)


@hookimpl
async def agentfield_session_authorize(request: SessionRequest) -> None:
    if request.caller is None or "vip" not in request.tags or request.evidence is not None:
        raise Forbidden("no")


async def plain(call: ToolCall, proceed: Proceed) -> Any:
    return await proceed(call.with_input({**call.input, "x": 1}))


class Ordered:
    order = -1

    async def __call__(self, call: ToolCall, proceed: Proceed) -> str:
        return f"{call.kind} {await proceed(call)}"


@hookimpl
def agentfield_tool_middleware() -> Iterable[ToolMiddleware]:
    return plain, Ordered()


@hookimpl
async def agentfield_dag_event(event: RecordedEvent) -> None:
    assert_type((event.run_id, event.seq, event.session_id), tuple[str, int, str | None])
