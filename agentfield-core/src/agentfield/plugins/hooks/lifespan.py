"""Start and stop of plugins: each is entered before the control plane starts, and exited after it has stopped."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pydantic import SecretStr

from agentfield.errors import PluginBroken
from agentfield.plugins.hooks.implementations import HookImplementation, HookRegistry
from agentfield.plugins.manifest.spec import Manifest
from agentfield.settings import private_folder

__all__ = ["ENTER_TIMEOUT", "EXIT_TIMEOUT", "LifespanRegistry", "PluginLifespans"]

ENTER_TIMEOUT = 20.0
"""Seconds in which each plugin must enter."""
EXIT_TIMEOUT = 5.0
"""Seconds in which each plugin must exit; a plugin that ignores its cancellation is left running."""

_HOOK = "agentfield_lifespan"
_CANCEL_WAIT = 2.0

_log = logging.getLogger("agentfield.plugins")


class LifespanRegistry(HookRegistry, Protocol):
    """The source of implementations and manifests (`agentfield.plugins.Registry`)."""

    def manifest_of(self, implementation: HookImplementation) -> Manifest:
        """Return the manifest of the plugin that an implementation belongs to."""


class PluginLifespans:
    """The lifespans of all plugins; an async context manager that owns a task for each.

    They are entered one after the other, by plugin name, and exited in reverse order.

    Args:
        registry: The plugins.
        home: The data folder of the control plane.
        environ: Source of the settings.
        enter: Seconds in which each must enter.
        leave: Seconds in which each must exit.
    """

    def __init__(
        self,
        registry: LifespanRegistry,
        *,
        home: Path,
        environ: Mapping[str, str],
        enter: float = ENTER_TIMEOUT,
        leave: float = EXIT_TIMEOUT,
    ) -> None:
        self._plugins = [
            _Lifespan(each, _Runtime(each.plugin, registry.manifest_of(each).settings, home, environ))
            for each in registry.implementations(_HOOK)
        ]
        self._enter_timeout = enter
        self._exit_timeout = leave
        self._entered: list[_Lifespan] = []

    async def __aenter__(self) -> Self:
        """Enter all plugins.

        Raises:
            PluginBroken: A plugin failed, or did not enter in time; those before it are exited again.
        """
        try:
            for each in self._plugins:
                self._entered.append(each)
                await each.enter(self._enter_timeout)
        except BaseException:
            await self._exit_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Exit all plugins; an error of one does not keep the others from it."""
        await self._exit_all()

    async def _exit_all(self) -> None:
        while self._entered:
            await self._entered.pop().exit(self._exit_timeout)


class _Lifespan:
    """One plugin: a task of its own enters and exits it, so that a task group or a timeout may span both."""

    def __init__(self, implementation: HookImplementation, runtime: _Runtime) -> None:
        self._implementation = implementation
        self._runtime = runtime
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_entered = False

    async def enter(self, seconds: float) -> None:
        """Enter the plugin.

        Raises:
            PluginBroken: It failed, or did not enter in time.
        """
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(entered), name=f"plugin {self._implementation.plugin}")
        # wait() instead of timeout(): a plugin that ignores its cancellation must not delay the report
        await asyncio.wait({self._task, entered}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self._is_entered = entered.done()
        if not self._is_entered:
            raise self._broken("failed to start" if self._task.done() else f"did not start within {seconds:g} s")

    async def exit(self, seconds: float) -> None:
        """Exit the plugin; cancel it when that takes too long."""
        self._stop.set()
        task = self._task
        if task is None or task.done():
            return
        if self._is_entered and not (await asyncio.wait({task}, timeout=seconds))[1]:
            return
        task.cancel()
        left = (await asyncio.wait({task}, timeout=_CANCEL_WAIT))[1]
        if left:
            self._log("it ignores its cancellation and is left running", None)
        elif self._is_entered:
            self._log(f"it did not stop within {seconds:g} s", None)

    async def _run(self, entered: asyncio.Future[None]) -> None:
        try:
            context: AbstractAsyncContextManager[object] = self._implementation(self._runtime)
            async with context:
                entered.set_result(None)
                await self._stop.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._log("it cancelled itself", None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's code may raise anything
            self._log(type(error).__name__, error)

    def _broken(self, why: str) -> PluginBroken:
        plugin = self._implementation.plugin
        return PluginBroken(
            f"The plugin {plugin!r} {why}. The control plane does not start without it: its hooks would fail.",
            hint=f"see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS={plugin}",
            plugin=plugin,
        )

    def _log(self, why: str, error: BaseException | None) -> None:
        _log.error("plugin.hook_failed plugin=%s hook=%s: %s", self._implementation.plugin, _HOOK, why, exc_info=error)


class _Runtime:
    """The runtime of one plugin (`agentfield.plugins.HookRuntime`)."""

    def __init__(self, plugin: str, names: tuple[str, ...], home: Path, environ: Mapping[str, str]) -> None:
        self._plugin = plugin
        self._names = names
        self._home = home
        self._environ = environ

    @property
    def logger(self) -> logging.Logger:
        """The plugin's logger."""
        return logging.getLogger(f"agentfield.plugin.{self._plugin}")

    @property
    def data_dir(self) -> Path:
        """The plugin's own folder; created on first access."""
        # a name of an entry point may have any character
        folder = self._home / "plugins" / re.sub(r"[^A-Za-z0-9_-]", "_", self._plugin)
        private_folder(folder)
        return folder

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest names; None if it is not set.

        Raises:
            KeyError: The manifest does not name the setting.
        """
        if name not in self._names:
            raise KeyError(f"the manifest of the plugin {self._plugin} does not name {name} among its settings")
        value = self._environ.get(name, "")
        return SecretStr(value) if value else None
