"""The hooks that a plugin may implement; `docs/hooks.md` has a page of each, with an example.

All but `agentfield_manifest` are called by the control plane only, in its event loop. An implementation may leave the
argument away. A hook that is ``async`` here must be ``async`` in a plugin, the others must not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pluggy

from agentfield.plugins.hooks import RecordedEvent, SessionRequest, ToolMiddleware
from agentfield.plugins.spec import Manifest

__all__ = ["OBSERVERS", "PROJECT", "PluginHooks", "hookimpl"]

PROJECT = "agentfield"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin module as the implementation of the hook of that name."""

OBSERVERS = (
    "agentfield_session_started",
    "agentfield_session_turn",
    "agentfield_session_ended",
    "agentfield_execution_started",
    "agentfield_execution_finished",
    "agentfield_dag_event",
)
"""The hooks that only look on: each implementation has a queue of its own, nothing waits for it."""


class PluginHooks(Protocol):
    """The hooks, each with when it is called and what it may do."""

    @hookspec
    def agentfield_manifest(self) -> Manifest:
        """Return what the plugin brings; called once at discovery, must import nothing heavy."""

    @hookspec
    def agentfield_tool_middleware(self) -> Iterable[ToolMiddleware]:
        """Return what stands between sessions and what they call; called once, when a control plane starts.

        A plugin that raises here, or returns something else, keeps the control plane from starting: without it calls
        would pass unchecked.
        """

    @hookspec
    async def agentfield_session_authorize(self, request: SessionRequest) -> None:
        """Decide whether a session may start; called at each start, before anything of it is written.

        Every plugin has to let it pass, within 2 s, by returning nothing. Anything else refuses the session.

        Raises:
            Forbidden: It may not; whoever starts it is told the message.
        """

    @hookspec
    async def agentfield_session_started(self, event: RecordedEvent) -> None:
        """A session was started (`session.created`); its caller is not there yet."""

    @hookspec
    async def agentfield_session_turn(self, event: RecordedEvent) -> None:
        """The caller has said or typed something (`turn.committed`)."""

    @hookspec
    async def agentfield_session_ended(self, event: RecordedEvent) -> None:
        """A session has ended (`session.state` with the state ``ended`` and the reason)."""

    @hookspec
    async def agentfield_execution_started(self, event: RecordedEvent) -> None:
        """A node has begun with a call (`execution.started`), of a session or not; once for each attempt."""

    @hookspec
    async def agentfield_execution_finished(self, event: RecordedEvent) -> None:
        """A call is closed (`execution.ended`, of the kinds ``tool`` and ``call``), however it went."""

    @hookspec
    async def agentfield_dag_event(self, event: RecordedEvent) -> None:
        """Anything was recorded in the log of any run: for exporters and audit."""
