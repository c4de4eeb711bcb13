"""The tool middleware of plugins as one chain; each change of a call is recorded with the plugin that made it."""

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

from agentfield.errors import AgentFieldError, Forbidden, MiddlewareFailed, PluginBroken
from agentfield.plugins.hooks.arguments import ToolCall, ToolMiddleware
from agentfield.plugins.hooks.implementations import HookImplementation, HookRegistry
from agentfield.values import encode, nearest

__all__ = ["MAX_OUTPUT", "MIDDLEWARE_TIMEOUT", "Invocation", "MiddlewareChain", "MiddlewareEvent"]

MIDDLEWARE_TIMEOUT = 10.0
"""Seconds that a middleware has for one call, not counting the time it waits for `proceed`."""
MAX_OUTPUT = 1024 * 1024
"""Maximum size of an output as JSON, in bytes."""

_HOOK = "agentfield_tool_middleware"
_MAX_MESSAGE = 4000
_MAX_RECORDED = 32 * 1024

_log = logging.getLogger("agentfield.plugins")


@dataclass(frozen=True, slots=True)
class MiddlewareEvent:
    """An event to record about a call: what a middleware did to it."""

    type: str
    body: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Invocation:
    """One call through the chain."""

    call: ToolCall
    """The call before any middleware."""
    events: list[MiddlewareEvent] = field(default_factory=list)
    """Events that are not recorded yet."""
    execution_id: str | None = None
    """The execution of the target, once it exists."""

    def take_events(self) -> list[MiddlewareEvent]:
        """Return the events to record, and clear them."""
        events, self.events = self.events, []
        return events

    def add_event(self, kind: str, plugin: str, **more: Any) -> None:
        """Add an event about a plugin."""
        body = {"call_id": self.call.call_id, "target": self.call.target, "plugin": plugin, **more}
        self.events.append(MiddlewareEvent(kind, body))


Execute = Callable[[ToolCall], Awaitable[Any]]
"""Runs the target."""


@dataclass(frozen=True, slots=True)
class _Registered:
    """A middleware with its position."""

    order: int
    plugin: str
    distribution: str
    index: int
    """Position in the list of its plugin."""
    middleware: ToolMiddleware
    redact: Callable[[ToolCall], Mapping[str, Any]] | None
    """Its method `redact`, if it has one."""


class MiddlewareChain:
    """The tool middleware of all plugins: the lowest `order` is outermost, equal ones are sorted by plugin name.

    Args:
        registry: The plugins.
        timeout: Seconds that each middleware has for a call, not counting the time it waits for `proceed`.

    Raises:
        PluginBroken: A plugin does not return its middleware; without it calls would pass unchecked.
    """

    def __init__(self, registry: HookRegistry, *, timeout: float = MIDDLEWARE_TIMEOUT) -> None:
        found = [each for hook in registry.implementations(_HOOK) for each in _middleware_of(hook)]
        self._chain = sorted(found, key=lambda each: (each.order, each.plugin, each.distribution, each.index))
        self._timeout = timeout

    def __bool__(self) -> bool:
        """Whether there is any middleware."""
        return bool(self._chain)

    def redact(self, invocation: Invocation) -> ToolCall:
        """Return a call with the input that may be recorded and passed on.

        Args:
            invocation: The call; it collects the events to record, without values.

        Raises:
            MiddlewareFailed: A plugin failed, so nothing of the input may be recorded.
        """
        call = invocation.call
        for each in self._chain:
            if each.redact is not None:
                call = _redacted(each, each.redact, call, invocation)
        return call

    async def run(self, invocation: Invocation, execute: Execute) -> Any:
        """Pass a call through all middleware to the target; return the output for the session.

        Args:
            invocation: The call; it collects the events to record.
            execute: Runs the target; called at most once.

        Raises:
            Forbidden: A plugin vetoed the call (code `tool_vetoed`).
            MiddlewareFailed: A plugin failed, also after the target succeeded: it may have been about to withhold the output.
            AgentFieldError: The target failed.
        """
        return await self._run_from(0, invocation.call, invocation, execute)

    async def _run_from(self, index: int, call: ToolCall, invocation: Invocation, execute: Execute) -> Any:
        if index == len(self._chain):
            return await execute(call)

        async def run_rest(passed: ToolCall) -> Any:
            return await self._run_from(index + 1, passed, invocation, execute)

        return await _MiddlewareCall(self._chain[index], call, invocation, run_rest, self._timeout).run()


