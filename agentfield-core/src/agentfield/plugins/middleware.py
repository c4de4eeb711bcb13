"""Calls through the tool middleware of plugins: one order, one passage each, every change noted with who made it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfield.errors import AgentFieldError, Forbidden, InvalidInput, MiddlewareFailed, PluginBroken
from agentfield.identity import canonical
from agentfield.plugins.hooks import Implementation, ToolCall, ToolMiddleware
from agentfield.plugins.registry import Registry

__all__ = ["MAX_OUTPUT", "OWN_TIME", "Chain", "Note", "Passage"]

OWN_TIME = 10.0
"""Seconds that a middleware has for one call, without the time in which it waits for `proceed`."""
MAX_OUTPUT = 1024 * 1024
"""Bytes of an output as JSON."""

_HOOK = "agentfield_tool_middleware"
_MAX_MESSAGE = 4000
_MAX_RECORDED = 32 * 1024

_log = logging.getLogger("agentfield.plugins")


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a middleware did to a call, to be recorded as an event."""

    type: str
    body: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Passage:
    """One call on its way through the chain."""

    call: ToolCall
    """As it was asked for."""
    notes: list[Note] = field(default_factory=list)
    """What is not recorded yet."""
    execution_id: str | None = None
    """The execution, once there is one."""

    def take_notes(self) -> list[Note]:
        """Return what is to be recorded, and leave none of it."""
        notes, self.notes = self.notes, []
        return notes

    def note(self, kind: str, plugin: str, **more: Any) -> None:
        """Note what a plugin did."""
        about = {"call_id": self.call.call_id, "target": self.call.target, "plugin": plugin}
        self.notes.append(Note(kind, {**about, **more}))


Execute = Callable[[ToolCall], Awaitable[Any]]
"""Runs the target itself."""


@dataclass(frozen=True, slots=True)
class _Part:
    order: int
    plugin: str
    distribution: str
    number: int
    middleware: ToolMiddleware


class Chain:
    """The tool middleware of all plugins: the lowest `order` is outermost, equal ones go by the name of their plugin.

    Args:
        registry: The plugins.
        own_time: Seconds that each has for a call.

    Raises:
        PluginBroken: A plugin fails to say what its middleware is; without it calls would pass unchecked.
    """

    def __init__(self, registry: Registry, *, own_time: float = OWN_TIME) -> None:
        parts = [part for each in registry.implementations(_HOOK) for part in _parts(each)]
        self._parts = sorted(parts, key=lambda part: (part.order, part.plugin, part.distribution, part.number))
        self._own_time = own_time

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._parts)

    async def run(self, passage: Passage, execute: Execute) -> Any:
        """Pass a call through all middleware and the target, and return what the session is to be given.

        Args:
            passage: The call; what happens to it is noted there.
            execute: Runs the target, at most once.

        Raises:
            Forbidden: A plugin vetoed the call (code `tool_vetoed`).
            MiddlewareFailed: A plugin failed, also when the target had succeeded: its output may be what was to be held back.
            AgentFieldError: Why the target did not succeed.
        """
        return await self._from(0, passage.call, passage, execute)

    async def _from(self, index: int, call: ToolCall, passage: Passage, execute: Execute) -> Any:
        if index == len(self._parts):
            return await execute(call)

        async def inner(passed: ToolCall) -> Any:
            return await self._from(index + 1, passed, passage, execute)

        return await _Station(self._parts[index], call, passage, inner, self._own_time).run()


