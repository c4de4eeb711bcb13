"""Plugins that look on: each implementation of a hook has a queue of its own, and nothing that happens waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from agentfield.plugins.hooks import Implementation, RecordedEvent
from agentfield.plugins.hookspecs import OBSERVERS
from agentfield.plugins.registry import Registry

__all__ = ["DEADLINE", "DRAIN", "QUEUE", "Counts", "Observers"]

QUEUE = 1000
"""Events that may wait for one implementation; with one more the oldest is dropped."""
DEADLINE = 5.0
"""Seconds for one call."""
DRAIN = 2.0
"""Seconds that all have at the end for what still waits."""

_TOLD_OF = MappingProxyType(
    {
        "session.created": "agentfield_session_started",
        "turn.committed": "agentfield_session_turn",
        "session.state": "agentfield_session_ended",
        "execution.started": "agentfield_execution_started",
        "execution.ended": "agentfield_execution_finished",
    }
)
"""The hook of a type of event, beside `agentfield_dag_event`, which is told of all."""

_log = logging.getLogger("agentfield.plugins")


@dataclass(slots=True)
class Counts:
    """What became of the events for one implementation."""

    delivered: int = 0
    failed: int = 0
    """Calls that raised."""
    late: int = 0
    """Calls that were given up at their deadline."""
    dropped: int = 0
    """Events that were pushed out of the queue."""


class Observers:
    """Feeds the observers of a registry. An asynchronous context manager that owns a task for each implementation.

    Args:
        registry: The plugins.
        size: Events that may wait for one implementation.
        deadline: Seconds for one call.
        drain: Seconds for what still waits at the end.
    """

    def __init__(
        self, registry: Registry, *, size: int = QUEUE, deadline: float = DEADLINE, drain: float = DRAIN
    ) -> None:
        found = registry.implementations(*OBSERVERS)
        self._all = [_Observer(each, size=size, deadline=deadline) for each in found]
        everything = tuple(one for one in self._all if one.hook == "agentfield_dag_event")
        self._everything = everything
        self._of = {
            kind: (*(one for one in self._all if one.hook == hook), *everything) for kind, hook in _TOLD_OF.items()
        }
        self._drain = drain
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> dict[tuple[str, str], Counts]:
        """What became of the events, by plugin and hook."""
        return {(one.what.plugin, one.hook): one.counts for one in self._all}

    def feed(self, kind: str, data: bytes) -> None:
        """Take a recorded event; enqueues and returns.

        Args:
            kind: Its type.
            data: The event as JSON, as it is served.
        """
        for one in self._of.get(kind, self._everything):
            one.put(data)

    async def __aenter__(self) -> Self:
        """Start."""
        self._tasks = {asyncio.create_task(one.run(), name=f"{one.what.plugin} {one.hook}") for one in self._all}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give all a moment for what waits, then stop them."""
        for one in self._all:
            one.finish()
        if not self._tasks:
            return
        _, busy = await asyncio.wait(self._tasks, timeout=self._drain)
        for task in busy:
            task.cancel()
        if busy:
            await asyncio.wait(busy, timeout=self._drain)
        for one in self._all:
            one.count_left()


class _Observer:
    """One implementation with its queue."""

    def __init__(self, what: Implementation, *, size: int, deadline: float) -> None:
        self.what = what
        self.hook = what.hook
        self.counts = Counts()
        self._waiting: deque[bytes] = deque(maxlen=size)
        self._size = size
        self._deadline = deadline
        self._ready = asyncio.Event()
        self._finishing = False
        self._told = 0
        """Dropped events that the log knows of."""

    def put(self, data: bytes) -> None:
        """Enqueue; what has waited longest goes when there is no room."""
        if len(self._waiting) == self._size:
            self.counts.dropped += 1
        self._waiting.append(data)
        self._ready.set()

    def finish(self) -> None:
        """End once nothing waits."""
        self._finishing = True
        self._ready.set()

    def count_left(self) -> None:
        """Count what nobody will take any more."""
        self.counts.dropped += len(self._waiting)
        self._waiting.clear()
        self._tell_dropped()

    async def run(self) -> None:
        """Call the plugin for one event after the other."""
        while True:
            while self._waiting:
                self._tell_dropped()
                event = _read(self._waiting.popleft(), self.hook)
                if event is not None:
                    await self._call(event)
                # also a plugin that never waits for anything lets others have their turn
                await asyncio.sleep(0)
            if self._finishing:
                return
            self._ready.clear()
            await self._ready.wait()

    async def _call(self, event: RecordedEvent) -> None:
        clock = asyncio.timeout(self._deadline)
        try:
            async with clock:
                await self.what(event)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._failed("it cancelled itself", None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a stranger's code raises stays with it
            if clock.expired():
                self.counts.late += 1
                _log.error(
                    "plugin.hook_failed plugin=%s hook=%s: no answer in %g s",
                    self.what.plugin,
                    self.hook,
                    self._deadline,
                )
            else:
                self._failed(type(error).__name__, error)
        else:
            self.counts.delivered += 1

    def _failed(self, why: str, error: BaseException | None) -> None:
        self.counts.failed += 1
        _log.error("plugin.hook_failed plugin=%s hook=%s: %s", self.what.plugin, self.hook, why, exc_info=error)

    def _tell_dropped(self) -> None:
        count = self.counts.dropped - self._told
        if count:
            self._told = self.counts.dropped
            _log.warning(
                "plugin.events_dropped plugin=%s hook=%s: %d, %d in all; it is slower than what happens",
                self.what.plugin,
                self.hook,
                count,
                self._told,
            )


def _read(data: bytes, hook: str) -> RecordedEvent | None:
    """Return an event for a hook, None when the hook is not told of it; each observer has a copy of its own."""
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
