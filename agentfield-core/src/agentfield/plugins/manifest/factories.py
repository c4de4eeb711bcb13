"""Factories of adapters and transports: called with their runtime, and checked to return an async context manager."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager
from typing import Any

from agentfield.errors import PluginBroken
from agentfield.plugins.manifest.references import load_attribute

__all__ = ["factory_context"]

_HINT = "decorate the factory with contextlib.asynccontextmanager, and let it yield the adapter or transport"


def factory_context(reference: str, runtime: Any) -> AbstractAsyncContextManager[Any]:
    """Call the factory that ``"module:attribute"`` names and return its context manager, which is not entered yet.

    Args:
        reference: The factory as the manifest names it.
        runtime: Its argument.

    Raises:
        PluginBroken: It cannot be imported or called, or returns something else.
        Exception: The factory itself raised.
    """
    factory = load_attribute(reference)
    if not callable(factory):
        raise PluginBroken(f"{reference} is a {type(factory).__name__}, not a function.", hint=_HINT)
    made = factory(runtime)
    if hasattr(type(made), "__aenter__") and hasattr(type(made), "__aexit__"):
        return made  # type: ignore[no-any-return]
    what = type(made).__name__
    if inspect.iscoroutine(made):
        made.close()
        what = "coroutine"
    elif inspect.isasyncgen(made):
        what = "async generator"
    raise PluginBroken(f"{reference} returns a {what}, not an async context manager.", hint=_HINT)
