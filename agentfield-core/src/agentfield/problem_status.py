"""The HTTP status of a problem document."""

from __future__ import annotations

__all__ = ["http_status"]


def http_status(value: object, *, own_key: bool = False) -> int:
    """Return the HTTP status of a problem, whose own status may be any value: user code and nodes set it.

    An integer from 400 to 599 is kept, anything else becomes 502.

    Args:
        value: The status of the problem.
        own_key: Whether 401 is about the key of the caller itself; elsewhere it becomes 502, so as not to look like it.
    """
    status = int.__int__(value) if isinstance(value, int) and not isinstance(value, bool) else 0
    return status if 400 <= status <= 599 and (own_key or status != 401) else 502
