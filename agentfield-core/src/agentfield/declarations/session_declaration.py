"""Checks the arguments of `@app.session(...)` and builds the `SessionDeclaration`."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentfield.errors import AdapterNotInstalled, InvalidInput, UnsupportedPair
from agentfield.realtime.config import Floor, SessionDeclaration
from agentfield.session import Session

if TYPE_CHECKING:
    from agentfield.plugins.registry.registry import Registry

__all__ = ["DeclaredSession", "Handler", "check_handler", "check_pair", "declare_session", "default_floor", "is_empty"]

Handler = Callable[[Session], Awaitable[Any]]
"""The function that `@app.session(...)` decorates."""

_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\.[A-Za-z_][A-Za-z0-9_-]{0,63}")
_IGNORED_OPCODES = frozenset({"NOP", "RESUME", "CACHE", "EXTENDED_ARG"})


@dataclass(frozen=True, slots=True)
class DeclaredSession:
    """A session's declaration and its handler."""

    declaration: SessionDeclaration
    handler: Handler


def declare_session(
    name: str, *, handler: Callable[..., Any], floor: Floor | None, **values: Any
) -> SessionDeclaration:
    """Return the validated declaration of a session.

    Args:
        name: The session's name.
        handler: The session's handler.
        floor: Whether the handler or the model answers turns; None for `default_floor`.
        **values: The other fields of `SessionDeclaration`.

    Raises:
        InvalidInput: A value is invalid; `field` names it.
    """
    tools = values.get("tools", ())
    if isinstance(tools, str):
        raise _invalid(name, "tools", f"is a text; write [{tools!r}]")
    for tool in tools:
        if not isinstance(tool, str) or not _TARGET.fullmatch(tool):
            raise _invalid(name, "tools", f"holds {tool!r}; a tool is a full target, as in 'node.reasoner'")
    if len(set(tools)) != len(tools):
        raise _invalid(name, "tools", "names a target twice")
    if floor == "handler" and is_empty(handler):
        raise _invalid(
            name,
            "floor",
            "is 'handler', but the handler's body is empty, so nobody would answer",
            hint="Write a body that awaits session.input(), or leave floor out: the model then answers.",
        )
    try:
        return SessionDeclaration(name=name, floor=floor or default_floor(handler), **values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        # the path contains the names of union members, which are not part of the user's input
        path = ".".join(str(part) for part in fault["loc"] if "[" not in str(part))
        raise _invalid(name, path, str(fault["msg"])) from None


def check_handler(name: str, handler: Callable[..., Any]) -> None:
    """Check that a function can be a session's handler.

    Raises:
        InvalidInput: The function is not ``async def``, or does not take exactly the session.
    """
    if not inspect.iscoroutinefunction(handler):
        raise _invalid(name, "handler", "is not a coroutine function; write `async def`")
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        raise _invalid(name, "handler", "must take one argument, the session") from error


def default_floor(handler: Callable[..., Any]) -> Floor:
    """Return the floor of a declaration without one: the model if the handler's body is empty, else the handler."""
    return "model" if is_empty(handler) else "handler"


def is_empty(fn: Callable[..., Any]) -> bool:
    """Return whether a coroutine function's body is empty: ``...``, ``pass``, or only a docstring.

    The bytecode is compared with that of an empty function of the same interpreter, so that no source is needed.
    """
    fn = inspect.unwrap(fn)
    if not inspect.isfunction(fn):
        return False
    return _instructions(fn) == _instructions(_empty)


def check_pair(declaration: SessionDeclaration, registry: Registry) -> None:
    """Check a declaration against the adapters that are installed here.

    A node need not have the plugin, nor know the provider or transport: the control plane decides. An installed pair must meet
    the declaration's needs, though, and a name similar to a known one is refused as a misspelling.

    Raises:
        PluginError: An installed provider does not offer the pair, or lacks a required capability.
    """
    from agentfield.plugins.registry.session_checks import needs_of
    from agentfield.plugins.wording import did_you_mean

    try:
        registry.resolve(declaration.provider, declaration.transport, needs_of(declaration))
    except AdapterNotInstalled:
        return
    except UnsupportedPair:
        transports = {info.name for info in registry.transports()}
        known = declaration.transport in transports or did_you_mean(declaration.transport, transports)
        if known and any(provider.name == declaration.provider for provider in registry.providers()):
            raise


async def _empty(session: object) -> None: ...


def _instructions(fn: Callable[..., Any]) -> list[tuple[str, object]]:
    return [
        (step.opname, step.argval if "CONST" in step.opname else step.arg)
        for step in dis.get_instructions(fn)
        if step.opname not in _IGNORED_OPCODES
    ]


def _invalid(name: str, field: str, why: str, *, hint: str | None = None) -> InvalidInput:
    return InvalidInput(
        f"The session {name!r} cannot be declared: {field} {why}.", code="invalid_declaration", hint=hint, field=field
    )
