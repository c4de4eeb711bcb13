"""Request headers as they may be kept: without credentials."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["without_secrets"]

_SECRET_HEADERS = {"authorization", "sec-websocket-protocol", "cookie"}


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that hold no credential."""
    return {name: value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
