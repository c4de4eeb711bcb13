"""The event loop of nodes and control planes: asyncio's own, or the one of the extra ``agentfield-core[speed]``."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Coroutine, Mapping
from types import ModuleType
from typing import Any, Final, TypeVar

from agentfield.errors import InvalidInput, Unavailable
from agentfield.plugins.install import install_hint

__all__ = ["EVENT_LOOP", "describe", "run", "runner"]

T = TypeVar("T")

EVENT_LOOP: Final = "AGENTFIELD_EVENT_LOOP"
"""``asyncio``, the default, or ``fast``."""

_FAST = "winloop" if sys.platform == "win32" else "uvloop"


def runner(env: Mapping[str, str] = os.environ) -> asyncio.Runner:
    """Return a runner with an event loop of the kind that ``AGENTFIELD_EVENT_LOOP`` names.

    Raises:
        InvalidInput: There is no such kind (code `bad_setting`).
        Unavailable: The extra is not installed (code `speed_not_installed`).
    """
    if not _is_fast(env):
        return asyncio.Runner()
    module = _module()
    if module is None:
        raise Unavailable(
            f"{EVENT_LOOP}=fast needs {_FAST}, which is not installed.",
            code="speed_not_installed",
            hint=install_hint("agentfield-core", "speed"),
        )
    return asyncio.Runner(loop_factory=module.new_event_loop)


def run(main: Coroutine[Any, Any, T], env: Mapping[str, str] = os.environ) -> T:
    """Run a coroutine to completion like `asyncio.run`, in an event loop of the kind that ``AGENTFIELD_EVENT_LOOP`` names.

    Raises:
        InvalidInput: There is no such kind (code `bad_setting`).
        Unavailable: The extra is not installed (code `speed_not_installed`).
    """
    try:
        chosen = runner(env)
    except BaseException:
        main.close()  # it is not awaited any more
        raise
    with chosen:
        return chosen.run(main)


def describe(env: Mapping[str, str] = os.environ) -> str:
    """Return the kind of event loop in words, such as ``uvloop 0.23.0``.

    Raises:
        InvalidInput: There is no such kind (code `bad_setting`).
        Unavailable: The extra is not installed (code `speed_not_installed`).
    """
    runner(env).close()
    module = _module()
    if module is None:
        return f"asyncio's own; agentfield-core[speed] ({_FAST}) is not installed"
    name = f"{_FAST} {getattr(module, '__version__', '')}".strip()
    return name if _is_fast(env) else f"asyncio's own; {EVENT_LOOP}=fast uses {name}, which is installed"


def _is_fast(env: Mapping[str, str]) -> bool:
    kind = env.get(EVENT_LOOP, "").strip() or "asyncio"
    if kind not in ("asyncio", "fast"):
        raise InvalidInput(
            f"{EVENT_LOOP} is {kind[:100]!r}; it is asyncio or fast.",
            code="bad_setting",
            hint=f"{EVENT_LOOP}=fast, or unset {EVENT_LOOP}",
            field=EVENT_LOOP,
        )
    return kind == "fast"


def _module() -> ModuleType | None:
    try:
        return importlib.import_module(_FAST)
    except ImportError:
        return None
