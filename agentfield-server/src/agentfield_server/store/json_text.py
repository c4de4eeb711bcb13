"""JSON values as compact text, as every store keeps them."""

from __future__ import annotations

import json
from typing import Any

from agentfield.errors import InvalidInput

__all__ = ["dump", "load"]

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dump(value: Any) -> str:
    """Return a JSON value as text.

    Raises:
        InvalidInput: The value is not JSON (code `unrepresentable`).
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"This cannot be kept as JSON: {error}.", code="unrepresentable") from None


def load(text: str | None) -> Any:
    """Return the value of a text that `dump` wrote; None for SQL's NULL."""
    return None if text is None else json.loads(text)