class _MiddlewareCall:
    """One call of one middleware.

    The middleware works on copies: the input it gets and the output of `proceed` are decoded from JSON for it, so that a
    change takes effect only through `proceed` or its return value, where it is compared and recorded.
    """

    def __init__(
        self, registered: _Registered, call: ToolCall, invocation: Invocation, run_rest: Execute, timeout: float
    ) -> None:
        self._registered = registered
        self._given_input = _dump(dict(call.input), name="input")
        self._call = call.with_input(json.loads(self._given_input))
        self._invocation = invocation
        self._run_rest = run_rest
        self._timer = asyncio.timeout(timeout)
        self._proceeded = self._returned = False
        self._rest_output: str | None = None
        """Output of `proceed` as JSON."""
        self._rest_error: BaseException | None = None

    async def run(self) -> Any:
        """Call the middleware and return its output."""
        text = await self._output()
        if len(text) > MAX_OUTPUT:
            raise self._failed(f"it returned {len(text)} bytes, more than the {MAX_OUTPUT} that may be returned")
        value = json.loads(text)
        if text != self._rest_output:
            self._add_event("tool.output_changed", **_recordable("given", value, text))
        return value

    async def _output(self) -> str:
        """Return the output of the middleware as JSON."""
        try:
            async with self._timer:
                return _dump(await self._registered.middleware(self._call, self.proceed), name="the output")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # cancelling() tells a cancellation of this task from a CancelledError that the plugin raised
            if task is not None and task.cancelling():
                raise
            raise self._failed("it cancelled itself") from None
        except (Exception, SystemExit) as error:
            if error is self._rest_error:
                raise  # the error of the target or of an inner middleware
            if self._timer.expired():
                raise self._failed("it took too long") from None
            if isinstance(error, Forbidden):
                raise self._vetoed(error) from error
            raise self._failed(type(error).__name__, error) from None
        finally:
            self._returned = True

    async def proceed(self, call: ToolCall) -> Any:
        """Pass the call on, see `Proceed`."""
        if self._proceeded or self._returned:
            raise RuntimeError("proceed was called twice, or after the middleware had returned")
        if dataclasses.replace(call, input=self._call.input) != self._call:
            raise ValueError("only the input of a call may be changed: proceed(call.with_input({...}))")
        text = _dump(dict(call.input), name="input")
        self._proceeded = True
        if text != self._given_input:
            recorded = _recordable("asked", json.loads(self._given_input), self._given_input)
            self._add_event("tool.input_changed", **recorded)
        return await self._untimed(call.with_input(json.loads(text)))

    async def _untimed(self, call: ToolCall) -> Any:
        """Run the rest of the chain; the timeout of this middleware is suspended meanwhile."""
        loop = asyncio.get_running_loop()
        left = (self._timer.when() or 0.0) - loop.time()
        self._timer.reschedule(None)
        try:
            self._rest_output = _dump(await self._run_rest(call), name="the output")
        except BaseException as error:
            self._rest_error = error
            raise
        finally:
            # a middleware that started proceed as a task may have returned already; its timeout cannot be changed then
            if not self._returned and not self._timer.expired():
                self._timer.reschedule(loop.time() + max(left, 0.0))
        return json.loads(self._rest_output)

    def _vetoed(self, error: Forbidden) -> AgentFieldError:
        target, plugin = self._call.target, self._registered.plugin
        message = error.message.encode("utf-8", "replace").decode()[:_MAX_MESSAGE]
        self._add_event("tool.vetoed", message=message)
        _log.info("plugin %s vetoed a call of %s: %s", plugin, target, message)
        return Forbidden(
            f"The plugin {plugin!r} refused the call of {target}: {message}",
            code="tool_vetoed",
            hint=error.hint,
            plugin=plugin,
            target=target,
        )

    def _failed(self, why: str, error: BaseException | None = None) -> AgentFieldError:
        return _failed(self._registered.plugin, self._invocation, why, error)

    def _add_event(self, kind: str, **more: Any) -> None:
        self._invocation.add_event(kind, self._registered.plugin, **more)


