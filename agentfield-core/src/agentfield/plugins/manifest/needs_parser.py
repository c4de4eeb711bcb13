"""Parser of needs in the form ``FIELD=VALUE``, checked against the fields and values of `Capabilities`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from agentfield.errors import InvalidInput
from agentfield.plugins.manifest.spec import Capabilities, Need
from agentfield.plugins.wording import did_you_mean

__all__ = ["parse_capabilities", "parse_need"]

_HINT = "--needs FIELD=VALUE, such as --needs say=exact or --needs turn_detection=manual,server_vad"


def parse_need(text: str) -> Need:
    """Parse a need.

    Args:
        text: ``FIELD=VALUE``. Of several values, separated by commas, a set must contain all; other fields must have one.

    Raises:
        InvalidInput: The field is unknown (`unknown_capability`), or the value is not one of its values (`invalid_need`).
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    hints = get_type_hints(Capabilities)
    if name not in hints:
        raise InvalidInput(
            f"--needs {text}: there is no capability {name!r}.{did_you_mean(name, hints)} There are: {', '.join(hints)}.",
            code="unknown_capability",
            hint=_HINT,
            field="needs",
        )
    words = [word.strip() for word in values.split(",") if word.strip()]
    if not equals or not words:
        raise InvalidInput(
            f"--needs {text}: what must {name} be? {_possible(hints[name])}",
            code="invalid_need",
            hint=_HINT,
            field="needs",
        )
    return Need(name, frozenset(_value(name, word, hints[name]) for word in words), f"--needs {name}={values}")


def parse_capabilities(values: dict[str, Any]) -> Capabilities:
    """Return the capabilities in a row of the REST API; unknown fields of a newer control plane are ignored."""
    known = {field.name for field in dataclasses.fields(Capabilities)}
    kept: dict[str, Any] = {k: frozenset(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return Capabilities(**kept)


def _value(name: str, word: str, hint: Any) -> object:
    choices = _choices(hint)
    if hint is bool:
        choices = ("yes", "no")
    if choices and word not in choices:
        raise _invalid(name, word, f"it is {_listed(choices)}.{did_you_mean(word, choices)}")
    if hint is bool:
        return word == "yes"
    if float in get_args(hint):
        try:
            return float(word)
        except ValueError:
            raise _invalid(name, word, "it is a number of seconds.") from None
    return word


def _invalid(name: str, word: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"--needs {name}={word}: {name} is never {word!r}; {why}", code="invalid_need", hint=_HINT, field="needs"
    )


def _choices(hint: Any) -> tuple[str, ...]:
    inner = get_args(hint)[0] if get_origin(hint) is frozenset else hint
    return get_args(inner) if get_origin(inner) is Literal else ()


def _possible(hint: Any) -> str:
    choices = ("yes", "no") if hint is bool else _choices(hint)
    return f"It may be: {_listed(choices)}." if choices else ""


def _listed(words: Iterable[str]) -> str:
    return " or ".join(map(repr, words))
