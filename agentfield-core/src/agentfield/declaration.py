"""What `@app.session(...)` was given, checked and made into a `SessionDeclaration`."""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentfield.errors import AdapterNotInstalled, InvalidInput, UnsupportedPair
from agentfield.realtime.config import Floor, SessionDeclaration

if TYPE_CHECKING:
    from agentfield.plugins.registry import Registry

__all__ = ["check_handler", "check_pair", "declare", "floor_of", "is_empty"]

_TARGET = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\.[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NO_WORK = frozenset({"NOP", "RESUME", "CACHE", "EXTENDED_ARG"})


def declare(name: str, *, handler: Callable[..., Any], floor: Floor | None, **values: Any) -> SessionDeclaration:
    """Return the declaration of a session.

    Args:
        name: The session's name.
        handler: The function that handles it.
        floor: Who answers turns; None to tell it from the handler's body.
        **values: The other fields of `SessionDeclaration`.

    Raises:
        InvalidInput: It does not hold; `field` names the part.
    """
    tools = values.get("tools", ())
    if isinstance(tools, str):
        raise _invalid(name, "tools", f"is a text; write [{tools!r}]")
    for tool in tools:
        if not isinstance(tool, str) or not _TARGET.fullmatch(tool):
            raise _invalid(name, "tools", f"holds {tool!r}; a tool is a full target, as in 'node.reasoner'")
    if len(set(tools)) != len(tools):
        raise _invalid(name, "tools", "names a target twice")
    try:
        return SessionDeclaration(name=name, floor=floor or floor_of(handler), **values)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        # the parts of a union have names of their own in between, which nobody wrote
        where = ".".join(str(part) for part in fault["loc"] if "[" not in str(part))
        raise _invalid(name, where, str(fault["msg"])) from None


def check_handler(name: str, handler: Callable[..., Any]) -> None:
    """Check that a function can handle a session.

    Raises:
        InvalidInput: It cannot.
    """
    if not inspect.iscoroutinefunction(handler):
        raise _invalid(name, "handler", "is no coroutine function; write `async def`")
    try:
        inspect.signature(handler).bind(object())
    except TypeError as error:
        raise _invalid(name, "handler", "must take one argument, the session") from error


def floor_of(handler: Callable[..., Any]) -> Floor:
    """Return who answers turns when the declaration does not say: the model when the handler's body is empty."""
    return "model" if is_empty(handler) else "handler"


def is_empty(fn: Callable[..., Any]) -> bool:
    """Tell whether a coroutine function does nothing: ``...``, ``pass``, or only a docstring.

    Its code is compared with that of an empty function compiled by the same interpreter, so that the answer does not
    depend on whether the source is at hand.
    """
    fn = inspect.unwrap(fn)
    if not inspect.isfunction(fn):
        return False
    return _work(fn) == _work(_empty)


def check_pair(declaration: SessionDeclaration, registry: Registry) -> None:
    """Check a declaration against the adapters that are installed here.

    A node need not have the adapter, nor know the provider or the transport: the control plane has the last word. What
    is installed must fit, though, and a word that looks like one that is known here is taken for misspelt.

    Raises:
        PluginError: The pair, or something that the declaration needs, is not to be had from an installed provider.
    """
    from agentfield.plugins.matrix import needs_of
    from agentfield.plugins.words import did_you_mean

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


def _work(fn: Callable[..., Any]) -> list[tuple[str, object]]:
    return [
        (step.opname, step.argval if "CONST" in step.opname else step.arg)
        for step in dis.get_instructions(fn)
        if step.opname not in _NO_WORK
    ]


def _invalid(name: str, field: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The session {name!r} cannot be declared: {field} {why}.", code="invalid_declaration", field=field
    )
