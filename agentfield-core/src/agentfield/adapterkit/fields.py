"""Reads fields out of JSON that nobody has checked: what is not of the expected kind counts as absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["amount", "count", "ident", "mapping", "mappings", "number", "parse", "words"]

_LONGEST_ID = 512
_LARGEST = 2**53


def parse(raw: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that `raw` holds, None when it holds none."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def words(data: Mapping[str, Any], key: str) -> str | None:
    """Return the text at `key`, without halves of characters that no encoding can hold."""
    found = data.get(key)
    if not isinstance(found, str):
        return None
    return found if found.isascii() else _whole(found)


def ident(data: Mapping[str, Any], key: str) -> str | None:
    """Return the identifier at `key`: text that is neither empty nor endless."""
    found = data.get(key)
    if not isinstance(found, str) or not 0 < len(found) <= _LONGEST_ID:
        return None
    return found if found.isascii() else _whole(found)


def number(data: Mapping[str, Any], key: str) -> float | None:
    """Return the finite number at `key`."""
    found = data.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if abs(found) <= _LARGEST and math.isfinite(found) else None


def amount(data: Mapping[str, Any], key: str) -> float | None:
    """Return the finite number at `key`, None when it is negative."""
    found = number(data, key)
    return None if found is None or found < 0 else found


def count(data: Mapping[str, Any], key: str) -> int | None:
    """Return the number at `key`, rounded down to a whole one that is not negative."""
    found = amount(data, key)
    return None if found is None else int(found)


def mapping(data: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return the object at `path`, an empty one when there is none."""
    here: Any = data
    for key in path:
        here = here.get(key) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else {}


def mappings(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list at `key`."""
    found = data.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
