"""Whether a session may start: every plugin has to say yes in time; whatever else happens is a no."""

from __future__ import annotations

import asyncio
import logging

from agentfield.errors import AgentFieldError, Forbidden
from agentfield.plugins.hooks import Implementation, SessionRequest
from agentfield.plugins.registry import Registry

__all__ = ["DEADLINE", "Gate"]

DEADLINE = 2.0
"""Seconds that all plugins together have for one start; they are asked at the same time."""

_LAST_WORDS = 1.0

_log = logging.getLogger("agentfield.plugins")


class Gate:
    """Asks `agentfield_session_authorize` of every plugin.

    Args:
        registry: The plugins.
        deadline: Seconds for an answer.
    """

    def __init__(self, registry: Registry, *, deadline: float = DEADLINE) -> None:
        self._asked = registry.implementations("agentfield_session_authorize")
        self._deadline = deadline
        self._late: set[asyncio.Task[AgentFieldError | None]] = set()

    async def admit(self, request: SessionRequest) -> None:
        """Return when every plugin lets a session start.

        Raises:
            Forbidden: One does not, failed, or did not answer in time (code `session_refused`); of several the first by
                name is told of.
        """
        if not self._asked:
            return
        tasks = {
            asyncio.create_task(self._ask(each, request), name=f"{each.plugin} {each.hook}"): each
            for each in self._asked
        }
        try:
            # not a timeout around them: one that will not be cancelled is left behind, and the session is refused in time
            await asyncio.wait(tasks, timeout=self._deadline)
        except asyncio.CancelledError:
            for task in tasks:
                self._stop(task)
            raise
        answers = [self._answer(task, each) for task, each in tasks.items()]
        if (refusal := next(filter(None, answers), None)) is not None:
            raise refusal

    async def close(self) -> None:
        """Wait a moment for plugins that did not stop when they were told to."""
        if self._late:
            await asyncio.wait(self._late, timeout=_LAST_WORDS)

    async def _ask(self, each: Implementation, request: SessionRequest) -> AgentFieldError | None:
        try:
            answer = await each(request)
        except AgentFieldError as error:
            _log.info("plugin %s refused a session of %s: %s", each.plugin, request.target, error.message)
            return _refused(each, f"The plugin {each.plugin!r} refused the session: {error.message}", error.hint)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's code raises is a no
            _log.error("plugin.hook_failed plugin=%s hook=%s", each.plugin, each.hook, exc_info=error)
        else:
            if answer is None:
                return None
            # somebody who returns False means no, and somebody who returns True must not learn that this works
            _log.error("plugin.hook_failed plugin=%s hook=%s: it returned %r", each.plugin, each.hook, answer)
        return _undecided(each, "failed to decide")

    def _answer(self, task: asyncio.Task[AgentFieldError | None], each: Implementation) -> AgentFieldError | None:
        if not task.done():
            self._stop(task)
            _log.error(
                "plugin.hook_failed plugin=%s hook=%s: no answer in %g s", each.plugin, each.hook, self._deadline
            )
            return _undecided(each, f"did not decide within {self._deadline:g} s")
        if task.cancelled():
            _log.error("plugin.hook_failed plugin=%s hook=%s: it cancelled itself", each.plugin, each.hook)
            return _undecided(each, "failed to decide")
        return task.result()

    def _stop(self, task: asyncio.Task[AgentFieldError | None]) -> None:
        if task.cancel():
            self._late.add(task)
            task.add_done_callback(self._late.discard)


def _undecided(each: Implementation, what: str) -> AgentFieldError:
    return _refused(
        each,
        f"The plugin {each.plugin!r} {what} whether the session may start, so it may not.",
        f"see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS={each.plugin}",
    )


def _refused(each: Implementation, message: str, hint: str | None) -> AgentFieldError:
    return Forbidden(message, code="session_refused", hint=hint, plugin=each.plugin)
