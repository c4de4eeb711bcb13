"""Detects a foreign `agentfield` package that shadows ours: an unrelated distribution on PyPI ships one too.

Installing it gives no warning: it overwrites files of agentfield-core, or precedes an editable checkout on the path.
This module uses the standard library only, because the rest of our code may have been overwritten.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

__all__ = ["REINSTALL_HINT", "foreign_distributions", "overwritten_files", "shadowing_origin"]

REINSTALL_HINT = "pip uninstall {names} && pip install --force-reinstall agentfield-core"
"""Command that removes the foreign distributions and restores our files."""


def foreign_distributions() -> list[str]:
    """Return the other distributions that declare a top-level package `agentfield`, with their versions."""
    names = {name for name in packages_distributions().get("agentfield", ()) if name != "agentfield-core"}
    return [f"{name} {distribution(name).version}" for name in sorted(names)]


def overwritten_files() -> list[str]:
    """Return the files of agentfield-core whose hashes differ from the installed ones; always empty for a checkout."""
    core = _core()
    changed = []
    for file in (core.files or ()) if core else ():
        if file.parts[:1] != ("agentfield",) or file.hash is None:
            continue
        path = Path(str(file.locate()))
        if not path.is_file() or _digest(path, file.hash.mode) != file.hash.value:
            changed.append(str(file))
    return sorted(changed)


def shadowing_origin() -> str | None:
    """Return the path from which `agentfield` is imported if it does not belong to agentfield-core, else None."""
    core, spec = _core(), find_spec("agentfield")
    if core is None or spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    ours = {Path(str(file.locate())).resolve() for file in core.files or () if file.parts[:1] == ("agentfield",)}
    if ours:
        return None if origin in ours else str(origin)
    # an editable checkout lists no files, so compare with the name of its folder
    return None if "agentfield-core" in origin.parts else str(origin)


def _core() -> Distribution | None:
    try:
        return distribution("agentfield-core")
    except PackageNotFoundError:
        return None


def _digest(path: Path, mode: str) -> str:
    return base64.urlsafe_b64encode(hashlib.new(mode, path.read_bytes()).digest()).rstrip(b"=").decode()
