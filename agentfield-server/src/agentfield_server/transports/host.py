"""Host of one plugin transport: enters and exits it in one task, and contains its errors and its hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from agentfield.errors import PluginBroken, Unavailable
from agentfield.plugins import TransportSpec
from agentfield.plugins.manifest.references import load_attribute
from agentfield.realtime.transport import Transport, TransportRuntime

__all__ = ["TransportHost"]

_log = logging.getLogger("agentfield.transports")

_ENTER_WAIT = 20.0
"""Seconds in which a factory must enter."""
_LEAVE_WAIT = 5.0
_CANCEL_WAIT = 2.0
_RETRY_AFTER = 5
"""Seconds after a failed entry before the next one is tried."""

T = TypeVar("T")


class TransportHost:
    """Owns a transport: enters its factory on first use, runs its calls, exits it at shutdown.

    A failed entry fails all callers that wait for it; a later call of `get` is the next attempt.

    Args:
        info: The plugin's declaration of the transport.
        runtime: The argument of its factory.
        clock: Returns seconds of a monotonic clock.
    """

    def __init__(
        self, info: TransportSpec, runtime: TransportRuntime, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.info = info
        self._runtime = runtime
        self._clock = clock
        self._ready: asyncio.Future[Transport] | None = None
        self._lifetime: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._stop = asyncio.Event()
        self._retry_at = 0.0

    async def get(self) -> Transport:
        """Return the transport; the first call enters it.

        Raises:
            Unavailable: The factory failed or did not enter in time (code `transport_not_ready`), or the process stops.
        """
        if self._closed:
            raise _stopping()
        if self._ready is None:
            if self._clock() < self._retry_at:
                raise self._not_ready("failed a moment ago")
            self._ready = asyncio.get_running_loop().create_future()
            self._lifetime = asyncio.create_task(self._run(self._ready), name=f"transport {self.info.name}")
        try:
            async with asyncio.timeout(_ENTER_WAIT):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise self._not_ready(f"did not enter within {_ENTER_WAIT:g} s") from None

    async def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run code of the transport in a task of its own and return its result.

        Args:
            work: The coroutine, not started yet.
            seconds: Time limit. Code that ignores its cancellation is awaited at shutdown only.

        Raises:
            TimeoutError: The time limit was exceeded.
            Exception: The error of the code; an attempt to exit or an unrequested cancellation becomes `PluginBroken`.
        """
        task = asyncio.create_task(self.contained(work), name=f"transport {self.info.name} at work")
        self._calls.add(task)
        task.add_done_callback(self._on_call_done)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        finally:
            task.cancel()
        if not done:
            raise TimeoutError
        return task.result()

    async def contained(self, work: Coroutine[Any, Any, T]) -> T:
        """Run code of the transport in the current task; it can end neither the process nor the task."""
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
        """Cancel the running calls and exit the transport; idempotent."""
        self._closed = True
        for task in self._calls:
            task.cancel()
        # the calls end before the transport that they use is exited
        stopped = await _wait_finished(self._calls, _CANCEL_WAIT)
        self._stop.set()
        if self._lifetime is not None:
            if self._ready is None or not self._ready.done():
                self._lifetime.cancel()
            if not await _wait_finished({self._lifetime}, _LEAVE_WAIT):
                self._lifetime.cancel()
                stopped = await _wait_finished({self._lifetime}, _CANCEL_WAIT) and stopped
        if not stopped:
            _log.error("the transport %s ignores its cancellation and is left running", self.info.name)

    # --- inside

    async def _run(self, ready: asyncio.Future[Transport]) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(_ENTER_WAIT):
                    transport = await stack.enter_async_context(load_attribute(self.info.factory or "")(self._runtime))
                self._check(transport)
                ready.set_result(transport)
                await self._stop.wait()
        except asyncio.CancelledError:
            _set_error(ready, _stopping())
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's code may raise anything
            # the requester may be anonymous: the reason is logged only
            _log.error("the transport %s failed", self.info.name, exc_info=error)
            if not ready.done():
                self._retry_at, self._ready = self._clock() + _RETRY_AFTER, None
                _set_error(ready, self._not_ready("failed"))

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
            hint="see the control plane's log and try again",
            transport=self.info.name,
            retry_after=_RETRY_AFTER,
        )

    def _on_call_done(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.debug("a call into the transport %s failed", self.info.name)


async def _wait_finished(tasks: Iterable[asyncio.Task[Any]], seconds: float) -> bool:
    """Wait for the tasks, for `seconds` at most; tell whether all of them finished."""
    left = set(tasks)
    return not left or not (await asyncio.wait(left, timeout=seconds))[1]


def _set_error(ready: asyncio.Future[Transport], error: Unavailable) -> None:
    if not ready.done():
        ready.set_exception(error)
        ready.exception()  # marks it as retrieved: there may be no waiter left


def _stopping() -> Unavailable:
    return Unavailable("This control plane is shutting down.", hint="try again in a moment")
