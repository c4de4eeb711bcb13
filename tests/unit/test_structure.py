"""Packages stay small and documented. Import cycles and layers are checked by `lint-imports`."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from support.paths import ROOT

MAX_MODULES = 15
MAX_LINES = 450
MAX_MEDIAN = 150
MIN_DOCUMENTED = 0.95

LONG: dict[str, str] = {}
"""Modules that may be longer than `MAX_LINES`, each with its reason."""


@cache
def modules() -> dict[str, Path]:
    """Return the file of each module of the distributions, by dotted name."""
    found = {}
    for source in sorted(ROOT.glob("agentfield-*/src")):
        for path in source.rglob("*.py"):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax(path: Path) -> ast.Module:
    """Return the parsed source of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_folder_holds_too_many_modules() -> None:
    """A reader sees at most fifteen modules side by side."""
    folders = {path.parent for path in modules().values()} | {
        path.parent for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts
    }
    counts = {
        str(folder.relative_to(ROOT)): len([path for path in folder.glob("*.py") if not path.name.startswith("__")])
        for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_no_module_is_too_long() -> None:
    """Half of the modules have at most 150 lines, none more than 450 without a reason."""
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES and name not in LONG} == {}
    assert [name for name in LONG if lines.get(name, 0) <= MAX_LINES] == []
    assert statistics.median(lines.values()) <= MAX_MEDIAN


def test_the_public_code_is_documented() -> None:
    """At least 95 % of all public modules, classes and functions have a docstring, and every package has one."""
    documented = total = 0
    for name, path in modules().items():
        for node in public(syntax(path)):
            total += 1
            documented += ast.get_docstring(node) is not None
        if path.name == "__init__.py":
            assert ast.get_docstring(syntax(path)), name
    assert documented / total >= MIN_DOCUMENTED, f"{documented} of {total}"


def public(
    node: ast.Module | ast.ClassDef,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield a module or class and its public classes, functions and methods."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield child
