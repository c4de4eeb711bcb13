"""Settings of nodes and clients from the environment: the control plane's address and API key, and the data folder."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from agentfield.addresses import split_address
from agentfield.errors import InvalidInput

__all__ = [
    "DEFAULT_URL",
    "DRAIN_SECONDS",
    "child_environment",
    "client_tls",
    "control_plane_did",
    "discover_api_key",
    "discover_url",
    "drain_seconds",
    "home",
    "is_loopback",
    "is_sendable",
    "private_folder",
]

DEFAULT_URL = "http://127.0.0.1:8080"
"""Default address of a control plane."""

DRAIN_SECONDS = 30.0
"""Default seconds that a node's reasoners and handlers may take to finish once it is told to stop."""

_MAX_DRAIN_SECONDS = 86_400.0

_PASSED_ON = frozenset(
    [
        "ALL_PROXY",
        "APPDATA",
        "COMSPEC",
        "HOME",
        "HOMEDRIVE",
        "HOMEPATH",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOCALAPPDATA",
        "LOGNAME",
        "NO_COLOR",
        "NO_PROXY",
        "NUMBER_OF_PROCESSORS",
        "OMP_NUM_THREADS",
        "ORT_DISABLE_TELEMETRY",
        "PATH",
        "PATHEXT",
        "PROCESSOR_ARCHITECTURE",
        "PROGRAMDATA",
        "PWD",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "SYSTEMDRIVE",
        "SYSTEMROOT",
        "TEMP",
        "TERM",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "USERNAME",
        "USERPROFILE",
        "VIRTUAL_ENV",
        "WINDIR",
    ]
)
"""Variables that every process needs or may need: of the system, of proxies and of certificates."""
_PASSED_ON_WITH = ("AGENTFIELD_", "DYLD_", "LC_", "PYTHON", "XDG_")
_SECRET_ENDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_OF_CLIENTS = frozenset({"AGENTFIELD_API_KEY", "AGENTFIELD_TLS_CLIENT_KEY"})


def home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the data folder: ``AGENTFIELD_HOME``, else ``~/.agentfield``."""
    value = env.get("AGENTFIELD_HOME")
    return Path(value).expanduser() if value else Path.home() / ".agentfield"


def private_folder(path: Path) -> Path:
    """Create a folder, and the missing ones above it, for this user only (mode 0700), and return it; existing ones are kept.

    `Path.mkdir` gives its mode to the last folder only.

    Raises:
        OSError: It cannot be created.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # raises for a file
    return path


