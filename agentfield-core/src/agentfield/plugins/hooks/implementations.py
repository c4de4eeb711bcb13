"""Hook implementations of a plugin: how they are found and checked when it is loaded. None is called here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pluggy

from agentfield.plugins.hooks.hookspecs import PluginHooks
from agentfield.plugins.wording import did_you_mean

__all__ = ["HookImplementation", "HookRegistry", "MarkedHook", "hook_problem", "implementations_of", "marked_functions"]

MarkedHook = tuple[str, pluggy.HookImpl]
"""The name of a hook, and the function that is marked as its implementation."""

_PREFIX = "agentfield_"
_HOOKS = {name: function for name, function in vars(PluginHooks).items() if name.startswith(_PREFIX)}
_ASYNC = frozenset(name for name, function in _HOOKS.items() if inspect.iscoroutinefunction(function))


@dataclass(frozen=True, slots=True)
class HookImplementation:
    """A function of a plugin that implements a hook; it may omit the argument of the hook."""

    hook: str
    plugin: str
    """Name of the plugin."""
    distribution: str
    function: Callable[..., Any]
    takes_value: bool
    """Whether the function has the hook's argument."""

    def __call__(self, value: object = None) -> Any:
        """Call the function with the argument of the hook."""
        return self.function(value) if self.takes_value else self.function()


class HookRegistry(Protocol):
    """The source of implementations (`agentfield.plugins.Registry`)."""

    def implementations(self, *hooks: str) -> tuple[HookImplementation, ...]:
        """Return the implementations of hooks, by plugin name."""


def marked_functions(manager: pluggy.PluginManager, plugin: object) -> list[MarkedHook]:
    """Return the functions of a registered plugin that are marked as hook implementations, by hook name.

    Args:
        manager: The manager that the plugin is registered with.
        plugin: The module or object.
    """
    callers = sorted(manager.get_hookcallers(plugin) or (), key=lambda caller: caller.name)
    return [(caller.name, impl) for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]


def hook_problem(marked: Iterable[MarkedHook]) -> str | None:
    """Return the first problem of a plugin's hook implementations, None when there is none."""
    return next(filter(None, (_problem(name, impl) for name, impl in marked)), None)


def implementations_of(marked: Iterable[MarkedHook], *, name: str, distribution: str) -> tuple[HookImplementation, ...]:
    """Return the hook implementations of a plugin, without its manifest.

    Args:
        marked: The result of `marked_functions`.
        name: Name of the plugin.
        distribution: Distribution of the plugin.
    """
    return tuple(
        HookImplementation(hook, name, distribution, impl.function, takes_value=bool(impl.argnames))
        for hook, impl in marked
        if hook in _HOOKS and hook != "agentfield_manifest"
    )


def _problem(name: str, impl: pluggy.HookImpl) -> str | None:
    if name not in _HOOKS:
        # pluggy's optionalhook: written for another version of agentfield
        return None if impl.optionalhook else f"there is no hook {name}.{_guess(name)}"
    if impl.wrapper or impl.hookwrapper:
        return f"{name} is marked as a wrapper; hooks of agentfield have none"
    is_async = inspect.iscoroutinefunction(impl.function)
    if name in _ASYNC and not is_async:
        return f"{name} must be written with 'async def'"
    if name not in _ASYNC and (is_async or inspect.isasyncgenfunction(impl.function)):
        return f"{name} must be written with 'def', not 'async def'"
    return None


def _guess(name: str) -> str:
    # compare without the common prefix, which would make all names similar
    guess = did_you_mean(name.removeprefix(_PREFIX), (hook.removeprefix(_PREFIX) for hook in _HOOKS))
    return guess.replace("'", f"'{_PREFIX}", 1)
