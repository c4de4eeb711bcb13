"""Observer hooks: each implementation has its own queue and task, and nothing waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from agentfield.plugins.hooks.arguments import RecordedEvent
from agentfield.plugins.hooks.hookspecs import OBSERVER_HOOKS
from agentfield.plugins.hooks.implementations import HookImplementation, HookRegistry

__all__ = ["CALL_TIMEOUT", "DRAIN_TIMEOUT", "QUEUE_SIZE", "DeliveryCounts", "ObserverDispatcher"]

QUEUE_SIZE = 1000
"""Maximum queued events of one implementation; one more drops the oldest."""
CALL_TIMEOUT = 5.0
"""Seconds for one call."""
DRAIN_TIMEOUT = 2.0
"""Seconds that all implementations have at the end for their queued events."""

_HOOK_OF = MappingProxyType(
    {
        "session.created": "agentfield_session_started",
        "turn.committed": "agentfield_session_turn",
        "session.state": "agentfield_session_ended",
        "execution.started": "agentfield_execution_started",
        "execution.ended": "agentfield_execution_finished",
    }
)
"""The hook of an event type, besides `agentfield_dag_event`, which gets all events."""

_log = logging.getLogger("agentfield.plugins")


@dataclass(slots=True)
class DeliveryCounts:
    """Outcomes of one implementation's events."""

    delivered: int = 0
    failed: int = 0
    """Calls that raised."""
    late: int = 0
    """Calls that were cancelled at their timeout."""
    dropped: int = 0
    """Events dropped from a full queue, or left in it at the end."""


class ObserverDispatcher:
    """Dispatches recorded events to the observer hooks; an async context manager that owns a task for each implementation.

    Args:
        registry: The plugins.
        size: Maximum queued events of one implementation.
        timeout: Seconds for one call.
        drain: Seconds for the queued events at the end.
    """

    def __init__(
        self,
        registry: HookRegistry,
        *,
        size: int = QUEUE_SIZE,
        timeout: float = CALL_TIMEOUT,
        drain: float = DRAIN_TIMEOUT,
    ) -> None:
        found = registry.implementations(*OBSERVER_HOOKS)
        self._observers = [_Observer(each, size=size, timeout=timeout) for each in found]
        dag_observers = tuple(one for one in self._observers if one.hook == "agentfield_dag_event")
        self._dag_observers = dag_observers
        self._by_type = {
            kind: (*(one for one in self._observers if one.hook == hook), *dag_observers)
            for kind, hook in _HOOK_OF.items()
        }
        self._drain = drain
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> dict[tuple[str, str], DeliveryCounts]:
        """Outcomes of events, by plugin and hook."""
        return {(one.implementation.plugin, one.hook): one.counts for one in self._observers}

    def dispatch(self, kind: str, data: bytes) -> None:
        """Queue a recorded event for its observers.

        Args:
            kind: The event type.
            data: The event as the JSON that the API serves.
        """
        for one in self._by_type.get(kind, self._dag_observers):
            one.put(data)

    async def __aenter__(self) -> Self:
        """Start the tasks."""
        self._tasks = {
            asyncio.create_task(one.run(), name=f"{one.implementation.plugin} {one.hook}") for one in self._observers
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain the queues, then cancel the tasks that are still busy."""
        for one in self._observers:
            one.finish()
        if not self._tasks:
            return
        _, busy = await asyncio.wait(self._tasks, timeout=self._drain)
        for task in busy:
            task.cancel()
        if busy:
            await asyncio.wait(busy, timeout=self._drain)
        for one in self._observers:
            one.count_left()


class _Observer:
    """One implementation and its queue."""

    def __init__(self, implementation: HookImplementation, *, size: int, timeout: float) -> None:
        self.implementation = implementation
        self.hook = implementation.hook
        self.counts = DeliveryCounts()
        self._queue: deque[bytes] = deque(maxlen=size)
        self._size = size
        self._timeout = timeout
        self._ready = asyncio.Event()
        self._finishing = False
        self._logged_drops = 0
        """Dropped events that are already logged."""

    def put(self, data: bytes) -> None:
        """Queue an event; a full queue drops its oldest event."""
        if len(self._queue) == self._size:
            self.counts.dropped += 1
        self._queue.append(data)
        self._ready.set()

    def finish(self) -> None:
        """End once the queue is empty."""
        self._finishing = True
        self._ready.set()

    def count_left(self) -> None:
        """Count the events left in the queue as dropped."""
        self.counts.dropped += len(self._queue)
        self._queue.clear()
        self._log_drops()

    async def run(self) -> None:
        """Call the plugin for each event in order."""
        while True:
            while self._queue:
                self._log_drops()
                event = _read(self._queue.popleft(), self.hook)
                if event is not None:
                    await self._call(event)
                # a plugin that never awaits must not starve the event loop
                await asyncio.sleep(0)
            if self._finishing:
                return
            self._ready.clear()
            await self._ready.wait()

    async def _call(self, event: RecordedEvent) -> None:
        timer = asyncio.timeout(self._timeout)
        try:
            async with timer:
                await self.implementation(event)
        except asyncio.CancelledError:
            # cancelling() tells a cancellation of this task from a CancelledError that the plugin raised
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed("it cancelled itself", None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - an exception of a plugin stays within its observer
            if timer.expired():
                self.counts.late += 1
                _log.error(
                    "plugin.hook_failed plugin=%s hook=%s: no answer in %g s",
                    self.implementation.plugin,
                    self.hook,
                    self._timeout,
                )
            else:
                self._failed(type(error).__name__, error)
        else:
            self.counts.delivered += 1

    def _failed(self, why: str, error: BaseException | None) -> None:
        self.counts.failed += 1
        _log.error(
            "plugin.hook_failed plugin=%s hook=%s: %s", self.implementation.plugin, self.hook, why, exc_info=error
        )

    def _log_drops(self) -> None:
        count = self.counts.dropped - self._logged_drops
        if count:
            self._logged_drops = self.counts.dropped
            _log.warning(
                "plugin.events_dropped plugin=%s hook=%s: %d, %d in all; it is slower than what happens",
                self.implementation.plugin,
                self.hook,
                count,
                self._logged_drops,
            )


def _read(data: bytes, hook: str) -> RecordedEvent | None:
    """Return an event for a hook, None when the hook does not get it; each observer gets its own copy."""
    content = json.loads(data)
    body = content["body"]
    if hook == "agentfield_session_ended" and body.get("state") != "ended":
        return None
    if hook == "agentfield_execution_finished" and body.get("kind") not in ("tool", "call"):
        return None
    return RecordedEvent(
        id=content["id"],
        seq=content["seq"],
        type=content["type"],
        at=content["at"],
        run_id=content["run_id"],
        session_id=content["session_id"],
        execution_id=content["execution_id"],
        body=MappingProxyType(body),
    )
