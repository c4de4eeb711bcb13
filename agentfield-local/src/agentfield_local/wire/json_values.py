"""JSON from clients: one parser for every message and body, which accepts only what the server can hold and send on."""

from __future__ import annotations

import json
import math
from typing import Any

from agentfield_local.wire.refusals import Refusal

__all__ = ["MAX_DEPTH", "check_values", "load_object", "parse_json"]

MAX_DEPTH = 64
"""Maximum nesting of a value; copies and validation of deeper ones would exhaust Python's stack."""
_MAX_VALUES = 200_000
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


def parse_json(data: str | bytes, subject: str, *, param: str | None = None) -> dict[str, Any]:
    """Return the JSON object in `data`, after `load_object` and `check_values`.

    Args:
        data: Text or bytes from the client.
        subject: Subject of the refusal, such as `The event`.
        param: Name of the field, for the refusal.

    Raises:
        Refusal: `invalid_json`.
    """
    found = load_object(data, subject, param=param)
    check_values(found, subject, param=param)
    return found


def load_object(data: str | bytes, subject: str, *, param: str | None = None) -> dict[str, Any]:
    """Return the JSON object in `data`; its values are not checked yet.

    Raises:
        Refusal: `invalid_json`.
    """
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except ValueError:
        raise Refusal(f"{subject} is not valid JSON.", code="invalid_json", param=param) from None
    except RecursionError:
        raise _refusal(subject, _TOO_DEEP, param) from None
    if not isinstance(found, dict):
        raise Refusal(f"{subject} is not a JSON object.", code="invalid_json", param=param)
    return found


def check_values(found: dict[str, Any], subject: str, *, param: str | None = None) -> None:
    """Reject values that could not be copied or sent on: numbers beyond a double, half characters, deep nesting.

    Raises:
        Refusal: `invalid_json`.
    """
    reason = _problem(found)
    if reason is not None:
        raise _refusal(subject, reason, param)


def _refusal(subject: str, reason: str, param: str | None) -> Refusal:
    return Refusal(f"{subject} cannot be used: {reason}.", code="invalid_json", param=param)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _problem(value: object) -> str | None:
    """Return why a value is not accepted; None if it is. Level by level, so that no depth can exhaust the stack."""
    level: list[Any] = [value]
    count = 0
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for found in level:
            match found:
                case dict():
                    inner.extend(found)
                    inner.extend(found.values())
                case list():
                    inner.extend(found)
                case str() if not _is_text(found):
                    return "it contains half of a surrogate pair, which is not a character"
                case float() if not math.isfinite(found):
                    return "it contains a number that is too large"
                case _:
                    continue
        count += len(inner)
        if count > _MAX_VALUES:
            return f"it has more than {_MAX_VALUES} values"
        if not inner:
            return None
        level = inner
    return _TOO_DEEP


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
