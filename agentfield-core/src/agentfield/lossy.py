"""Text, JSON and HTTP status of any object, for errors and logs: bounded, always encodable, and made without raising.

What an error carries comes from anywhere: a message with half of a surrogate pair, a `__str__` that raises, a hint that is no
text. An error must be reported all the same, so these functions prefer an approximation to a refusal. Values that a program
relies on are converted by `agentfield.schema`, which refuses what it cannot represent.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["MAX_TEXT", "http_status", "lossy_json", "lossy_text", "visible_json", "visible_text"]

MAX_TEXT: Final = 4000
"""Characters of one text."""

# controls except tab and line feed, line separators, the bidirectional controls, and halves of surrogate pairs
_UNSAFE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)

_MAX_INTEGER = 2**53 - 1
_MAX_DEPTH = 8
_MAX_PARTS = 1000


def lossy_text(value: object, limit: int = MAX_TEXT) -> str:
    """Return the text of an object, at most `limit` characters and a note; half of a surrogate pair becomes an escape.

    Args:
        value: A text, or any object with a `__str__`, which may raise.
        limit: Characters to keep.
    """
    try:
        text = str.__str__(value if isinstance(value, str) else str(value))
    except BaseException:  # noqa: BLE001 -- `__str__` is user code
        return f"<{_type_name(value)} without a text>"
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def visible_text(text: str, *, one_line: bool = False) -> str:
    """Return a text for a terminal: characters that would control it, or reorder the text, are escaped as in Python.

    Args:
        text: A text from anywhere.
        one_line: Escape line feeds as well.
    """
    if text.isprintable():
        return text
    shown = _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)
    return shown.replace("\n", "\\n") if one_line else shown


def visible_json(text: str) -> str:
    """Return JSON for a terminal: the same value, with the characters that `visible_text` escapes in JSON's own escapes."""
    return text if text.isprintable() else _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def lossy_json(value: object, *, levels: int = _MAX_DEPTH, cut: bool = True) -> Any:
    """Return plain JSON that is equal to `value` where that is possible; other parts become texts.

    Args:
        value: Any object.
        levels: Levels of lists and objects that are kept.
        cut: Whether long texts and large collections are cut, as for the data of an error.
    """
    limit, parts = (MAX_TEXT, _MAX_PARTS) if cut else (sys.maxsize, sys.maxsize)
    try:
        return _json(value, levels, limit, [parts])
    except BaseException:  # noqa: BLE001 -- the methods of a subclass of dict or list are user code
        return lossy_text(value)


def http_status(value: object, *, own_key: bool = False) -> int:
    """Return the HTTP status of a problem, whose own status may be any value: user code and nodes set it.

    An integer from 400 to 599 is kept, anything else becomes 502.

    Args:
        value: The status of the problem.
        own_key: Whether 401 is about the key of the caller itself; elsewhere it becomes 502, so as not to look like it.
    """
    status = int.__int__(value) if isinstance(value, int) and not isinstance(value, bool) else 0
    return status if 400 <= status <= 599 and (own_key or status != 401) else 502


def _json(value: object, levels: int, limit: int, left: list[int]) -> Any:
    left[0] -= 1
    match value:
        case None | bool():
            return value
        case str():
            return lossy_text(value, limit)
        case int():
            return int(value) if -_MAX_INTEGER <= value <= _MAX_INTEGER else _integer_text(int(value))
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case Mapping() | list() | tuple() | set() | frozenset() if levels <= 0:
            return "…"
        case Mapping():
            return {
                lossy_text(key, limit // 20): _json(item, levels - 1, limit, left)
                for key, item in value.items()
                if left[0] > 0
            }
        case list() | tuple() | set() | frozenset():
            return [_json(item, levels - 1, limit, left) for item in value if left[0] > 0]
        case _:
            return lossy_text(value)


def _integer_text(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # more digits than Python converts
        return f"an integer of {number.bit_length()} bits"


def _type_name(value: object) -> str:
    try:
        return str.__str__(type(value).__name__).encode("utf-8", "backslashreplace").decode()[:200]
    except BaseException:  # noqa: BLE001 -- a metaclass may define `__name__`
        return "object"
