"""Authorization of sessions: all plugins must agree in time; any other outcome refuses the session."""

from __future__ import annotations

import asyncio
import logging

from agentfield.errors import AgentFieldError, Forbidden
from agentfield.plugins.hooks.arguments import SessionRequest
from agentfield.plugins.hooks.implementations import HookImplementation, HookRegistry

__all__ = ["AUTHORIZE_TIMEOUT", "SessionAuthorizer"]

AUTHORIZE_TIMEOUT = 2.0
"""Seconds for all plugins together; they are called concurrently."""

_CLOSE_TIMEOUT = 1.0

_log = logging.getLogger("agentfield.plugins")


class SessionAuthorizer:
    """Calls the hook `agentfield_session_authorize` of all plugins.

    Args:
        registry: The plugins.
        timeout: Seconds for all calls of one session.
    """

    def __init__(self, registry: HookRegistry, *, timeout: float = AUTHORIZE_TIMEOUT) -> None:
        self._implementations = registry.implementations("agentfield_session_authorize")
        self._timeout = timeout
        self._cancelled: set[asyncio.Task[AgentFieldError | None]] = set()

    async def authorize(self, request: SessionRequest) -> None:
        """Authorize a session; return once all plugins agree.

        Raises:
            Forbidden: A plugin refused, failed, or did not return in time (code `session_refused`); of several plugins the
                error of the first by name.
        """
        if not self._implementations:
            return
        tasks = {
            asyncio.create_task(self._call(each, request), name=f"{each.plugin} {each.hook}"): each
            for each in self._implementations
        }
        try:
            # wait() instead of timeout(): a plugin that ignores its cancellation must not delay the refusal
            await asyncio.wait(tasks, timeout=self._timeout)
        except asyncio.CancelledError:
            for task in tasks:
                self._cancel(task)
            raise
        outcomes = [self._outcome(task, each) for task, each in tasks.items()]
        if (refusal := next(filter(None, outcomes), None)) is not None:
            raise refusal

    async def close(self) -> None:
        """Wait up to 1 s for plugins that have not ended after their cancellation."""
        if self._cancelled:
            await asyncio.wait(self._cancelled, timeout=_CLOSE_TIMEOUT)

    async def _call(self, each: HookImplementation, request: SessionRequest) -> AgentFieldError | None:
        try:
            result = await each(request)
        except AgentFieldError as error:
            _log.info("plugin %s refused a session of %s: %s", each.plugin, request.target, error.message)
            return _refused(each, f"The plugin {each.plugin!r} refused the session: {error.message}", error.hint)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of a plugin refuses
            _log.error("plugin.hook_failed plugin=%s hook=%s", each.plugin, each.hook, exc_info=error)
        else:
            if result is None:
                return None
            # False means no; True is refused as well, so that no plugin relies on a return value
            _log.error("plugin.hook_failed plugin=%s hook=%s: it returned %r", each.plugin, each.hook, result)
        return _undecided(each, "failed to decide")

    def _outcome(self, task: asyncio.Task[AgentFieldError | None], each: HookImplementation) -> AgentFieldError | None:
        if not task.done():
            self._cancel(task)
            _log.error("plugin.hook_failed plugin=%s hook=%s: no answer in %g s", each.plugin, each.hook, self._timeout)
            return _undecided(each, f"did not decide within {self._timeout:g} s")
        if task.cancelled():
            _log.error("plugin.hook_failed plugin=%s hook=%s: it cancelled itself", each.plugin, each.hook)
            return _undecided(each, "failed to decide")
        return task.result()

    def _cancel(self, task: asyncio.Task[AgentFieldError | None]) -> None:
        if task.cancel():
            self._cancelled.add(task)
            task.add_done_callback(self._cancelled.discard)


def _undecided(each: HookImplementation, what: str) -> AgentFieldError:
    return _refused(
        each,
        f"The plugin {each.plugin!r} {what} whether the session may start, so it may not.",
        f"see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS={each.plugin}",
    )


def _refused(each: HookImplementation, message: str, hint: str | None) -> AgentFieldError:
    return Forbidden(message, code="session_refused", hint=hint, plugin=each.plugin)
