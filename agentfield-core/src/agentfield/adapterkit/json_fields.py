"""Typed access to fields of unchecked JSON: a value of another type counts as absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["amount_at", "count_at", "id_at", "number_at", "object_at", "objects_at", "parse_object", "text_at"]

_MAX_ID = 512
_MAX_NUMBER = 2**53


def parse_object(raw: str | bytes) -> dict[str, Any] | None:
    """Parse a JSON object; return None for anything else."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def text_at(data: Mapping[str, Any], key: str) -> str | None:
    """Return the string at `key`, with lone surrogates replaced, since no encoding can represent them."""
    found = data.get(key)
    if not isinstance(found, str):
        return None
    return found if found.isascii() else _encodable(found)


def id_at(data: Mapping[str, Any], key: str) -> str | None:
    """Return the identifier at `key`: a string of 1 to 512 characters."""
    found = data.get(key)
    if not isinstance(found, str) or not 0 < len(found) <= _MAX_ID:
        return None
    return found if found.isascii() else _encodable(found)


def number_at(data: Mapping[str, Any], key: str) -> float | None:
    """Return the finite number at `key`."""
    found = data.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if abs(found) <= _MAX_NUMBER and math.isfinite(found) else None


def amount_at(data: Mapping[str, Any], key: str) -> float | None:
    """Return the finite number at `key`, None if it is negative."""
    found = number_at(data, key)
    return None if found is None or found < 0 else found


def count_at(data: Mapping[str, Any], key: str) -> int | None:
    """Return the non-negative number at `key`, rounded down."""
    found = amount_at(data, key)
    return None if found is None else int(found)


def object_at(data: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """Return the object at `path`, an empty one if there is none."""
    here: Any = data
    for key in path:
        here = here.get(key) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else {}


def objects_at(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list at `key`."""
    found = data.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
