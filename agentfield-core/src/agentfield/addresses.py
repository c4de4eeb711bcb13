"""Parsing of addresses that come from outside."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["split_address"]


def split_address(url: str) -> SplitResult:
    """Return the parts of a URL; all of them can be read without an exception.

    Raises:
        ValueError: The host or the port is malformed; the message says which.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("its host is malformed") from None
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port is not a number from 0 to 65535") from None
    return parts