def _redacted(
    registered: _Registered, redact: Callable[[ToolCall], Mapping[str, Any]], call: ToolCall, invocation: Invocation
) -> ToolCall:
    given = _dump(dict(call.input), name="input")
    try:
        # a copy: a change takes effect only as the returned value
        text = _dump(dict(redact(call.with_input(json.loads(given)))), name="input")
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it raises: not redacted
        # without its message, which may contain the value
        raise _failed(registered.plugin, invocation, f"redact raised {type(error).__name__}") from None
    if text == given:
        return call
    invocation.add_event("tool.input_redacted", registered.plugin)
    return call.with_input(json.loads(text))


def _failed(plugin: str, invocation: Invocation, why: str, error: BaseException | None = None) -> AgentFieldError:
    target = invocation.call.target
    _log.error("plugin.hook_failed plugin=%s hook=%s target=%s: %s", plugin, _HOOK, target, why, exc_info=error)
    invocation.add_event("tool.middleware_failed", plugin)
    # the plugin's error goes to the log only: its text was not written for the caller
    return MiddlewareFailed(
        f"The plugin {plugin!r} failed at the call of {target}, so there is no result.",
        hint=f"see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS={plugin}",
        plugin=plugin,
        target=target,
    )


def _middleware_of(hook: HookImplementation) -> list[_Registered]:
    """Return the middleware of a plugin.

    Raises:
        PluginBroken: The hook raised, or returned something else.
    """
    try:
        returned = list(hook())
    except (Exception, SystemExit) as error:
        _log.error("plugin.hook_failed plugin=%s hook=%s", hook.plugin, hook.hook, exc_info=error)
        raise _broken(hook, f"{_HOOK} raised {type(error).__name__}") from error
    return [_registered(hook, index, middleware) for index, middleware in enumerate(returned)]


def _registered(hook: HookImplementation, index: int, middleware: Any) -> _Registered:
    order = getattr(middleware, "order", 0)
    if not isinstance(order, int) or isinstance(order, bool):
        raise _broken(hook, f"the order of a tool middleware is {order!r}, not a whole number")
    call = middleware if inspect.isroutine(middleware) else getattr(type(middleware), "__call__", None)  # noqa: B004
    if not inspect.iscoroutinefunction(call):
        raise _broken(hook, f"{_HOOK} returned {type(middleware).__name__}, whose __call__ is not 'async def'")
    redact = getattr(middleware, "redact", None)
    if redact is not None and (not callable(redact) or inspect.iscoroutinefunction(redact)):
        raise _broken(hook, f"the redact of {type(middleware).__name__} is not written with 'def'")
    return _Registered(order, hook.plugin, hook.distribution, index, middleware, redact)


def _broken(hook: HookImplementation, why: str) -> PluginBroken:
    return PluginBroken(
        f"The plugin {hook.plugin!r} does not say what its tool middleware is: {why}. Calls would pass without it.",
        hint=f"correct the plugin, or start the control plane with AGENTFIELD_DISABLE_PLUGINS={hook.plugin}",
        plugin=hook.plugin,
    )


def _dump(value: Any, *, name: str) -> str:
    """Return a value as JSON; large integers of an input stay until the engine compares them with the target's schema."""
    checked = encode(value, name=name, untyped="keep").value
    return json.dumps(checked, sort_keys=True, separators=(",", ":"))


def _recordable(name: str, value: Any, text: str) -> dict[str, Any]:
    """Return a value for the log; a large value, or one that the log cannot hold, as its size and digest."""
    if len(text) <= _MAX_RECORDED and nearest(value) is value:
        return {name: value}
    return {f"{name}_bytes": len(text), f"{name}_sha256": hashlib.sha256(text.encode()).hexdigest()}
