"""Packages stay small and free of circles: sizes, docstrings and imports of the six distributions."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterable, Iterator, Mapping
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


def imported_by(name: str) -> Iterator[str]:
    """Yield the modules that a module imports: anywhere in it, in functions and under `TYPE_CHECKING` too."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield from (each for each in (full if full in modules() else base,) if each in modules())


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Return what each module imports, itself excepted."""
    return {name: frozenset(imported_by(name)) - {name} for name in modules()}


def siblings(package: str) -> dict[str, set[str]]:
    """Return the imports between the direct members of a package, each with all that is below it."""
    prefix = f"{package}." if package else ""
    depth = len(prefix.split(".")) - 1

    def member(name: str) -> str | None:
        return ".".join(name.split(".")[: depth + 1]) if name.startswith(prefix) and name != package else None

    graph: dict[str, set[str]] = {}
    for name, others in imports().items():
        if source := member(name):
            graph.setdefault(source, set()).update(each for other in others if (each := member(other)))
    return {source: targets - {source} for source, targets in graph.items()}


def test_no_module_imports_itself_over_others() -> None:
    """Modules import each other in one direction."""
    assert circles(imports()) == []


def test_no_package_imports_itself_over_others() -> None:
    """The members of every package, taken with all that is below them, import each other in one direction."""
    packages = ["", *(name for name, path in modules().items() if path.name == "__init__.py")]
    assert {package: found for package in packages if (found := circles(siblings(package)))} == {}


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


def test_the_check_finds_circles() -> None:
    """A chain has no circle; a way back makes one of all that lies on it."""
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [["a", "b", "c"]]
