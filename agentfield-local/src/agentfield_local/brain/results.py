"""Tool results as sentences that can be spoken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PENDING", "speak_result"]

PENDING = "One moment, please. I am still working on that."
"""Text for a pending result."""

_SPOKEN_KEYS = ("spoken_response", "say", "message", "text")
_INNER_KEYS = ("result", "output", "data")
_MOST_PARTS = 6


def speak_result(output: str) -> str:
    """Return the text for a tool's output.

    The `spoken_response`, `say`, `message` or `text` of an object is used as it is; `{"status":"pending"}` becomes
    `PENDING`; an `error` becomes an apology; anything else becomes a plain sentence.
    """
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        value = output
    return _sentence(value)


def _sentence(value: Any) -> str:
    if isinstance(value, Mapping):
        return _from_object(value)
    said = _phrase(value)
    return said if not said or said[-1] in ".!?" else f"{said}."


def _from_object(value: Mapping[str, Any]) -> str:
    for key in _SPOKEN_KEYS:
        if isinstance(value.get(key), str) and value[key].strip():
            return str(value[key])
    if value.get("status") == "pending":
        return PENDING
    if value.get("error"):
        return f"Sorry, that did not work: {_sentence(_detail(value['error']))}"
    inner = next((value[key] for key in _INNER_KEYS if isinstance(value.get(key), Mapping | str)), None)
    if inner is not None:
        return _sentence(inner)
    parts = [f"{_words(key)} is {_phrase(part)}" for key, part in list(value.items())[:_MOST_PARTS]]
    return f"Here is what I found: {'; '.join(parts)}." if parts else "That is done."


def _detail(error: Any) -> Any:
    if isinstance(error, Mapping):
        return next((error[key] for key in ("message", "detail", "hint", "code") if error.get(key)), "unknown error")
    return error


def _phrase(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case str():
            return value.strip()
        case Mapping():
            return ", ".join(f"{_words(key)} {_phrase(part)}" for key, part in list(value.items())[:_MOST_PARTS])
        case Sequence():
            said = [_phrase(part) for part in value[:_MOST_PARTS]]
            return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) or "nothing"
        case _:
            return str(value)


def _words(key: str) -> str:
    return str(key).replace("_", " ").replace("-", " ").strip()
