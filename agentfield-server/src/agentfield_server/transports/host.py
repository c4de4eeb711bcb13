"""One transport of a plugin: entered once, by the task that also leaves it; what it raises or hangs in stays its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from agentfield.errors import PluginBroken, Unavailable
from agentfield.plugins import TransportInfo
from agentfield.plugins.registry import load_attribute
from agentfield.realtime.transport import Transport, TransportRuntime

__all__ = ["TransportHost"]

_log = logging.getLogger("agentfield.transports")

_ENTER_WAIT = 20.0
"""Seconds that a factory may take until the transport can serve."""
_LEAVE_WAIT = 5.0
_CANCEL_WAIT = 2.0
_AGAIN = 5
"""Seconds after a factory failed in which it is not tried again."""

T = TypeVar("T")


class TransportHost:
    """Holds a transport: enters its factory at first use, runs what it does, leaves it at shutdown.

    A failure to enter is told to all who wait for it; somebody who comes later is the next try.

    Args:
        info: What the plugin declares.
        runtime: What its factory is given.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self, info: TransportInfo, runtime: TransportRuntime, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.info = info
        self._runtime = runtime
        self._clock = clock
        self._ready: asyncio.Future[Transport] | None = None
        self._life: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._stop = asyncio.Event()
        self._not_before = 0.0

    async def get(self) -> Transport:
        """Return the transport; the first one who asks makes it enter.

        Raises:
            Unavailable: Its factory failed or is not done in time (code `transport_not_ready`), or this process stops.
        """
        if self._closed:
            raise _stopping()
        if self._ready is None:
            if self._clock() < self._not_before:
                raise self._not_ready("failed a moment ago")
            self._ready = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self._ready), name=f"transport {self.info.name}")
        try:
            async with asyncio.timeout(_ENTER_WAIT):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise self._not_ready(f"is not done after {_ENTER_WAIT:g} s") from None

    async def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Return what a piece of the transport's code returns.

        Args:
            work: The code, not begun yet.
            seconds: How long it may take; what goes on in spite of being cancelled then is waited for at shutdown only.

        Raises:
            TimeoutError: It took longer.
            Exception: What it raises. An attempt to exit, and a cancellation that nobody asked for, is a `PluginBroken`.
        """
        task = asyncio.create_task(self.contained(work), name=f"transport {self.info.name} at work")
        self._calls.add(task)
        task.add_done_callback(self._done)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        finally:
            task.cancel()
        if not done:
            raise TimeoutError
        return task.result()

    async def contained(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a piece of the transport's code in the task of the caller; it can end neither this process nor the task."""
        try:
            return await work
        except SystemExit as error:
            raise PluginBroken(f"the transport {self.info.name} asked to exit") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise PluginBroken(f"the transport {self.info.name} cancelled itself") from error

    async def close(self) -> None:
        """Stop what it does and leave the transport; idempotent."""
        self._closed = True
        for task in self._calls:
            task.cancel()
        # what still uses the transport goes before it
        stopped = await _over(self._calls, _CANCEL_WAIT)
        self._stop.set()
        if self._life is not None:
            if self._ready is None or not self._ready.done():
                self._life.cancel()
            if not await _over({self._life}, _LEAVE_WAIT):
                self._life.cancel()
                stopped = await _over({self._life}, _CANCEL_WAIT) and stopped
        if not stopped:
            _log.error("the transport %s does not stop; it is left behind", self.info.name)

    # --- inside

    async def _live(self, ready: asyncio.Future[Transport]) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(_ENTER_WAIT):
                    transport = await stack.enter_async_context(load_attribute(self.info.factory or "")(self._runtime))
                self._check(transport)
                ready.set_result(transport)
                await self._stop.wait()
        except asyncio.CancelledError:
            _refuse(ready, _stopping())
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code may raise anything
            # who asks may be anybody: the reason goes to the log only
            _log.error("the transport %s failed", self.info.name, exc_info=error)
            if not ready.done():
                self._not_before, self._ready = self._clock() + _AGAIN, None
                _refuse(ready, self._not_ready("failed"))

    def _check(self, transport: object) -> None:
        wanted = {route.handler for route in self.info.routes}
        if any(route.access == "verified" for route in self.info.routes):
            wanted.add("verify")
        missing = sorted(name for name in wanted if not callable(getattr(transport, name, None)))
        if missing:
            raise PluginBroken(f"it has no method {', '.join(missing)}, which its manifest names")

    def _not_ready(self, why: str) -> Unavailable:
        return Unavailable(
            f"The transport {self.info.name} cannot serve: its factory {why}.",
            code="transport_not_ready",
            hint="look into the control plane's log and try again",
            transport=self.info.name,
            retry_after=_AGAIN,
        )

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("the transport %s failed at a request", self.info.name)


async def _over(tasks: Iterable[asyncio.Task[Any]], seconds: float) -> bool:
    """Wait for tasks so long at most; tell whether all of them are over."""
    left = set(tasks)
    return not left or not (await asyncio.wait(left, timeout=seconds))[1]


def _refuse(ready: asyncio.Future[Transport], error: Unavailable) -> None:
    if not ready.done():
        ready.set_exception(error)
        ready.exception()  # nobody may be waiting any more


def _stopping() -> Unavailable:
    return Unavailable("This control plane is shutting down.", hint="try again in a moment")
