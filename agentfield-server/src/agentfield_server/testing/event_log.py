"""The events of one session, collected from its event stream, and a condition to wait for more of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.wire.rest import ExecutionView

__all__ = ["SessionEventLog"]

_LIVE_KEPT = 1000

T = TypeVar("T")


class SessionEventLog:
    """Collects the events of a session while its context is open.

    Args:
        client: The control plane.
        session_id: The session.
    """

    def __init__(self, client: ControlPlaneClient, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self.recorded: list[dict[str, Any]] = []
        """The recorded events, in order."""
        self.live: deque[dict[str, Any]] = deque(maxlen=_LIVE_KEPT)
        """The newest live events, which the store does not record."""
        self._changed = asyncio.Condition()
        self._version = 0
        self._task: asyncio.Task[None] | None = None
        self._wake_tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow(), name=f"events of {self._session_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._task, *self._wake_tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the bodies of the recorded events of some kinds, in order."""
        return [event["body"] for event in self.recorded if event["type"] in kinds]

    @property
    def end(self) -> str | None:
        """Reason of the session's end, None while it runs."""
        return next((str(body["reason"]) for body in self.of("session.state") if body.get("state") == "ended"), None)

    async def executions(self) -> list[ExecutionView]:
        """Return the executions of the session as they are now."""
        rows = (await self._client.workflow(self._session_id)).executions
        return [await self._client.get_execution(row.id) if row.left_out else row for row in rows]

    async def wait(self, look: Callable[[], Awaitable[T | None]], within: float) -> T | None:
        """Call `look` after each event until it returns a value; return None when `within` seconds have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    seen = self._version
                    if (found := await look()) is not None:
                        return found
                    async with self._changed:
                        await self._changed.wait_for(lambda seen=seen: self._version != seen)  # type: ignore[misc]
        return None

    def wake(self) -> None:
        """Let all waiters look again without a new event."""
        task = asyncio.get_running_loop().create_task(self._notify())
        self._wake_tasks.add(task)
        task.add_done_callback(self._wake_tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def _follow(self) -> None:
        with suppress(AgentFieldError):
            async for event in self._client.session_events(self._session_id):
                (self.recorded if "seq" in event else self.live).append(event)
                await self._notify()
