"""What a client reads from its environment: where the control plane is, the key for it, and the data folder."""

from __future__ import annotations

import ipaddress
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from agentfield.errors import InvalidInput

__all__ = ["DEFAULT_URL", "DRAIN_SECONDS", "discover_api_key", "discover_url", "drain_seconds", "home", "is_loopback"]

DEFAULT_URL = "http://127.0.0.1:8080"
"""Where a control plane listens unless told otherwise."""

DRAIN_SECONDS = 30.0
"""Seconds that a node's running work and calls may take to end once it is told to stop."""

_LONGEST_DRAIN = 86_400.0


def home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder: ``AGENTFIELD_HOME``, else ``~/.agentfield``."""
    value = env.get("AGENTFIELD_HOME")
    return Path(value).expanduser() if value else Path.home() / ".agentfield"


def discover_url(flag: str | None = None, env: Mapping[str, str] = os.environ) -> str:
    """Return the control plane's address without a trailing slash.

    The first of these decides: `flag`, ``AGENTFIELD_URL``, the running control plane's ``current.json`` in the data
    folder, ``http://127.0.0.1:8080``.

    Raises:
        InvalidInput: What decides is no http address.
    """
    if flag:
        return _checked(flag, "the given address")
    if value := env.get("AGENTFIELD_URL"):
        return _checked(value, "AGENTFIELD_URL")
    file = home(env) / "current.json"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return DEFAULT_URL
    try:
        return _checked(str(json.loads(text)["url"]), str(file))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} does not name a control plane.", hint=f"rm {file}", field=str(file)) from error


def discover_api_key(flag: str | None = None, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the control plane's API key: `flag`, else ``AGENTFIELD_API_KEY``, else None."""
    return flag or env.get("AGENTFIELD_API_KEY") or None


def drain_seconds(given: float | None = None, env: Mapping[str, str] = os.environ) -> float:
    """Return how long a node drains: `given`, else ``AGENTFIELD_DRAIN_SECONDS``, else 30 seconds.

    Raises:
        InvalidInput: What decides is no number of seconds between 0 and 86400.
    """
    field: str = "drain"
    value: float | str | None = given
    if value is None:
        field, value = "AGENTFIELD_DRAIN_SECONDS", env.get("AGENTFIELD_DRAIN_SECONDS") or DRAIN_SECONDS
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_DRAIN:
        raise InvalidInput(
            f"{field} is {value!r}; it is a number of seconds between 0 and {_LONGEST_DRAIN:g}.", field=field
        )
    return seconds


def is_loopback(url: str) -> bool:
    """Tell whether an address is this machine's own, which no proxy can reach."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(url: str, source: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(
            f"{source} is {url!r}, which is no http address.", hint=f"Use one like {DEFAULT_URL}.", field=source
        )
    return url.strip().rstrip("/")
