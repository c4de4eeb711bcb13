"""What implementations of hooks must be like, and which there are; looked at when a plugin is loaded, nothing is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import pluggy

from agentfield.plugins.hooks import Implementation
from agentfield.plugins.hookspecs import PluginHooks
from agentfield.plugins.words import did_you_mean

__all__ = ["Marked", "hook_problem", "implementations_of", "marked_functions"]

Marked = tuple[str, pluggy.HookImpl]
"""The name of a hook, and a function that is marked as one."""

_PREFIX = "agentfield_"
_HOOKS = {name: function for name, function in vars(PluginHooks).items() if name.startswith(_PREFIX)}
_ASYNC = frozenset(name for name, function in _HOOKS.items() if inspect.iscoroutinefunction(function))


def marked_functions(manager: pluggy.PluginManager, plugin: object) -> list[Marked]:
    """Return the functions of a registered plugin that are marked as hooks, by the name of the hook.

    Args:
        manager: Where it is registered.
        plugin: The module or object.
    """
    callers = sorted(manager.get_hookcallers(plugin) or (), key=lambda caller: caller.name)
    return [(caller.name, impl) for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin]


def hook_problem(marked: Iterable[Marked]) -> str | None:
    """Return what is wrong with the hooks that a plugin implements, None when nothing is."""
    return next(filter(None, (_problem(name, impl) for name, impl in marked)), None)


def implementations_of(marked: Iterable[Marked], *, name: str, distribution: str) -> tuple[Implementation, ...]:
    """Return the hooks that a plugin implements, its manifest left out.

    Args:
        marked: What `marked_functions` found.
        name: Name of the plugin.
        distribution: Where it comes from.
    """
    return tuple(
        Implementation(hook, name, distribution, impl.function, takes_value=bool(impl.argnames))
        for hook, impl in marked
        if hook in _HOOKS and hook != "agentfield_manifest"
    )


def _problem(name: str, impl: pluggy.HookImpl) -> str | None:
    if name not in _HOOKS:
        # what is marked as optional is for another version of us
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
    # without what all names have in common, which makes any two look alike
    guess = did_you_mean(name.removeprefix(_PREFIX), (hook.removeprefix(_PREFIX) for hook in _HOOKS))
    return guess.replace("'", f"'{_PREFIX}", 1)
