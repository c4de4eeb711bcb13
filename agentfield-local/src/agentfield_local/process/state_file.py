"""State file of a running server: pid, port, address and token, with which a restarted control plane adopts it."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.settings import private_folder

__all__ = ["new_token", "read_token", "remove_state", "write_state"]


def new_token() -> str:
    """Return a new random key."""
    return secrets.token_urlsafe(32)


def read_token(path: Path) -> str:
    """Return the key in a file, stripped of white space.

    Raises:
        InvalidInput: The file is empty.
    """
    token = path.read_text("utf-8").strip()
    if not token:
        raise InvalidInput(f"the token file {path} is empty", hint="write the key into it", field="token_file")
    return token


def write_state(path: Path, *, port: int, url: str, token: str | None) -> None:
    """Write the file atomically, readable by its owner only: a reader sees the old or the new content."""
    private_folder(path.parent)
    state = {"pid": os.getpid(), "port": port, "url": url, "token": token}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def remove_state(path: Path) -> None:
    """Remove the file unless another server has replaced it."""
    try:
        state: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(state, dict) and state.get("pid") == os.getpid():
        path.unlink(missing_ok=True)
