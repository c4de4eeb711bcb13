"""Specifications of the hooks that a plugin may implement; `docs/hooks.md` describes each with an example.

Except for `agentfield_manifest`, only the control plane calls them, in its event loop. An implementation may omit the
argument. It must be ``async`` exactly if its specification is.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pluggy

from agentfield.plugins.hooks.arguments import HookRuntime, RecordedEvent, SessionRequest, ToolMiddleware
from agentfield.plugins.manifest.spec import Manifest

__all__ = ["OBSERVER_HOOKS", "PROJECT_NAME", "PluginHooks", "hookimpl"]

PROJECT_NAME = "agentfield"

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)
"""Marks a function of a plugin as the implementation of the hook with its name."""

OBSERVER_HOOKS = (
    "agentfield_session_started",
    "agentfield_session_turn",
    "agentfield_session_ended",
    "agentfield_execution_started",
    "agentfield_execution_finished",
    "agentfield_dag_event",
)
"""Hooks without a result: each implementation has its own queue, and nothing waits for it."""


class PluginHooks(Protocol):
    """All hooks; each docstring says when the hook is called and what it may do."""

    @hookspec
    def agentfield_manifest(self) -> Manifest:
        """Return the manifest of the plugin; called once at discovery, must import nothing heavy."""

    @hookspec
    def agentfield_lifespan(self, runtime: HookRuntime) -> AbstractAsyncContextManager[object]:
        """Return an async context manager: entered before a control plane starts, exited after it has stopped, in one task.

        A plugin that fails to enter, or takes longer than 20 s, prevents the start: its other hooks rely on it.
        """

    @hookspec
    def agentfield_tool_middleware(self) -> Iterable[ToolMiddleware]:
        """Return the tool middleware of the plugin; called once, when a control plane starts.

        A plugin that raises here, or returns something else, prevents the start: without it calls would pass unchecked.
        """

    @hookspec
    async def agentfield_session_authorize(self, request: SessionRequest) -> None:
        """Authorize a session; called at each start, before anything of it is stored.

        All plugins must return None within 2 s. Anything else refuses the session.

        Raises:
            Forbidden: The session is refused; its starter gets the message.
        """

    @hookspec
    async def agentfield_session_started(self, event: RecordedEvent) -> None:
        """Observe a started session (`session.created`); its caller has not connected yet."""

    @hookspec
    async def agentfield_session_turn(self, event: RecordedEvent) -> None:
        """Observe a turn of the caller, spoken or typed (`turn.committed`)."""

    @hookspec
    async def agentfield_session_ended(self, event: RecordedEvent) -> None:
        """Observe the end of a session (`session.state` with the state ``ended`` and the reason)."""

    @hookspec
    async def agentfield_execution_started(self, event: RecordedEvent) -> None:
        """Observe the start of an execution on a node (`execution.started`), once for each attempt; not only of sessions."""

    @hookspec
    async def agentfield_execution_finished(self, event: RecordedEvent) -> None:
        """Observe the end of an execution (`execution.ended`, of the kinds ``tool`` and ``call``), whatever its outcome."""

    @hookspec
    async def agentfield_dag_event(self, event: RecordedEvent) -> None:
        """Observe each recorded event of each run; for exporters and audit."""
