"""The lifetime of one adapter: its factory is entered and exited in one task, each with a deadline, and its errors are contained."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Self

from agentfield.errors import AgentFieldError, PluginBroken, ProviderUnavailable, Unavailable
from agentfield.plugins import PairSpec
from agentfield.plugins.manifest.factories import factory_context
from agentfield.realtime.provider import BridgedAdapter, DirectAdapter

__all__ = ["Adapter", "AdapterLifetime"]

Adapter = DirectAdapter | BridgedAdapter

_log = logging.getLogger("agentfield.adapters")

_EXIT_WAIT = 5.0
"""Seconds in which an adapter must exit at shutdown."""
_CANCEL_WAIT = 2.0


class AdapterLifetime:
    """An entered adapter.

    Args:
        pair: The pair.
        label: The plugin's distribution and version, for messages.
    """

    def __init__(self, pair: PairSpec, label: str) -> None:
        self._pair = pair
        self._label = label
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @classmethod
    async def enter(cls, pair: PairSpec, label: str, runtime: Any, *, seconds: float) -> Self:
        """Enter the factory of a pair.

        Args:
            pair: The pair.
            label: The plugin that declares it.
            runtime: The argument of the factory.
            seconds: Seconds in which it must enter.

        Raises:
            ProviderUnavailable: It did not in time (code `adapter_not_ready`).
            PluginBroken: It raised, or yields no adapter; errors of `agentfield.errors` pass through.
        """
        lifetime = cls(pair, label)
        lifetime._task = asyncio.create_task(lifetime._run(runtime), name=f"adapter {pair.name}")
        waiting: set[asyncio.Future[Any]] = {lifetime._task, lifetime._entered}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await lifetime._stop(lifetime._task)
            raise
        if lifetime._entered.done():
            return lifetime
        if lifetime._task.done():
            raise lifetime._failure(lifetime._task)
        await lifetime._stop(lifetime._task)
        raise ProviderUnavailable(
            f"The adapter of {pair.name} ({label}) did not get ready within {seconds:g} s.",
            code="adapter_not_ready",
            hint="see the control plane's log and try again",
        )

    @property
    def adapter(self) -> Adapter:
        """The adapter."""
        adapter: Adapter = self._entered.result()
        return adapter

    async def close(self) -> None:
        """Exit the adapter; one that neither exits in time nor obeys its cancellation is abandoned. Raises nothing of it."""
        task = self._task
        if task is None:
            return
        self._leave.set()
        done, _ = await asyncio.wait({task}, timeout=_EXIT_WAIT)
        if not done:
            _log.warning("the adapter of %s (%s) did not exit within %g s", self._pair.name, self._label, _EXIT_WAIT)
            await self._stop(task)
        elif not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the adapter of %s (%s) failed at its exit", self._pair.name, self._label, exc_info=error)

    # --- inside

    async def _run(self, runtime: Any) -> None:
        try:
            async with factory_context(self._pair.factory, runtime) as adapter:
                if adapter is None:
                    raise PluginBroken(f"{self._pair.factory} yields nothing")
                self._entered.set_result(adapter)
                await self._leave.wait()
        except SystemExit as error:
            raise PluginBroken(f"the factory asked to exit ({error.code})") from error

    def _failure(self, task: asyncio.Task[None]) -> AgentFieldError:
        if task.cancelled():
            return Unavailable(
                f"The adapter of {self._pair.name} ({self._label}) cancelled itself.", code="adapter_not_ready"
            )
        error = task.exception()
        if isinstance(error, AgentFieldError) and not isinstance(error, PluginBroken):
            return error  # written for the operator, such as an invalid address
        _log.error("the adapter of %s (%s) failed", self._pair.name, self._label, exc_info=error)
        why = error.message if isinstance(error, PluginBroken) else f"its factory raised {type(error).__name__}"
        return PluginBroken(
            f"The adapter of {self._pair.name} ({self._label}) cannot be used: {why}.".replace("..", "."),
            hint=f"see the control plane's log, and af plugins check {self._label.partition(' ')[0]}",
        )

    async def _stop(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=_CANCEL_WAIT)
        if not done:
            _log.error(
                "the adapter of %s (%s) ignores its cancellation and is left running", self._pair.name, self._label
            )
