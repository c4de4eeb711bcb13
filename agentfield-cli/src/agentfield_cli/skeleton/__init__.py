"""Projects that `af init` writes: text files with ``@WORDS@`` in the place of names."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from agentfield.errors import Conflict, InvalidInput

__all__ = ["KINDS", "write_plugin"]

KINDS = ("provider", "transport")
"""What a plugin can be begun as."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SUFFIX = ".txt"


def write_plugin(name: str, kind: str, into: Path) -> list[Path]:
    """Write a plugin's project.

    Args:
        name: What it is called by in ``provider=`` or ``transport=``.
        kind: One of `KINDS`.
        into: The folder; it must not exist, or be empty.

    Returns:
        The files, in order.

    Raises:
        InvalidInput: The name cannot be one (code `invalid_name`).
        Conflict: There is something in the folder (code `folder_not_empty`).
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name of a {kind}: use lower-case letters, digits and _, a letter first, at most 32.",
            code="invalid_name",
            hint="af init plugin acme",
            field="name",
        )
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Conflict(
            f"{into} is there already, and nothing is overwritten.", code="folder_not_empty", hint="name another --into"
        )
    words = {
        "NAME": name,
        "TITLE": name.replace("_", " ").title(),
        "UPPER": name.upper(),
        "CLASS": name.replace("_", " ").title().replace(" ", ""),
        "DIST": f"agentfield-{name.replace('_', '-')}",
        "PACKAGE": f"agentfield_{name}",
    }
    written = []
    for parts, template in _templates(files(__name__) / kind):
        path = into.joinpath(*(_file_name(part, words) for part in parts))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(template.read_text(encoding="utf-8"), words), encoding="utf-8")
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


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda found: words[found[1]], text)
