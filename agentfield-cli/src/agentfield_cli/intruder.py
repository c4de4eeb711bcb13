"""Somebody else's package in the place of ours: an unrelated distribution on PyPI also ships a package `agentfield`.

Nothing warns when it is installed: it overwrites files of agentfield-core, or goes before an editable checkout. This
module uses the standard library only, since of our own code no more than this may be left.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

__all__ = ["FIX", "intruders", "overwritten", "shadowed"]

FIX = "pip uninstall {names} && pip install --force-reinstall agentfield-core"


def intruders() -> list[str]:
    """Return the other distributions that say they have a top-level package `agentfield`, with their versions."""
    names = {name for name in packages_distributions().get("agentfield", ()) if name != "agentfield-core"}
    return [f"{name} {distribution(name).version}" for name in sorted(names)]


def overwritten() -> list[str]:
    """Return the files of agentfield-core that are not as they were installed; none can be told of an editable checkout."""
    core = _core()
    changed = []
    for file in (core.files or ()) if core else ():
        if file.parts[:1] != ("agentfield",) or file.hash is None:
            continue
        path = Path(str(file.locate()))
        if not path.is_file() or _digest(path, file.hash.mode) != file.hash.value:
            changed.append(str(file))
    return sorted(changed)


def shadowed() -> str | None:
    """Return where `agentfield` is imported from when that is no file of agentfield-core, None when it is."""
    core, spec = _core(), find_spec("agentfield")
    if core is None or spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    ours = {Path(str(file.locate())).resolve() for file in core.files or () if file.parts[:1] == ("agentfield",)}
    if ours:
        return None if origin in ours else str(origin)
    # an editable checkout installs no files: its modules stand in a folder that is named like the distribution
    return None if "agentfield-core" in origin.parts else str(origin)


def _core() -> Distribution | None:
    try:
        return distribution("agentfield-core")
    except PackageNotFoundError:
        return None


def _digest(path: Path, mode: str) -> str:
    return base64.urlsafe_b64encode(hashlib.new(mode, path.read_bytes()).digest()).rstrip(b"=").decode()