class _Station:
    """One middleware at one call."""

    def __init__(self, part: _Part, call: ToolCall, passage: Passage, inner: Execute, own_time: float) -> None:
        self._part = part
        self._asked = _dump(dict(call.input))
        # a copy of its own: what it does to the values of the input is seen only when it passes them on
        self._call = call.with_input(json.loads(self._asked))
        self._passage = passage
        self._inner = inner
        self._clock = asyncio.timeout(own_time)
        self._used = self._over = False
        self._got: str | None = None
        """What came back from `proceed`, as JSON."""
        self._raised: BaseException | None = None

    async def run(self) -> Any:
        """Let the middleware answer."""
        text = await self._answer()
        if len(text) > MAX_OUTPUT:
            raise self._failed(f"it returned {len(text)} bytes, more than the {MAX_OUTPUT} that may be returned")
        value = json.loads(text)
        if text != self._got:
            self._note("tool.output_changed", **_recordable("given", value, text))
        return value

    async def _answer(self) -> str:
        """Return what the middleware answers, as JSON."""
        try:
            async with self._clock:
                return _dump(await self._part.middleware(self._call, self.proceed))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._failed("it cancelled itself") from None
        except (Exception, SystemExit) as error:
            if error is self._raised:
                raise  # why the target, or a middleware further in, did not succeed
            if self._clock.expired():
                raise self._failed("it took too long") from None
            if isinstance(error, Forbidden):
                raise self._vetoed(error) from error
            raise self._failed(type(error).__name__, error) from None
        finally:
            self._over = True

    async def proceed(self, call: ToolCall) -> Any:
        """Go on with the call, see `Proceed`."""
        if self._used or self._over:
            raise RuntimeError("proceed was called twice, or after the middleware had returned")
        if dataclasses.replace(call, input=self._call.input) != self._call:
            raise ValueError("only the input of a call may be changed: proceed(call.with_input({...}))")
        text = _dump(dict(call.input))
        self._used = True
        if text != self._asked:
            self._note("tool.input_changed", **_recordable("asked", json.loads(self._asked), self._asked))
        return await self._beyond(call.with_input(json.loads(text)))

    async def _beyond(self, call: ToolCall) -> Any:
        """Do what comes after this middleware; its own time stands still meanwhile."""
        loop = asyncio.get_running_loop()
        left = (self._clock.when() or 0.0) - loop.time()
        self._clock.reschedule(None)
        try:
            self._got = _dump(await self._inner(call))
        except BaseException as error:
            self._raised = error
            raise
        finally:
            if not self._over and not self._clock.expired():
                self._clock.reschedule(loop.time() + max(left, 0.0))
        return json.loads(self._got)

    def _vetoed(self, error: Forbidden) -> AgentFieldError:
        target, plugin = self._call.target, self._part.plugin
        message = error.message.encode("utf-8", "replace").decode()[:_MAX_MESSAGE]
        self._note("tool.vetoed", message=message)
        _log.info("plugin %s vetoed a call of %s: %s", plugin, target, message)
        return Forbidden(
            f"The plugin {plugin!r} refused the call of {target}: {message}",
            code="tool_vetoed",
            hint=error.hint,
            plugin=plugin,
            target=target,
        )

    def _failed(self, why: str, error: BaseException | None = None) -> AgentFieldError:
        target, plugin = self._call.target, self._part.plugin
        _log.error("plugin.hook_failed plugin=%s hook=%s target=%s: %s", plugin, _HOOK, target, why, exc_info=error)
        self._note("tool.middleware_failed")
        # what it raised stays in the log: it was not written for whoever called
        return MiddlewareFailed(
            f"The plugin {plugin!r} failed at the call of {target}, so there is no result.",
            hint=f"see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS={plugin}",
            plugin=plugin,
            target=target,
        )

    def _note(self, kind: str, **more: Any) -> None:
        self._passage.note(kind, self._part.plugin, **more)


def _parts(each: Implementation) -> list[_Part]:
    """Ask a plugin for its middleware.

    Raises:
        PluginBroken: It raised, or what it returned is none.
    """
    try:
        made = list(each())
    except (Exception, SystemExit) as error:
        _log.error("plugin.hook_failed plugin=%s hook=%s", each.plugin, each.hook, exc_info=error)
        raise _broken(each, f"{_HOOK} raised {type(error).__name__}") from error
    return [_part(each, number, middleware) for number, middleware in enumerate(made)]


def _part(each: Implementation, number: int, middleware: Any) -> _Part:
    order = getattr(middleware, "order", 0)
    if not isinstance(order, int) or isinstance(order, bool):
        raise _broken(each, f"the order of a tool middleware is {order!r}, not a whole number")
    call = middleware if inspect.isroutine(middleware) else getattr(type(middleware), "__call__", None)  # noqa: B004
    if not inspect.iscoroutinefunction(call):
        raise _broken(each, f"{_HOOK} returned {type(middleware).__name__}, whose __call__ is not 'async def'")
    return _Part(order, each.plugin, each.distribution, number, middleware)


def _broken(each: Implementation, why: str) -> PluginBroken:
    return PluginBroken(
        f"The plugin {each.plugin!r} does not say what its tool middleware is: {why}. Calls would pass without it.",
        hint=f"correct the plugin, or start the control plane with AGENTFIELD_DISABLE_PLUGINS={each.plugin}",
        plugin=each.plugin,
    )


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _recordable(name: str, value: Any, text: str) -> dict[str, Any]:
    """Return a value as the log can hold it; one that is large or has no canonical form, by its digest."""
    if len(text) <= _MAX_RECORDED:
        try:
            canonical(value)
        except InvalidInput:
            pass
        else:
            return {name: value}
    return {f"{name}_bytes": len(text), f"{name}_sha256": hashlib.sha256(text.encode()).hexdigest()}
