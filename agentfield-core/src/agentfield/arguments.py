"""Checks of the arguments that user code passes: unknown names with a suggestion, seconds, targets."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import ParamSpec, TypeVar

from agentfield.errors import InvalidInput
from agentfield.lossy import lossy_text

__all__ = [
    "MAX_TIMEOUT",
    "check_seconds",
    "check_target",
    "checked_arguments",
    "did_you_mean",
    "unknown_argument",
]

MAX_TIMEOUT = 86_400
"""Seconds that a timeout may be: one day."""

P = ParamSpec("P")
R = TypeVar("R")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word that is similar to `word`, or ""."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def checked_arguments(fn: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that arguments that do not fit its signature raise `InvalidInput` instead of `TypeError`."""
    signature = inspect.signature(fn)
    names = [
        f"**{name}" if each.kind is each.VAR_KEYWORD else name
        for name, each in signature.parameters.items()
        if name != "self"
    ]
    any_name = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(fn)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in names and not any_name]
            if unknown:
                raise unknown_argument(fn.__qualname__, unknown[0], names) from None
            what = fn.__qualname__.removesuffix(".__init__")
            by_name = " The input is given by name: order='427'." if any_name else ""
            raise InvalidInput(
                f"{what}(...): {error}.", code="invalid_arguments", hint=f"It takes: {', '.join(names)}.{by_name}"
            ) from None
        return fn(*args, **kwargs)

    return checked


def unknown_argument(what: str, name: str, names: Iterable[str]) -> InvalidInput:
    """Return the error for an argument that `what` does not have."""
    known = list(names)
    what = what.removesuffix(".__init__")
    return InvalidInput(
        f"{what}(...) has no argument {name!r}.{did_you_mean(name, known)}",
        code="invalid_arguments",
        hint=f"It takes: {', '.join(known)}.",
        field=name,
    )


def check_seconds(value: object, name: str = "timeout") -> None:
    """Check a number of seconds; None is no limit.

    Raises:
        InvalidInput: The value is not a positive number, or more than `MAX_TIMEOUT`.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(
            f"{name}={lossy_text(repr(value), 100)} is a {type(value).__name__}; {name} is a number of seconds.",
            code="invalid_arguments",
            hint=f"Write {name}=20.",
            field=name,
        )
    if math.isnan(value) or value <= 0:
        raise InvalidInput(
            f"{name}={value}: it must be more than 0 seconds.",
            code="invalid_arguments",
            hint=f"Leave {name} out for no limit.",
            field=name,
        )
    if value > MAX_TIMEOUT:
        raise InvalidInput(
            f"{name}={value:g}: it may be {MAX_TIMEOUT} seconds, one day.",
            code="invalid_arguments",
            hint=f"Leave {name} out for no limit.",
            field=name,
        )


def check_target(target: object) -> None:
    """Check the target of a call.

    Raises:
        InvalidInput: It is not a text, or no text that can be sent.
    """
    if isinstance(target, str) and "." in target and target.isprintable():
        return
    why = "must be a text as in 'node.reasoner'" if not isinstance(target, Awaitable) else "was not awaited"
    raise InvalidInput(
        f"target: {lossy_text(repr(target), 100)} {why}.",
        code="invalid_arguments",
        hint="Write call('node.reasoner', ...).",
        field="target",
    )