def discover_url(flag: str | None = None, env: Mapping[str, str] = os.environ) -> str:
    """Return the control plane's address without a trailing slash.

    The first of these is used: `flag`, ``AGENTFIELD_URL``, the ``current.json`` that a running control plane writes to the
    data folder, ``http://127.0.0.1:8080``.

    Raises:
        InvalidInput: The value is not an http or https address.
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
    """Return the control plane's API key: `flag`, else ``AGENTFIELD_API_KEY``, else None.

    Raises:
        InvalidInput: It has a character that no request can carry. The message does not contain the key.
    """
    key = flag or env.get("AGENTFIELD_API_KEY") or None
    if key is not None and not is_sendable(key):
        raise InvalidInput(
            "The API key has a space at its ends, control characters or letters beyond ASCII, which no request can carry.",
            hint="set AGENTFIELD_API_KEY without spaces or line ends around it; a file of variables may have CRLF line ends",
            field="AGENTFIELD_API_KEY",
        )
    return key


def is_sendable(key: str) -> bool:
    """Return whether a request can carry an API key: printable ASCII, no space at either end (RFC 9110 section 5.5)."""
    return re.fullmatch(r"[!-~]([ -~]*[!-~])?", key) is not None


def control_plane_did(env: Mapping[str, str] = os.environ) -> str | None:
    """Return ``AGENTFIELD_CONTROL_PLANE_DID``: the DID of the one control plane that nodes may link to, or None.

    Raises:
        InvalidInput: The value is no ``did:key``.
    """
    value = env.get("AGENTFIELD_CONTROL_PLANE_DID", "").strip()
    if value and not re.fullmatch(r"did:key:z[1-9A-HJ-NP-Za-km-z]{40,60}", value):
        raise InvalidInput(
            f"AGENTFIELD_CONTROL_PLANE_DID is {value!r}, which is not the DID of a control plane.",
            hint="the control plane logs its DID when it starts; it begins with did:key:z",
            field="AGENTFIELD_CONTROL_PLANE_DID",
        )
    return value or None


def drain_seconds(given: float | None = None, env: Mapping[str, str] = os.environ) -> float:
    """Return the seconds that a node drains for: `given`, else ``AGENTFIELD_DRAIN_SECONDS``, else 30.

    Raises:
        InvalidInput: The value is not a number between 0 and 86400.
    """
    field: str = "drain"
    value: float | str | None = given
    if value is None:
        field, value = "AGENTFIELD_DRAIN_SECONDS", env.get("AGENTFIELD_DRAIN_SECONDS") or DRAIN_SECONDS
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds <= _MAX_DRAIN_SECONDS:
        raise InvalidInput(
            f"{field} is {value!r}; it must be a number of seconds between 0 and {_MAX_DRAIN_SECONDS:g}.", field=field
        )
    return seconds


def child_environment(env: Mapping[str, str] = os.environ, *, client: bool = False) -> dict[str, str]:
    """Return the environment of a child process: variables of the system and settings, and no other.

    The keys of providers are the control plane's. An agent gets the further variables that ``AGENTFIELD_AGENT_ENV`` names, with
    commas between them.

    Args:
        env: The environment of this process.
        client: Whether the child is an agent, which needs its key for the control plane, and variables of its own.
    """
    named = {name.strip() for name in env.get("AGENTFIELD_AGENT_ENV", "").split(",")} if client else set()
    return {name: value for name, value in env.items() if name in named or _is_passed_on(name.upper(), client=client)}


def _is_passed_on(name: str, *, client: bool) -> bool:
    if name in _OF_CLIENTS:
        return client
    return name in _PASSED_ON or (name.startswith(_PASSED_ON_WITH) and not name.endswith(_SECRET_ENDS))


def client_tls(env: Mapping[str, str] = os.environ) -> ssl.SSLContext | bool:
    """Return how a control plane's certificate is verified, and with which certificate this client answers.

    Authorities are those of the system, or of ``SSL_CERT_FILE``. ``AGENTFIELD_TLS_CLIENT_CERT``, with
    ``AGENTFIELD_TLS_CLIENT_KEY``, is the client's own certificate, for a control plane that demands one.

    Returns:
        True for the default.

    Raises:
        InvalidInput: The certificate cannot be used (code `bad_setting`).
    """
    cert = env.get("AGENTFIELD_TLS_CLIENT_CERT")
    if not cert and not env.get("SSL_CERT_FILE"):
        return True
    context = ssl.create_default_context()
    if not cert:
        return context
    try:
        context.load_cert_chain(cert, env.get("AGENTFIELD_TLS_CLIENT_KEY") or None, password=lambda: "")
    except (OSError, ValueError) as error:
        why = (getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__).lower()
        raise InvalidInput(
            f"The certificate {cert} cannot be used: {why}.",
            code="bad_setting",
            hint="set AGENTFIELD_TLS_CLIENT_CERT and AGENTFIELD_TLS_CLIENT_KEY to PEM files",
            field="AGENTFIELD_TLS_CLIENT_CERT",
        ) from None
    return context


def is_loopback(url: str) -> bool:
    """Return whether an address is a loopback address, which no proxy can reach."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked(url: str, source: str) -> str:
    why = ""
    try:
        parts = split_address(url.strip())
    except ValueError as error:
        parts, why = None, f": {error}"
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInput(
            f"{source} is {url!r}, which is not an http address{why}.",
            hint=f"Use one like {DEFAULT_URL}.",
            field=source,
        )
    return url.strip().rstrip("/")
