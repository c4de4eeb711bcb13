"""Project templates of `af init`: text files in which ``@WORD@`` marks a name to fill in."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from agentfield.errors import Conflict, InvalidInput
from agentfield.plugins import PLUGIN_API
from agentfield.plugins.manifest.core_transports import CORE_TRANSPORTS

__all__ = ["KINDS", "write_plugin"]

KINDS = ("provider", "transport", "hooks")
"""Kinds of plugin templates."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SUFFIX = ".txt"


def write_plugin(name: str, kind: str, into: Path) -> list[Path]:
    """Write the project of a plugin.

    Args:
        name: The name used in ``provider=`` or ``transport=``; that of the plugin for hooks.
        kind: One of `KINDS`.
        into: The folder; it must not exist or must be empty.

    Returns:
        The written files, sorted.

    Raises:
        InvalidInput: The name is invalid, or that of a transport of agentfield-core (code `invalid_name`).
        Conflict: The folder is not empty (code `folder_not_empty`).
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is not a valid name of a {'plugin' if kind == 'hooks' else kind}: use up to 32 lower-case letters, digits and _, starting with a letter.",
            code="invalid_name",
            hint="af init plugin acme",
            field="name",
        )
    if kind == "transport" and name in (core := sorted(spec.name for spec in CORE_TRANSPORTS)):
        raise InvalidInput(
            f"{name!r} is a transport of agentfield-core, which a plugin cannot replace. Its transports: {', '.join(core)}.",
            code="invalid_name",
            hint=f"af init plugin my_{name} --kind transport",
            field="name",
        )
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Conflict(
            f"{into} exists already, and no file is overwritten.", code="folder_not_empty", hint="choose another --into"
        )
    words = {
        "NAME": name,
        "TITLE": name.replace("_", " ").title(),
        "UPPER": name.upper(),
        "CLASS": name.replace("_", " ").title().replace(" ", ""),
        "DIST": f"agentfield-{name.replace('_', '-')}",
        "PACKAGE": f"agentfield_{name}",
        "API": str(PLUGIN_API),
    }
    written = []
    for parts, template in _templates(files(__name__) / kind):
        path = into.joinpath(*(_file_name(part, words) for part in parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_fill(template.read_text(encoding="utf-8"), words), encoding="utf-8")
        written.append(path)
    return sorted(written)


def _templates(folder: Traversable, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Traversable]]:
    found = []
    for item in folder.iterdir():
        if item.is_dir():
            found += _templates(item, (*above, item.name))
        elif item.name.endswith(_SUFFIX):
            found.append(((*above, item.name), item))
    return found


def _file_name(part: str, words: dict[str, str]) -> str:
    name = part.removesuffix(_SUFFIX)
    return {"package": words["PACKAGE"], "gitignore": ".gitignore"}.get(name, name)


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)
